"""The backbone and its adapters as the page knows them: loaded in the background, then asked.

The model itself is in `Models`, mostly in another process; here nothing needs torch.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgclora.config import AdapterConfig, ConfigError
from cgclora.inference.request import Piece, Request
from cgclora.storage.atomic_io import recover_folders
from evals.tasks import TASKS
from ui.engine.client import BusyError, EngineError, Wait
from ui.engine.model_process import ModelEndedError, ModelProcess
from ui.engine.models import BackboneFacts, Models
from ui.engine.questions import (
    BARE,
    BARE_TOKENS,
    attach,
    label_shares,
    stream_answers,
    token_counts,
)
from ui.engine.settings import AppLimits
from ui.engine.task_gates import AdapterGates, TaskGates
from ui.engine.zero_gpu import ZERO_GPU
from ui.server.rates import Rates

COMPARED = "compare"
"""The folder of adapters that others are compared with."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """Progress of loading.

    Attributes:
        stage: The current step, as the loader names it.
        fraction: In [0, 1].
        ready: Whether the model can be asked.
        problem: Why loading failed; empty otherwise.
    """

    stage: str = ""
    fraction: float = 0.0
    ready: bool = False
    problem: str = ""


@dataclass
class AppEngine:
    """One backbone with N adapters.

    Attributes:
        folder: Holds one folder per adapter, named after its cluster. Those in its subfolder
            `COMPARED` are named `compare/...`; they answer beside others and are no clusters.
        models: Computes.
        trained: Holds training runs, whose adapters are clusters too; None if there are none.
        rates: The rate limit of each visitor.
        configs: Configurations of the adapters by name.
        manifests: Their manifests by name.
        problems: Why an adapter cannot be used, by name.
        status: Progress of loading.
        facts: Of the backbone; None until it is loaded.
        ending: Whether the server is shutting down.
    """

    folder: Path
    models: Models | ModelProcess
    trained: Path | None = None
    rates: Rates = field(default_factory=lambda: Rates(AppLimits.per_minute))
    configs: dict[str, AdapterConfig] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    status: Status = field(default_factory=Status)
    facts: BackboneFacts | None = None
    ending: bool = False
    _finished: threading.Event = field(default_factory=threading.Event)
    _paths: dict[str, Path] = field(default_factory=dict)
    _gates: dict[str, AdapterGates] = field(default_factory=dict)
    _refreshing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Read the configurations, which needs no model."""
        self._read_configs()

    def refresh(self) -> tuple[str, ...]:
        """Load adapters whose folders are new; returns their names.

        ZeroGPU needs a restart instead, see `ui.engine.zero_gpu`.
        """
        if ZERO_GPU:
            return ()
        with self._refreshing:
            new = self._read_configs()
            if self.status.ready:
                with suppress(ModelEndedError):  # then all are attached again
                    self._attach(new)
        return new

    def _read_configs(self) -> tuple[str, ...]:
        """Read the configurations of new adapter folders; returns their names."""
        new = {name: path for name, path in self._folders().items() if name not in self._paths}
        for name, path in new.items():
            try:
                # `read_manifest` checks more when it is attached, but needs torch.
                config = json.loads((path / "config.json").read_text("utf-8"))
                manifest = json.loads((path / "manifest.json").read_text("utf-8"))
                self.configs[name] = AdapterConfig.from_dict(config)
                self.manifests[name] = manifest
            except (OSError, ValueError, AttributeError, ConfigError) as error:
                self.problems[name] = self._message(error)
        self._paths.update(new)
        return tuple(new)

    def _folders(self) -> dict[str, Path]:
        """Adapter folders by name. A shipped adapter takes precedence over a trained one."""
        compared = {f"{COMPARED}/{path.name}": path for path in _subfolders(self.folder / COMPARED)}
        shipped = {path.name: path for path in _subfolders(self.folder) if path.name != COMPARED}
        runs = _subfolders(self.trained) if self.trained else ()
        for path in runs:
            recover_folders(path)
        trained = {path.name: path / "adapter" for path in runs if (path / "adapter").is_dir()}
        return {**trained, **shipped, **compared}

    def start(self) -> None:
        """Load everything on a background thread; on ZeroGPU on this one, see `zero_gpu`."""
        if ZERO_GPU:
            self._run()
        else:
            threading.Thread(target=self._run, name="load", daemon=True).start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until loading has ended; returns whether it has."""
        return self._finished.wait(seconds)

    def clusters(self) -> tuple[str, ...]:
        """Names of the adapters that visitors choose from: medical and general first."""
        return tuple(name for name in self.adapters() if not name.startswith(f"{COMPARED}/"))

    def adapters(self) -> tuple[str, ...]:
        """Names of all usable adapters: the clusters' and those to compare with."""
        names = dict.fromkeys(["medical", "general", *sorted(self.configs)])
        usable = self._gates if self.status.ready else self.configs  # a new one takes a moment
        return tuple(name for name in names if name in usable and name not in self.problems)

    def rivals(self, cluster: str, task: str) -> tuple[str, ...]:
        """Names of the other adapters that know a task."""
        return tuple(
            name for name in self.adapters() if name != cluster and task in self.configs[name].tasks
        )

    def path(self, name: str) -> Path:
        """The folder of an adapter."""
        return self._paths[name]

    def tasks(self, cluster: str) -> tuple[str, ...]:
        """A cluster's tasks: the project's in their own order, then the others."""
        tasks = self.configs[cluster].tasks
        return tuple(sorted(tasks, key=lambda task: [*TASKS, task].index(task)))

    def knows(self, cluster: str | None, task: str | None) -> bool:
        """Whether the cluster can be chosen and has this task."""
        return cluster in self.clusters() and task in self.tasks(str(cluster))

    def find(self, task: str, cluster: str = "") -> str:
        """The cluster of a task.

        Raises:
            EngineError: No usable adapter knows the task.
        """
        for name in (cluster,) if cluster else self.clusters():
            if self.knows(name, task):
                return name
        tasks = "; ".join(f"{name} knows {', '.join(self.tasks(name))}" for name in self.clusters())
        raise EngineError(
            f"no adapter {f'named {cluster!r} ' if cluster else ''}knows the task {task!r}: "
            f"{tasks or 'there is none'}."
        )

    def request(
        self,
        name: str,
        task: str,
        prompt: str,
        max_new_tokens: int,
        choices: tuple[str, ...] | None = None,
    ) -> Request:
        """A request within this server's limits.

        Args:
            name: Of the adapter, or `BARE`, whose answers are short.
            task: One of the adapter's tasks.
            prompt: The whole prompt.
            max_new_tokens: Longest answer; the server's own limit applies, too.
            choices: Allowed answers; None leaves the answer free.

        Raises:
            EngineError: The model is not loaded, or the prompt is too long.
            DecodingError: The choices are empty.
        """
        cluster = None if name == BARE else name
        self.check(cluster)
        if len(prompt) > self.limits.characters:
            raise EngineError(
                f"the prompt has {len(prompt)} characters, at most {self.limits.characters} are "
                "read: shorten it."
            )
        most = max(1, min(max_new_tokens, self.limits.answer_tokens))
        if cluster is None:
            return Request(None, prompt, min(most, BARE_TOKENS), choices=choices)
        return Request(task, prompt, most, choices=choices, cluster=cluster)

    def ask(self, requests: Sequence[Request]) -> Generator[Piece | Wait]:
        """Stream the answers, batched with other visitors' requests; closing it cancels them.

        The index of a piece is that of its request. While none comes, `Wait` gives the position
        in the queue.

        Raises:
            BusyError: The queue is full, or the server is shutting down.
            EngineError: The model is not loaded, or the answers take too long.
            DecodingError, ConfigError: A request cannot be answered.
        """
        self.check()
        if self.ending:
            raise BusyError("the server is shutting down. Ask again in 60 s.")
        seconds = self.limits.answer_seconds
        with closing(self.models.run(stream_answers, requests, seconds)) as pieces:
            yield from pieces

    @property
    def limits(self) -> AppLimits:
        """Largest prompts, answers and queues."""
        return self.models.limits

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self.models.waiting

    @property
    def seconds_until_room(self) -> int:
        """When to retry after the queue was full."""
        return self.models.seconds_until_room

    def end(self, seconds: float) -> None:
        """Take no more requests, and finish those in progress within so many seconds."""
        self.ending = True
        self.models.end(seconds)

    def label_probabilities(self, request: Request, labels: Sequence[str]) -> list[float]:
        """The probability of each label as the answer; they add up to 1.

        Raises:
            EngineError: The model is not loaded.
            DecodingError, ConfigError: The request cannot be answered.
        """
        self.check(request.cluster)
        (shares,) = self.models.run(label_shares, request, labels)
        return shares

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, without start and end token; raises as `check`."""
        self.check()
        (counts,) = self.models.run(token_counts, texts)
        return counts

    def gates(self, cluster: str, task: str) -> TaskGates:
        """The gate of a task; raises as `check`, and ConfigError for an unknown task."""
        return self.all_gates(cluster).of(task)

    def all_gates(self, cluster: str) -> AdapterGates:
        """The gates of all tasks of an adapter; raises as `check`."""
        self.check(cluster)
        return self._gates[cluster]

    def check(self, name: str | None = None) -> None:
        """Check that the model can be asked, and that it has the adapter `name`. Never waits.

        Raises:
            EngineError: It is not loaded yet, or cannot be used.
        """
        # Waiting here would occupy all of the server's threads.
        if self.status.problem:
            raise EngineError(f"the model could not be loaded: {self.status.problem}")
        if not self.status.ready:
            raise EngineError(
                f"the model is still loading ({self.status.fraction:.0%}): ask again in a few "
                "seconds."
            )
        if name is not None and name not in self._gates:
            reason = self.problems.get(name, "there is no such folder")
            raise EngineError(f"the adapter {name!r} cannot be used: {reason}")

    def _run(self) -> None:
        while True:
            self._load()
            if not (self.status.ready and isinstance(self.models, ModelProcess)):
                return
            self.models.watch()
            _log.error("the model's process has ended, and is started again")
            self._finished.clear()
            self.status = Status()
            self._gates.clear()

    def _load(self) -> None:
        try:
            self.facts = self.models.load(self._report)
            with self._refreshing:
                self._attach(self.configs)
                self.status = Status("", 1.0, ready=True)
        except Exception as error:  # any error must end the wait
            if not isinstance(error, EngineError):  # of the model's process, which logs its own
                _log.exception("the model could not be loaded")
            self.status = Status(problem=self._message(error))
        finally:
            self._finished.set()

    def _attach(self, names: Iterable[str]) -> None:
        """Load adapters; a damaged one does not stop the others."""
        for name in names:
            if name not in self.problems:
                try:
                    (self._gates[name],) = self.models.run(attach, name, self._paths[name])
                except ModelEndedError:
                    raise
                except EngineError as error:
                    self.problems[name] = self._message(error)

    def _report(self, stage: str, fraction: float) -> None:
        self.status = Status(stage, fraction)

    def _message(self, error: Exception) -> str:
        """An error's message without the paths of the server's folders."""
        message = str(error)
        for folder in filter(None, (self.folder, self.trained)):
            message = message.replace(f"{folder}{os.sep}", "")
        return message


def _subfolders(folder: Path) -> list[Path]:
    """The folders within a folder, except hidden ones."""
    recover_folders(folder)
    paths = sorted(folder.glob("*/")) if folder.is_dir() else []
    return [path for path in paths if not path.name.startswith(".")]
