"""The backbone and its adapters, loaded on a background thread, and who answers a question.

What needs torch is imported on that thread, so that the page is there before torch is.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cgclora.config import AdapterConfig, ConfigError
from evals.tasks import TASKS
from ui.gates import TaskGates

if TYPE_CHECKING:
    from cgclora.adapter import Adapter
    from cgclora.backbone import Backbone
    from cgclora.decoding import Piece

MAX_CHARACTERS = 6000
"""Longest prompt that is read."""

MAX_TOKENS = 512
"""Longest answer that may be asked for."""

BARE_TOKENS = 64
"""Longest answer of the bare backbone, which seldom ends by itself."""

Progress = Callable[[str, float], None]
Load = Callable[[Progress], "Backbone"]

_log = logging.getLogger(__name__)


class EngineError(RuntimeError):
    """A question that cannot be answered here; the message says why and what to do."""


@dataclass(frozen=True)
class Status:
    """How far loading has come.

    Attributes:
        stage: What is being done, in the words of the loader.
        fraction: In [0, 1].
        ready: Whether questions are answered at once.
        problem: Why loading failed; empty otherwise.
    """

    stage: str = ""
    fraction: float = 0.0
    ready: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Question:
    """One question to an adapter and, beside it, to the bare backbone.

    Attributes:
        cluster: The adapter's name.
        task: One of its tasks.
        prompt: The whole prompt.
        max_new_tokens: Most tokens of the adapted answer.
        choices: What the answer must be one of; None leaves it free.
        beside_bare: Whether the bare backbone answers too, as the second of the batch.
    """

    cluster: str
    task: str
    prompt: str
    max_new_tokens: int
    choices: tuple[str, ...] | None = None
    beside_bare: bool = True


@dataclass
class Engine:
    """One backbone, N adapters.

    Attributes:
        folder: Holds a folder for each adapter; its name is the cluster's.
        load: Loads the backbone.
        configs: The adapters that are there, by cluster.
        problems: Why an adapter cannot be used, by cluster.
        status: How far loading has come.
    """

    folder: Path
    load: Load
    configs: dict[str, AdapterConfig] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    status: Status = field(default_factory=Status)
    _adapters: dict[str, Adapter] = field(default_factory=dict)
    _backbone: Backbone | None = None
    _finished: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Read the configs, which takes no model."""
        for path in sorted(self.folder.glob("*/")) if self.folder.is_dir() else ():
            if path.name.startswith("."):
                continue
            try:
                # `read_manifest` checks more, on the thread that has torch.
                values = json.loads((path / "config.json").read_text(encoding="utf-8"))
                self.configs[path.name] = AdapterConfig.from_dict(values)
            except (OSError, ValueError, AttributeError, ConfigError) as error:
                self.problems[path.name] = self._words(error)

    def start(self) -> None:
        """Load everything on a thread of its own."""
        threading.Thread(target=self._run, name="load", daemon=True).start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until loading has ended, well or not; returns whether it has."""
        return self._finished.wait(seconds)

    def clusters(self) -> tuple[str, ...]:
        """Names of the adapters that can be used: medical and general first."""
        known = [name for name in ("medical", "general") if name in self.configs]
        usable = dict.fromkeys([*known, *self.configs])
        return tuple(name for name in usable if name not in self.problems)

    def tasks(self, cluster: str) -> tuple[str, ...]:
        """A cluster's tasks: those we know in our own order, then the others."""
        own = self.configs[cluster].tasks
        return (
            *(task for task in TASKS if task in own),
            *(task for task in own if task not in TASKS),
        )

    def find(self, task: str, cluster: str = "") -> str:
        """The cluster of a task.

        Raises:
            EngineError: No usable adapter knows the task.
        """
        for name in (cluster,) if cluster else self.clusters():
            if name in self.clusters() and task in self.tasks(name):
                return name
        known = {name: ", ".join(self.tasks(name)) for name in self.clusters()}
        raise EngineError(
            f"no adapter {f'named {cluster!r} ' if cluster else ''}knows the task {task!r}: "
            + (
                "; ".join(f"{name} knows {tasks}" for name, tasks in known.items())
                or "there is none"
            )
            + "."
        )

    def ask(self, question: Question) -> Generator[Piece]:
        """Answer as a stream; closing it stops the work.

        Piece index 0 is the adapted answer, 1 the bare backbone's.

        Raises:
            EngineError: The model is not loaded, or the prompt is too long.
            DecodingError, ConfigError: The request cannot be answered.
        """
        backbone, adapter = self._loaded(question.cluster)
        from cgclora.decoding import Request, stream  # noqa: PLC0415 - torch is loaded by now

        if len(question.prompt) > MAX_CHARACTERS:
            raise EngineError(
                f"the prompt has {len(question.prompt)} characters, at most {MAX_CHARACTERS} are "
                "read: shorten it."
            )
        most = max(1, min(question.max_new_tokens, MAX_TOKENS))
        requests = [Request(question.task, question.prompt, most, choices=question.choices)]
        if question.beside_bare:
            bare = min(most, BARE_TOKENS)
            requests.append(Request(None, question.prompt, bare, choices=question.choices))
        yield from stream(backbone, requests, adapter)

    def gates(self, cluster: str, task: str) -> TaskGates:
        """The gate of a task.

        Raises:
            EngineError: The model is not loaded.
            ConfigError: The task is unknown.
        """
        _, adapter = self._loaded(cluster)
        config = adapter.config
        index = config.task_index(task)
        usable = [place for place, allowed in enumerate(config.access()[index]) if allowed]
        weights = adapter.gates()[:, index, usable].double().cpu().numpy()
        return TaskGates(task, tuple(adapter.layers), weights, config.common)

    def _loaded(self, cluster: str) -> tuple[Backbone, Adapter]:
        # Never waits: those who wait would hold all of the server's threads.
        now = self.status
        if now.problem:
            raise EngineError(f"the model could not be loaded: {now.problem}")
        if self._backbone is None or not now.ready:
            raise EngineError(
                f"the model is still loading ({now.fraction:.0%}): ask again in a few seconds."
            )
        if cluster not in self._adapters:
            reason = self.problems.get(cluster, "there is no such folder")
            raise EngineError(f"the adapter {cluster!r} cannot be used: {reason}")
        return self._backbone, self._adapters[cluster]

    def _run(self) -> None:
        try:
            from cgclora.adapter import Adapter  # noqa: PLC0415 - slow, see above
            from cgclora.storage import AdapterError  # noqa: PLC0415

            self._backbone = self.load(self._report)
            for name in self.configs:
                try:
                    self._adapters[name] = Adapter.load(
                        self.folder / name, self._backbone
                    ).for_inference()
                except (AdapterError, ConfigError) as error:
                    self.problems[name] = self._words(error)
            self.status = Status("", 1.0, ready=True)
        except Exception as error:  # whatever it is, a page that waits for ever says less
            _log.exception("the model could not be loaded")
            self.status = Status(problem=self._words(error))
        finally:
            self._finished.set()

    def _report(self, stage: str, fraction: float) -> None:
        self.status = Status(stage, fraction)

    def _words(self, error: Exception) -> str:
        """An error's words, without the path of the server's folder."""
        return str(error).replace(f"{self.folder}{os.sep}", "")


def loader(source: str | None) -> Load:
    """How to load a backbone: a local folder, a hub id, or None for the embedded one."""

    def load(progress: Progress) -> Backbone:
        from cgclora.backbone import EMBEDDED, load_backbone  # noqa: PLC0415 - slow, see above

        return load_backbone(source or EMBEDDED, progress=progress)

    return load
