"""Gates of tasks: how even their weights are, which tasks use experts alike, and their training.

Needs no torch. Rows of weights are softmaxes over the experts that a task may use.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgclora.config import AdapterConfig
from cgclora.storage import atomic_io

Floats = NDArray[np.float64]

LEARNED = "learned"
VARIANTS = (LEARNED, "uniform", "no specific experts", "no common experts")
"""Gates that an adapter's scores are compared with, see `evals.runs.gate_ablation`."""

_EVEN = 0.995  # normalised entropy from which on gates count as uniform
_COLLAPSED = 0.05  # and up to which all weight is on one expert
_UNUSED = 0.1  # of an even share: an expert with less is hardly used


@dataclass(frozen=True)
class GateHealth:
    """What looks wrong with learned gates; empty where nothing does."""

    is_uniform: bool  # the gates of all tasks have stayed uniform
    unused: tuple[int, ...]  # experts that no task gives a tenth of an even share
    collapsed: tuple[int, ...]  # tasks with all weight on one expert


def gate_health(weights: ArrayLike, access: ArrayLike) -> GateHealth:
    """Whether learned gates have stayed uniform, collapsed, or leave experts out.

    Args:
        weights: [L, T, E], zero where a task may not use an expert.
        access: [T, E], whether it may.
    """
    gates, usable = np.asarray(weights, dtype=float), np.asarray(access, dtype=bool)
    counts = usable.sum(axis=1)
    evenness = [entropy(gates[:, t, usable[t]]).mean() for t in range(len(usable))]
    has_choice = counts > 1
    means = gates.mean(axis=0)
    relative = means / means.sum(axis=1, keepdims=True) * counts[:, None]  # 1 is an even share
    best = np.where(usable & has_choice[:, None], relative, -1).max(axis=0)
    return GateHealth(
        is_uniform=bool(has_choice.any() and np.min(evenness, where=has_choice, initial=1) > _EVEN),
        unused=tuple(np.flatnonzero((best >= 0) & (best < _UNUSED)).tolist()),
        collapsed=tuple(np.flatnonzero(has_choice & (np.array(evenness) < _COLLAPSED)).tolist()),
    )


def entropy(weights: ArrayLike) -> Floats:
    """Entropy of weights [..., N] divided by log N, in [0, 1]: how evenly they are spread.

    The weights are not negative and need not add up to 1.

    Returns:
        [...]; 1 is even, 0 is all on one expert. With N = 1, and where all weights are 0, there is
        nothing to spread: 1.
    """
    shares = np.asarray(weights, dtype=float)
    totals = shares.sum(axis=-1, keepdims=True)
    count = shares.shape[-1]
    if count < 2:
        return np.ones(shares.shape[:-1])
    shares = np.divide(shares, totals, out=np.full_like(shares, 1 / count), where=totals > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(-(shares * logs).sum(axis=-1) / np.log(count))


def similarity(common: ArrayLike) -> Floats:
    """Cosines in [-1, 1] between tasks' weights > 0 of the common experts, [L, T, C].

    A task's lean in a layer is its log-weights minus their mean (the centred log-ratio of
    compositional data, Aitchison 1982): the gate's logits without the constant that a softmax
    cannot see, whatever the specific experts take. Leans of all layers make one vector a task.
    Specific experts are left out, since no two tasks share one.

    Returns:
        [T, T]. Tasks without any lean are alike (1); one with and one without have nothing in
        common (0).

    Raises:
        ValueError: There are fewer than two common experts, so that there is nothing to lean to.
    """
    logs = np.log(np.asarray(common, dtype=float))
    layers, tasks, experts = logs.shape
    if experts < 2:
        raise ValueError(f"similarity needs at least 2 common experts, there are {experts}.")
    lean = logs - logs.mean(axis=-1, keepdims=True)
    lean = lean.transpose(1, 0, 2).reshape(tasks, layers * experts)
    lengths = np.linalg.norm(lean, axis=1)
    without = lengths < 1e-6 * np.sqrt(layers * experts)  # rounding of even weights
    lengths[without] = 1
    lean[without] = 0
    lean /= lengths[:, None]
    cosines = np.clip(lean @ lean.T, -1, 1)
    cosines[np.ix_(without, without)] = 1
    np.fill_diagonal(cosines, 1)
    return np.asarray(cosines)


class Merge(NamedTuple):
    """Two groups of a tree become one."""

    left: int  # number of the first: an item below N, or N plus the place of an earlier merge
    right: int  # number of the second
    height: float  # their mean distance


def average_linkage(distance: ArrayLike) -> tuple[list[Merge], list[int]]:
    """Merge the two closest groups again and again (UPGMA, Sokal and Michener 1958); [N, N].

    Returns:
        N - 1 merges, the closest first, and the N items in the order of the tree's leaves.
    """
    from scipy.cluster import hierarchy  # noqa: PLC0415 - slow to import, and only trees need them
    from scipy.spatial.distance import squareform  # noqa: PLC0415

    pairs = squareform(np.asarray(distance, dtype=float), checks=False)
    if not len(pairs):
        return [], [0] * len(np.asarray(distance))
    tree = hierarchy.average(pairs)
    merges = [Merge(int(left), int(right), float(height)) for left, right, height, _ in tree]
    return merges, hierarchy.leaves_list(tree).tolist()


@dataclass(frozen=True)
class GatePath:
    """The gates during training, averaged over layers."""

    steps: tuple[int, ...]  # numbers of the N logged steps, ascending
    gates: Floats  # [N, T, E]


def read_path(log: Path, config: AdapterConfig) -> GatePath | None:
    """The gates in a training log; None if it holds none of this adapter's shape."""
    rows: dict[int, Any] = {}
    shape = (len(config.tasks), config.num_experts)
    for line in atomic_io.whole_lines(log):
        try:
            entry = json.loads(line)
            gates = np.asarray(entry["gates"], dtype=float)
            if gates.shape == shape:
                rows[int(entry["step"])] = gates
        except (ValueError, KeyError, TypeError):
            continue  # an evaluation
    steps = sorted(rows)
    return GatePath(tuple(steps), np.stack([rows[step] for step in steps])) if steps else None


def find_log(adapter: Path, manifest: Mapping[str, Any], results: Path) -> Path | None:
    """The log of the training run that an adapter came from, below a folder of committed runs.

    That is the one in its run folder, or one under `results` beside a `run.json` that says the same
    of config, settings, backbone and data as the adapter's manifest.
    """
    own = adapter.parent / atomic_io.LOG_FILE
    if adapter.name == "adapter" and own.is_file():
        return own
    training = manifest.get("training", {})
    for path in sorted(results.rglob("run.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        log = path.with_name(atomic_io.LOG_FILE)
        same = all(training.get(key) == value for key, value in run.items())
        if run and same and log.is_file():
            return log
    return None
