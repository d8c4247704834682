"""The backbone and its adapters, loaded on a background thread, and who answers a question.

What needs torch is imported on that thread, so that the page is there before torch is.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.config import AdapterConfig, ConfigError
from cgclora.storage.atomic_io import recover_folders
from evals.tasks import TASKS
from ui.engine.client import BusyError, EngineError, Wait, ask
from ui.engine.questions import BARE, Question, answers, label_shares, requests_of
from ui.engine.rates import Rates
from ui.engine.settings import Limits
from ui.engine.task_gates import AdapterGates, TaskGates
from ui.engine.zero_gpu import ZERO_GPU, Inherited, to_gpu

if TYPE_CHECKING:
    from cgclora.adapter import Adapter
    from cgclora.inference.multi_adapter import Clusters
    from cgclora.inference.request import Piece
    from cgclora.models.backbone import Backbone
    from cgclora.serving.scheduler import Batcher

COMPARED = "compare"
"""The folder of adapters that are there to be compared with."""

Progress = Callable[[str, float], None]
Load = Callable[[Progress], "Backbone"]

_SECONDS_UNTIL_ROOM = 2
"""As long as nothing is known: while the model is loading, and on ZeroGPU."""

_log = logging.getLogger(__name__)


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


@dataclass
class Engine(Inherited):
    """One backbone, N adapters.

    Attributes:
        folder: Holds a folder for each adapter; its name is the cluster's. Those in its folder
            `COMPARED` are named `compare/...`; they stand beside others, and are no clusters.
        load: Loads the backbone.
        trained: Holds training runs, whose adapters are clusters too; None if there are none.
        limits: What is taken on.
        rates: How often each visitor may ask.
        configs: The adapters that are there, by name.
        manifests: What their folders say of them, by name; empty where nothing can be read.
        problems: Why an adapter cannot be used, by name.
        status: How far loading has come.
    """

    folder: Path
    load: Load
    trained: Path | None = None
    limits: Limits = field(default_factory=Limits)
    rates: Rates = field(default_factory=lambda: Rates(Limits.per_minute))
    configs: dict[str, AdapterConfig] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    status: Status = field(default_factory=Status)
    _clusters: Clusters | None = None
    _batcher: Batcher | None = None
    _ending: bool = False
    _finished: threading.Event = field(default_factory=threading.Event)
    _paths: dict[str, Path] = field(default_factory=dict)
    _gates: dict[str, AdapterGates] = field(default_factory=dict)
    _refreshing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Read the configs, which takes no model."""
        self._look()

    def refresh(self) -> tuple[str, ...]:
        """Take in adapters that are there since the last look; returns their names.

        On ZeroGPU none joins, see `ui.engine.zero_gpu`: a restart takes them in.
        """
        if ZERO_GPU:
            return ()
        with self._refreshing:
            new = self._look()
            if self._clusters is not None and self.status.ready:
                self._attach(self._clusters, new)
        return new

    def _look(self) -> tuple[str, ...]:
        """Read the configs of adapters that are not known yet."""
        new = {name: path for name, path in self._found().items() if name not in self._paths}
        for name, path in new.items():
            try:
                # `read_manifest` checks more, on the thread that has torch.
                config, manifest = _json(path / "config.json"), _json(path / "manifest.json")
                self.configs[name] = AdapterConfig.from_dict(config)
                self.manifests[name] = manifest
            except (OSError, ValueError, AttributeError, ConfigError) as error:
                self.problems[name] = self._words(error)
        self._paths.update(new)
        return tuple(new)

    def _found(self) -> dict[str, Path]:
        """Folders of adapters by name. A shipped one keeps its name before a trained one."""
        compared = {f"{COMPARED}/{path.name}": path for path in _folders(self.folder / COMPARED)}
        shipped = {path.name: path for path in _folders(self.folder) if path.name != COMPARED}
        runs = _folders(self.trained) if self.trained else ()
        for path in runs:
            recover_folders(path)
        trained = {path.name: path / "adapter" for path in runs if (path / "adapter").is_dir()}
        return {**trained, **shipped, **compared}

    def start(self) -> None:
        """Load everything: on a thread of its own, on ZeroGPU here and now, see `zero_gpu`."""
        if ZERO_GPU:
            self._run()
            return
        threading.Thread(target=self._run, name="load", daemon=True).start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until loading has ended, well or not; returns whether it has."""
        return self._finished.wait(seconds)

    def clusters(self) -> tuple[str, ...]:
        """Names of the adapters that can be chosen: medical and general first."""
        return tuple(name for name in self.adapters() if not name.startswith(f"{COMPARED}/"))

    def adapters(self) -> tuple[str, ...]:
        """Names of all adapters that can be used: the clusters' and those to compare with."""
        known = [name for name in ("medical", "general") if name in self.configs]
        usable = dict.fromkeys([*known, *sorted(self.configs)])
        resident = self._clusters.adapters if self._clusters and self.status.ready else None
        there = self.configs if resident is None else resident  # a new one takes a moment
        return tuple(name for name in usable if name in there and name not in self.problems)

    def rivals(self, cluster: str, task: str) -> tuple[str, ...]:
        """Names of the other adapters that know a task."""
        return tuple(
            name for name in self.adapters() if name != cluster and task in self.configs[name].tasks
        )

    def path(self, name: str) -> Path:
        """The folder of an adapter."""
        return self._paths[name]

    @property
    def backbone(self) -> Backbone | None:
        """What is adapted, once all is loaded."""
        return self._clusters.backbone if self._clusters and self.status.ready else None

    def tasks(self, cluster: str) -> tuple[str, ...]:
        """A cluster's tasks: those we know in our own order, then the others."""
        own = self.configs[cluster].tasks
        return (
            *(task for task in TASKS if task in own),
            *(task for task in own if task not in TASKS),
        )

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
        known = {name: ", ".join(self.tasks(name)) for name in self.clusters()}
        raise EngineError(
            f"no adapter {f'named {cluster!r} ' if cluster else ''}knows the task {task!r}: "
            + (
                "; ".join(f"{name} knows {tasks}" for name, tasks in known.items())
                or "there is none"
            )
            + "."
        )

    def ask(self, question: Question) -> Generator[Piece | Wait]:
        """Answer as a stream, in one batch with what others ask; closing it stops the work.

        Piece index 0 is the adapted answer, the others follow in the order of `beside`. Now and
        then, while none comes, how many questions are before this one.

        Raises:
            BusyError: Too many questions wait, or the server is about to end.
            EngineError: The model is not loaded, the prompt is too long, or the answer takes too
                long.
            DecodingError, ConfigError: The request cannot be answered.
        """
        for name in (question.cluster, *question.beside):
            if name != BARE:
                self.loaded(name)
        self.check_length(question.prompt)
        if self._ending:
            raise BusyError("the server is about to end. Ask again in 60 s.")
        if self._batcher is None:  # on ZeroGPU a call is a fork of its own
            yield from answers(self, question)
            return
        requests = requests_of(question, self.limits.answer_tokens)
        yield from ask(self._batcher, requests, self.limits.answer_seconds)

    @property
    def waiting(self) -> int:
        """How many questions wait."""
        return self._batcher.waiting if self._batcher else 0

    @property
    def seconds_until_room(self) -> int:
        """When whoever finds no room should ask again."""
        return self._batcher.seconds_until_room if self._batcher else _SECONDS_UNTIL_ROOM

    @property
    def ending(self) -> bool:
        """Whether no more questions are taken."""
        return self._ending

    def end(self, seconds: float) -> None:
        """Take no more questions, and let those that were taken end within so many seconds."""
        self._ending = True
        if self._batcher is not None:
            self._batcher.drain(seconds)

    def label_probabilities(self, question: Question, labels: Sequence[str]) -> list[float]:
        """How likely each label is, for an adapter or, as the question's cluster, `BARE`.

        Returns:
            A probability a label; their sum is 1.

        Raises:
            EngineError: The model is not loaded, or the prompt is too long.
            DecodingError, ConfigError: The request cannot be answered.
        """
        self.loaded(self.adapters()[0] if question.cluster == BARE else question.cluster)
        self.check_length(question.prompt)
        (shares,) = label_shares(self, question, labels)
        return shares

    def gates(self, cluster: str, task: str) -> TaskGates:
        """The gate of a task.

        Raises:
            EngineError: The model is not loaded.
            ConfigError: The task is unknown.
        """
        return self.all_gates(cluster).of(task)

    def all_gates(self, cluster: str) -> AdapterGates:
        """The gates of all tasks of an adapter.

        Raises:
            EngineError: The model is not loaded.
        """
        _, adapter = self.loaded(cluster)
        return self._gates.get(cluster) or _gates_of(adapter)

    def loaded(self, name: str) -> tuple[Backbone, Adapter]:
        """The backbone and one of its adapters. Never waits.

        Raises:
            EngineError: They are not there yet, or cannot be used.
        """
        backbone, clusters = self.resident(name)
        return backbone, clusters.adapters[name]

    def check_length(self, prompt: str) -> None:
        """Refuse a prompt that is too long to be read here.

        Raises:
            EngineError: It has more characters than the limits allow.
        """
        if len(prompt) > self.limits.characters:
            raise EngineError(
                f"the prompt has {len(prompt)} characters, at most {self.limits.characters} are "
                "read: shorten it."
            )

    def resident(self, name: str) -> tuple[Backbone, Clusters]:
        """The backbone and its adapters, this one among them; otherwise as `loaded`."""
        # Those who wait would hold all of the server's threads.
        now = self.status
        if now.problem:
            raise EngineError(f"the model could not be loaded: {now.problem}")
        if self._clusters is None or not now.ready:
            raise EngineError(
                f"the model is still loading ({now.fraction:.0%}): ask again in a few seconds."
            )
        if name not in self._clusters.adapters:
            reason = self.problems.get(name, "there is no such folder")
            raise EngineError(f"the adapter {name!r} cannot be used: {reason}")
        return self._clusters.backbone, self._clusters

    def _run(self) -> None:
        try:
            backbone = self.load(self._report)
            from cgclora.inference.multi_adapter import Clusters  # noqa: PLC0415 - slow, see above

            self._clusters = Clusters(backbone)
            with self._refreshing:
                self._attach(self._clusters, self.configs)
                if not ZERO_GPU:
                    self._batcher = self._answering(self._clusters)
                self.status = Status("", 1.0, ready=True)
        except Exception as error:  # whatever it is, a page that waits for ever says less
            _log.exception("the model could not be loaded")
            self.status = Status(problem=self._words(error))
        finally:
            self._finished.set()

    def _answering(self, clusters: Clusters) -> Batcher:
        """Whoever answers, at work."""
        from cgclora.serving.scheduler import Batcher, Limits  # noqa: PLC0415 - slow, see above

        limits = Limits(
            batch_size=self.limits.at_once,
            queue=self.limits.waiting,
            prompt_tokens=self.limits.prompt_tokens,
            answer_tokens=self.limits.answer_tokens,
        )
        return Batcher(clusters.backbone, clusters, limits).__enter__()

    def _attach(self, clusters: Clusters, names: Iterable[str]) -> None:
        """Load adapters; what is wrong with one is its own problem."""
        from cgclora.storage.adapter_dir import AdapterError  # noqa: PLC0415 - slow, see above

        for name in names:
            if name in self.problems:
                continue
            try:
                self._gates[name] = _gates_of(clusters.add(name, self._paths[name]))
            except Exception as error:  # whatever it is, the others shall work
                if not isinstance(error, AdapterError | ConfigError):
                    _log.exception("the adapter %s cannot be used", name)
                self.problems[name] = self._words(error)

    def _report(self, stage: str, fraction: float) -> None:
        self.status = Status(stage, fraction)

    def _words(self, error: Exception) -> str:
        """An error's words, without the path of the server's folder."""
        words = str(error)
        for folder in filter(None, (self.folder, self.trained)):
            words = words.replace(f"{folder}{os.sep}", "")
        return words


def _gates_of(adapter: Adapter) -> AdapterGates:
    weights = adapter.gates().double().cpu().numpy()
    return AdapterGates(adapter.config, tuple(adapter.layers), weights)


def _json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _folders(folder: Path) -> list[Path]:
    """What lies in a folder and is a folder, too; hidden ones aside."""
    recover_folders(folder)
    found = sorted(folder.glob("*/")) if folder.is_dir() else []
    return [path for path in found if not path.name.startswith(".")]


def loader(source: str | None, *, int8: bool = True) -> Load:
    """How to load a backbone: a local folder, a hub id, or None for the embedded one.

    Args:
        source: The backbone.
        int8: See `load_backbone`.
    """

    def load(progress: Progress) -> Backbone:
        from cgclora.inference.runtime import Runtime  # noqa: PLC0415 - slow, see above
        from cgclora.models.backbone import EMBEDDED, load_backbone  # noqa: PLC0415

        if not ZERO_GPU:
            backbone = load_backbone(source or EMBEDDED, int8=int8, progress=progress)
            if backbone.int8:
                progress("packing the weights", 0.9)
                Runtime.of(backbone).warm_up()
            return backbone
        # The weights are read on threads that do not see the device, so they go there afterwards.
        found = load_backbone(source or EMBEDDED, device="cpu", dtype="bfloat16", progress=progress)
        to_gpu(found)
        return found

    return load
