"""Finds the task, and so the cluster, of a prompt whose request names none.

    router = TaskRouter.fit({"NER": prompts, "Summary": others})     # of an adapter's tasks
    router.save("my-adapter")                                        # in the adapter's folder
    joined = JoinedRouter({"medical": TaskRouter.load(a), "general": TaskRouter.load(b)})
    joined.route("找出句子中的人名：…")[0]     # RoutedTask(cluster="general", task="NER", ...)

Each task has a language model of its prompts: a multinomial over the hashed features of
`cgclora.data.text_features`, smoothed with the uniform background that all routers share
(Jelinek-Mercer, Zhai and Lafferty 2004). The score of a prompt is its log likelihood ratio to that
background, in nats, and does not depend on other tasks. So the scores of routers that were fitted
separately can be compared, and adding or removing a cluster changes no score of the others.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict
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
"""Version of the file: of features, smoothing and probability."""

SURE = 0.5
"""Minimum probability of a task that is chosen automatically."""

_ARRAYS = ("weights", "scales", "usual", "spread")

_BACKGROUND = 0.1  # its weight in a task's model, chosen on dev
_TEMPERATURE = 0.5  # of the softmax: one for all routers, so that their tasks are comparable
_LIMIT = -3.0  # deviation from the mean score where a prompt fits with 50 %, chosen on dev
_STEEPNESS = 4.0
_MIN_SPREAD = 0.1  # of the mean score, and at least 1 nat: similar prompts have almost none

Features = tuple[IntArray, FloatArray]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RoutedTask:
    """A candidate task of a prompt."""

    cluster: str
    task: str
    probability: float  # the rest to a sum of 1 over all tasks is that of none of them


@dataclass(frozen=True, eq=False)
class TaskRouter:
    """The router of an adapter's T tasks.

    Attributes:
        tasks: Their names.
        weights: int8 [T, B], quantised log likelihood ratios of the B hash buckets.
        scales: float32 [T], nats per quantisation step.
        usual: float32 [T], mean leave-one-out score of a task's prompts.
        spread: float32 [T], their standard deviation, at least a tenth of the mean and 1 nat.
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
                f"a router of the tasks {list(self.tasks)} must have distinct tasks and arrays of "
                f"shapes {shapes}: fit anew."
            )

    @classmethod
    def fit(cls, prompts: Mapping[str, Sequence[str]]) -> Self:
        """Fit a router to prompts by task. Repeated prompts count once.

        Raises:
            DataError: There is no task, or a task has no prompt.
        """
        if not prompts:
            raise DataError("there is no task to fit a router on: give prompts of at least one.")
        if empty := [task for task, texts in prompts.items() if not any(map(str.strip, texts))]:
            raise DataError(f"a router needs prompts of every task, there are none of {empty}.")
        fits = [_fit_task([features(p) for p in dict.fromkeys(own)]) for own in prompts.values()]
        weights = np.stack([ratios for ratios, _ in fits])
        scales = (np.abs(weights).max(axis=1) / 127).astype(np.float32)
        usual = np.array([scores.mean() for _, scores in fits])
        deviations = [scores.std() for _, scores in fits]
        spread = np.maximum(deviations, np.maximum(_MIN_SPREAD * usual, 1))
        return cls(
            tuple(prompts),
            np.round(weights / scales[:, None]).astype(np.int8),
            scales,
            usual.astype(np.float32),
            spread.astype(np.float32),
        )

    def take(self, tasks: Sequence[str]) -> Self:
        """The router of some of the tasks."""
        rows = [row for row, task in enumerate(self.tasks) if task in tasks]
        arrays = (getattr(self, name)[rows] for name in _ARRAYS)
        return type(self)(tuple(self.tasks[row] for row in rows), *arrays)

    def plus(self, other: TaskRouter) -> Self:
        """The router of its own and another's tasks."""
        arrays = (np.concatenate([getattr(one, name) for one in (self, other)]) for name in _ARRAYS)
        return type(self)(self.tasks + other.tasks, *arrays)

    def to_bytes(self) -> bytes:
        """Contents of the router's file."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        metadata = {"format": FORMAT, "tasks": list(self.tasks)}
        # A single entry, since safetensors writes several in random order.
        return save(arrays, metadata={"router": json.dumps(metadata, ensure_ascii=False)})

    def to_files(self) -> dict[str, bytes]:
        """Contents of the router's file by its name, for `Adapter.files`."""
        return {ROUTER_FILE: self.to_bytes()}

    def save(self, folder: str | Path, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Save the router in an adapter's folder; it replaces an older one.

        Args:
            folder: Of the adapter.
            facts: Entry `router` of the manifest.

        Returns:
            The manifest.

        Raises:
            AdapterError: The folder has no adapter, a damaged one, or one of other tasks.
        """
        _, config = adapter_dir.read_manifest(folder)
        self.check(config.tasks, str(folder))
        return adapter_dir.replace_router(folder, self.to_bytes(), facts or {})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The router of a saved adapter.

        Raises:
            AdapterError: The folder has no adapter, a damaged one, or one without a router.
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
        """The router among an adapter's files, see `to_files`; None if there is none.

        Args:
            files: `Adapter.files`.
            tasks: Of the adapter.
            name: Of the adapter, for messages.

        Raises:
            AdapterError: The file is damaged, or of another format or other tasks.
        """
        if (content := files.get(ROUTER_FILE)) is None:
            return None
        try:
            (size,) = struct.unpack_from("<Q", content)
            header = json.loads(content[8 : 8 + size]).get("__metadata__", {})
            metadata = json.loads(header.get("router", "{}"))
            if metadata.get("format") != FORMAT:
                raise AdapterError(
                    f"{ROUTER_FILE} of {name} has format {metadata.get('format')!r}, this version "
                    f"reads {FORMAT}: update cgclora, or fit the router anew."
                )
            arrays: dict[str, Any] = load(content)
            router = cls(tuple(metadata["tasks"]), **arrays)
        except (SafetensorError, struct.error, ValueError, KeyError, TypeError) as error:
            raise AdapterError(f"{ROUTER_FILE} of {name} is damaged: {error!r}.") from error
        router.check(tasks, name)
        return router

    def check(self, tasks: Sequence[str], name: str) -> None:
        """Check that the router has the tasks of an adapter.

        Raises:
            AdapterError: It lacks some, or has others.
        """
        if set(self.tasks) != set(tasks):
            raise AdapterError(
                f"the router knows the tasks {sorted(self.tasks)}, the adapter {name} "
                f"{sorted(tasks)}: fit the router on prompts of the adapter's tasks."
            )


class JoinedRouter:
    """Routes among the tasks of one or several clusters.

    Args:
        routers: By their clusters' names.

    Attributes:
        tasks: Cluster and name of each task.

    Raises:
        ConfigError: There is no router.
    """

    def __init__(self, routers: Mapping[str, TaskRouter]) -> None:
        if not routers:
            raise ConfigError("no cluster has a router: name the task of each request.")
        self.tasks = [(name, task) for name, one in routers.items() for task in one.tasks]
        columns: defaultdict[str, list[int]] = defaultdict(list)
        for column, (_, task) in enumerate(self.tasks):
            columns[task].append(column)
        self._columns = list(columns.values())  # of each task, in one or several clusters
        parts = routers.values()
        # Transposed, since a prompt reads the rows of a few hundred buckets.
        self._weights = np.ascontiguousarray(np.concatenate([one.weights for one in parts]).T)
        self._scales = np.concatenate([one.scales for one in parts])
        self._usual = np.concatenate([one.usual for one in parts])
        self._spread = np.concatenate([one.spread for one in parts])

    def route(self, prompt: str) -> list[RoutedTask]:
        """All tasks of all clusters, the most likely first.

        The softmax over the scores is the probability of each task if the prompt is of one of them;
        the deviation of the best score from that task's mean gives the probability that it is. A
        task of several clusters is ranked by the sum of its probabilities.

        Raises:
            DataError: The prompt is empty.
        """
        return self.route_all([prompt])[0]

    def route_all(self, prompts: Iterable[str]) -> list[list[RoutedTask]]:
        """`route` for each of several prompts."""
        scores = self._scores(prompts)
        shares = _shares(scores)
        sums = np.empty_like(shares)
        for columns in self._columns:
            sums[:, columns] = shares[:, columns].sum(axis=1, keepdims=True)
        # Ties are broken by score: the shares of unlikely tasks are all 0.
        orders = np.lexsort((-scores, -sums), axis=1)
        probabilities = self._fits(scores)[:, None] * shares
        return [
            [RoutedTask(*self.tasks[int(i)], float(row[i])) for i in order]
            for row, order in zip(probabilities, orders, strict=True)
        ]

    def most_likely(self, prompts: Iterable[str]) -> list[RoutedTask]:
        """The most likely task of each prompt, with its probability over all clusters.

        Raises:
            DataError: A prompt is empty.
        """
        best = []
        for routed in self.route_all(prompts):
            total = sum(one.probability for one in routed if one.task == routed[0].task)
            best.append(replace(routed[0], probability=min(total, 1.0)))
        return best

    def choose(self, prompt: str, min_probability: float = SURE) -> RoutedTask | None:
        """The most likely task, see `most_likely`; None if it is less likely than required.

        Raises:
            DataError: The prompt is empty.
        """
        (best,) = self.most_likely([prompt])
        return best if best.probability >= min_probability else None

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
        """Probability that each prompt is of any of the tasks, [N]."""
        best = scores.argmax(axis=1)
        deviations = (scores.max(axis=1) - self._usual[best]) / self._spread[best]
        fits: Floats = 0.5 + 0.5 * np.tanh(_STEEPNESS / 2 * (deviations - _LIMIT))  # a sigmoid
        return fits


def _shares(scores: Floats) -> Floats:
    """Probabilities of the tasks, given that a prompt is of one of them, [N, T]."""
    odds = np.exp((scores - scores.max(axis=1, keepdims=True)) / _TEMPERATURE)
    shares: Floats = odds / odds.sum(axis=1, keepdims=True)
    return shares


def _fit_task(prompts: Sequence[Features]) -> tuple[FloatArray, FloatArray]:
    """Log likelihood ratios of the buckets [B], and each prompt's leave-one-out score."""
    sums = np.zeros(BUCKETS)
    for buckets, values in prompts:
        sums[buckets] += values
    total = sums.sum()
    scores = [
        values @ _log_ratios(sums[buckets] - values, total - values.sum())
        for buckets, values in prompts
    ]
    return _log_ratios(sums, total), np.array(scores)


def _log_ratios(sums: FloatArray, total: float) -> FloatArray:
    """Log of a task's smoothed frequency of each bucket over the background's, 1 / B."""
    shares = np.maximum(sums, 0) / total if total > 1e-9 else np.zeros_like(sums)
    ratios: FloatArray = np.log((1 - _BACKGROUND) * BUCKETS * shares + _BACKGROUND)
    return ratios
