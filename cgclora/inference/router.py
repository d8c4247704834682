"""Which task, and so which cluster, a prompt is for when its request names none.

    router = TaskRouter.fit({"NER": prompts, "Summary": others})     # with an adapter, of its tasks
    router.save("my-adapter")                                        # beside its weights
    joined = TaskRouter.join({"medical": TaskRouter.load(a), "general": TaskRouter.load(b)})
    joined.route("找出句子中的人名：…")[0]     # RoutedTask(cluster="general", task="NER", ...)

Every task is a language model of its own prompts: a multinomial over the hashed features of
`cgclora.data.text_features`, smoothed towards the uniform background that all routers share
(Jelinek-Mercer, Zhai and Lafferty 2004). A prompt's score is its log likelihood ratio to that
background, in nats, and asks nothing of other tasks. So scores of routers that were fitted apart
can be compared, and a cluster that comes or goes adds or removes its rows and changes no other.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cgclora.config import ConfigError
from cgclora.data.records import DataError
from cgclora.data.text_features import BUCKETS, FloatArray, IntArray, features
from cgclora.storage import adapter_dir
from cgclora.storage.adapter_dir import ROUTER_FILE, AdapterError

FORMAT = 1
"""Of the file; another one means other features, another smoothing or another probability."""

SURE = 0.5
"""A task with at least this probability may be taken without asking."""

_ARRAYS = ("weights", "scales", "usual", "spread")

_BACKGROUND = 0.1  # its weight in a task's model, chosen on dev
_TEMPERATURE = 0.5  # of the softmax: one for all routers, so that their tasks compare
_LIMIT = -3.0  # spreads from the usual score where a prompt is as likely of no task, chosen on dev
_STEEPNESS = 4.0
_LEAST_SPREAD = 0.1  # of the usual score, and 1 nat; a task of like prompts has next to none

Features = tuple[IntArray, FloatArray]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RoutedTask:
    """A task that a prompt may be for.

    Attributes:
        cluster: The name that its router was joined under.
        task: Its name.
        probability: In [0, 1]. Those of all tasks sum to 1 at most; the rest says "none of them".
    """

    cluster: str
    task: str
    probability: float


@dataclass(frozen=True, eq=False)
class TaskRouter:
    """What an adapter's folder knows of its T tasks' prompts.

    Attributes:
        tasks: Their names.
        weights: int8 [T, B]: log likelihood ratios of the B hash buckets, in steps.
        scales: float32 [T]: what a step is worth, in nats.
        usual: float32 [T]: mean score of a task's own prompts, each left out of its model.
        spread: float32 [T]: their standard deviation, or a tenth of the mean if that is more.
    """

    tasks: tuple[str, ...]
    weights: npt.NDArray[np.int8]
    scales: Floats
    usual: Floats
    spread: Floats

    def __post_init__(self) -> None:
        number = len(self.tasks)
        shapes = ((number, BUCKETS), (number,), (number,), (number,))
        kinds = (np.int8, np.float32, np.float32, np.float32)
        arrays = (self.weights, self.scales, self.usual, self.spread)
        if (
            len(set(self.tasks)) != number
            or tuple(array.shape for array in arrays) != shapes
            or tuple(array.dtype.type for array in arrays) != kinds
        ):
            raise AdapterError(
                f"a router of the tasks {list(self.tasks)} has arrays of shapes {shapes}: fit anew."
            )

    @classmethod
    def fit(cls, prompts: Mapping[str, Sequence[str]]) -> Self:
        """A router from prompts by task. Prompts that recur count once.

        Raises:
            DataError: There is no task, or a task has no prompt.
        """
        if not prompts:
            raise DataError("there is no task to fit a router on: give prompts of one at least.")
        if empty := [task for task, own in prompts.items() if not any(p.strip() for p in own)]:
            raise DataError(f"a router needs prompts of every task, there are none of {empty}.")
        rows = [_fit_task([features(p) for p in dict.fromkeys(own)]) for own in prompts.values()]
        weights = np.stack([row for row, _ in rows])
        scales = (np.abs(weights).max(axis=1) / 127).astype(np.float32)
        usual = np.array([own.mean() for _, own in rows])
        spread = np.maximum([own.std() for _, own in rows], np.maximum(_LEAST_SPREAD * usual, 1))
        return cls(
            tuple(prompts),
            np.round(weights / scales[:, None]).astype(np.int8),
            scales,
            usual.astype(np.float32),
            spread.astype(np.float32),
        )

    def take(self, tasks: Sequence[str]) -> Self:
        """The router of some of its tasks only."""
        rows = [row for row, task in enumerate(self.tasks) if task in tasks]
        arrays = (getattr(self, name)[rows] for name in _ARRAYS)
        return type(self)(tuple(self.tasks[row] for row in rows), *arrays)

    def plus(self, other: TaskRouter) -> Self:
        """The router of its tasks and another's."""
        arrays = (np.concatenate([getattr(one, name) for one in (self, other)]) for name in _ARRAYS)
        return type(self)(self.tasks + other.tasks, *arrays)

    def to_bytes(self) -> bytes:
        """The router's file."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        about = {"format": FORMAT, "tasks": list(self.tasks)}
        # One entry: the order of several in a safetensors file is left to chance.
        return save(arrays, metadata={"router": json.dumps(about, ensure_ascii=False)})

    def to_files(self) -> dict[str, bytes]:
        """Its file by name, for `Adapter.files`."""
        return {ROUTER_FILE: self.to_bytes()}

    def save(self, folder: str | Path, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Put the router beside a saved adapter, in the place of an older one.

        Args:
            folder: The adapter's.
            facts: What the manifest shall say of the router, as `router`.

        Returns:
            The manifest.

        Raises:
            AdapterError: The folder holds no adapter, a damaged one, or one of other tasks.
        """
        _, config = adapter_dir.read_manifest(folder)
        self.check(config.tasks, str(folder))
        return adapter_dir.replace_router(folder, self.to_bytes(), facts or {})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The router of a saved adapter.

        Raises:
            AdapterError: The folder holds no adapter, a damaged one, or one without a router.
        """
        manifest, config = adapter_dir.read_manifest(folder)
        files = adapter_dir.read_files(folder, manifest)
        if (router := cls.of(files, config.tasks, str(folder))) is None:
            raise AdapterError(
                f"{folder} has no router, so its tasks must be named: fit one with "
                f"python -m cgclora router fit --adapter {folder} --data train.jsonl"
            )
        return router

    @classmethod
    def of(cls, files: Mapping[str, bytes], tasks: Sequence[str], name: str) -> Self | None:
        """The router among an adapter's files (`Adapter.files`); None if there is none.

        Args:
            files: By name, as `to_files` gave them.
            tasks: The adapter's.
            name: The adapter's, for messages.

        Raises:
            AdapterError: The file is damaged, of another format, or of other tasks.
        """
        if (content := files.get(ROUTER_FILE)) is None:
            return None
        try:
            (size,) = struct.unpack_from("<Q", content)
            metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
            about = json.loads(metadata.get("router", "{}"))
            if about.get("format") != FORMAT:
                raise AdapterError(
                    f"{ROUTER_FILE} of {name} has format {about.get('format')!r}, this version "
                    f"reads {FORMAT}: update cgclora, or fit the router anew."
                )
            arrays: dict[str, Any] = load(content)
            router = cls(tuple(about["tasks"]), **arrays)
        except (SafetensorError, struct.error, ValueError, KeyError, TypeError) as error:
            raise AdapterError(f"{ROUTER_FILE} of {name} is damaged: {error!r}.") from error
        router.check(tasks, name)
        return router

    def check(self, tasks: Sequence[str], name: str) -> None:
        """Make sure that the router is of an adapter's tasks.

        Raises:
            AdapterError: It lacks some, or knows others.
        """
        if set(self.tasks) != set(tasks):
            raise AdapterError(
                f"the router knows the tasks {sorted(self.tasks)}, the adapter {name} "
                f"{sorted(tasks)}: fit the router on prompts of the adapter's tasks."
            )

    @staticmethod
    def join(routers: Mapping[str, TaskRouter]) -> JoinedRouter:
        """A router among all tasks of several, by the names of their clusters.

        Raises:
            ConfigError: There is none.
        """
        if not routers:
            raise ConfigError("no cluster has a router: name the task of each request.")
        return JoinedRouter(routers)


class JoinedRouter:
    """Routes among the tasks of one or several clusters; made by `TaskRouter.join`.

    Attributes:
        tasks: Cluster and name of each task.
    """

    def __init__(self, routers: Mapping[str, TaskRouter]) -> None:
        self.tasks = [(name, task) for name, one in routers.items() for task in one.tasks]
        same: dict[str, list[int]] = {}
        for place, (_, task) in enumerate(self.tasks):
            same.setdefault(task, []).append(place)
        self._places = list(same.values())
        parts = routers.values()
        # A prompt reads a few hundred rows of it, each in one piece.
        self._weights = np.ascontiguousarray(np.concatenate([one.weights for one in parts]).T)
        self._scales = np.concatenate([one.scales for one in parts])
        self._usual = np.concatenate([one.usual for one in parts])
        self._spread = np.concatenate([one.spread for one in parts])

    def probabilities(self, prompts: Iterable[str]) -> Floats:
        """Of each prompt and task, [N, T], in the order of `tasks`; a row sums to 1 at most.

        The softmax over the scores says which task it is if it is one of them; how far the best
        score lies below that task's usual one says whether it is.

        Raises:
            DataError: A prompt is empty.
        """
        scores = self._scores(prompts)
        found: Floats = self._fits(scores)[:, None] * _shares(scores)
        return found

    def route(self, prompt: str) -> list[RoutedTask]:
        """All tasks of all clusters, the likeliest first.

        A task that several clusters know comes where their probabilities together put it, and among
        them the cluster first where it is likeliest.

        Raises:
            DataError: The prompt is empty.
        """
        return self.route_all([prompt])[0]

    def route_all(self, prompts: Iterable[str]) -> list[list[RoutedTask]]:
        """`route` for each of several prompts."""
        scores = self._scores(prompts)
        shares = _shares(scores)
        together = np.empty_like(shares)
        for places in self._places:
            together[:, places] = shares[:, places].sum(axis=1, keepdims=True)
        # By score where they are the same: shares of far tasks are 0 alike.
        orders = np.lexsort((-scores, -together), axis=1)
        chances = self._fits(scores)[:, None] * shares
        return [
            [RoutedTask(*self.tasks[int(at)], float(row[at])) for at in order]
            for row, order in zip(chances, orders, strict=True)
        ]

    def most_likely(self, prompts: Iterable[str]) -> list[RoutedTask]:
        """The likeliest task of each prompt, with the probability of all clusters that know it.

        Raises:
            DataError: A prompt is empty.
        """
        best = []
        for found in self.route_all(prompts):
            together = sum(one.probability for one in found if one.task == found[0].task)
            best.append(replace(found[0], probability=min(together, 1.0)))
        return best

    def choose(self, prompt: str, least: float = SURE) -> RoutedTask | None:
        """The likeliest task, as `likeliest`; None where nothing is likely enough.

        Args:
            prompt: What to route.
            least: Probability that a task must have.

        Raises:
            DataError: The prompt is empty.
        """
        (best,) = self.most_likely([prompt])
        return best if best.probability >= least else None

    def _scores(self, prompts: Iterable[str]) -> Floats:
        """Log likelihood ratios to the background, [N, T], in nats."""
        rows = []
        for prompt in prompts:
            if not prompt.strip():
                raise DataError("an empty prompt cannot be routed to a task: give it some text.")
            buckets, values = features(prompt)
            rows.append(values.astype(np.float32) @ self._weights[buckets].astype(np.float32))
        scores: Floats = np.array(rows, np.float32).reshape(-1, len(self.tasks)) * self._scales
        return scores

    def _fits(self, scores: Floats) -> Floats:
        """Probability of each prompt to be of any task here, [N]."""
        best = scores.argmax(axis=1)
        deviations = (scores.max(axis=1) - self._usual[best]) / self._spread[best]
        fits: Floats = 0.5 + 0.5 * np.tanh(_STEEPNESS / 2 * (deviations - _LIMIT))  # a sigmoid
        return fits


def _shares(scores: Floats) -> Floats:
    """Probabilities of the tasks if a prompt is of one of them, [N, T]."""
    chances = np.exp((scores - scores.max(axis=1, keepdims=True)) / _TEMPERATURE)
    shares: Floats = chances / chances.sum(axis=1, keepdims=True)
    return shares


def _fit_task(prompts: Sequence[Features]) -> tuple[FloatArray, FloatArray]:
    """Log likelihood ratios of the buckets [B], and the score of each prompt under the others."""
    sums = np.zeros(BUCKETS)
    for buckets, values in prompts:
        sums[buckets] += values
    total = sums.sum()
    own = [
        values @ _log_ratios(sums[buckets] - values, total - values.sum())
        for buckets, values in prompts
    ]
    return _log_ratios(sums, total), np.array(own)


def _log_ratios(sums: FloatArray, total: float) -> FloatArray:
    """Log of a task's smoothed share of each bucket over the background's, 1 / B."""
    shares = np.maximum(sums, 0) / total if total > 1e-9 else np.zeros_like(sums)
    ratios: FloatArray = np.log((1 - _BACKGROUND) * BUCKETS * shares + _BACKGROUND)
    return ratios
