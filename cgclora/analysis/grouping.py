"""Which tasks should share an adapter: partitions of tasks by their affinities.

A task's score in a group is the mean affinity onto it from the group's other members, and a
partition's the mean over all tasks. A task alone scores 0: its affinity onto itself counts nowhere
(TAG, arXiv 2109.04617, whose code also sets it to about 0). Groups here do not overlap, since each
task has one cluster.

With S = Z + Z' a group G of n tasks adds sum_{i<j in G} S[i, j] / (n - 1), a function of sums over
pairs.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.intp]
"""The group of each task, [T]; groups are numbered by their first task."""

EXACT_TASKS = 16
"""So many tasks are grouped exactly; for more there are too many subsets."""


def partition_score(affinity: Floats, labels: npt.ArrayLike) -> float:
    """The mean over tasks of the mean affinity Z [T, T] onto each from the others of its group."""
    labels = np.asarray(labels)
    together = labels[:, None] == labels[None, :]
    np.fill_diagonal(together, False)
    others = np.maximum(together.sum(axis=0), 1)
    return float(((affinity * together).sum(axis=0) / others).mean())


def best_groupings(affinity: Floats, max_groups: int) -> list[Labels]:
    """The best partitions into at most 1, 2, ..., `max_groups` groups by affinities [T, T].

    Up to `EXACT_TASKS` tasks they are the best there are, beyond that the best that a search found.
    Where a further group brings nothing, the partition is that into fewer.

    Raises:
        ValueError: The matrix is not square or not finite, or `max_groups` is not within 1 to T.
    """
    affinity = np.asarray(affinity, dtype=np.float64)
    if affinity.ndim != 2 or len(affinity) != affinity.shape[-1] or not len(affinity):
        raise ValueError(f"affinity must be [T, T], got {list(affinity.shape)}.")
    if not np.isfinite(affinity).all():
        raise ValueError("affinity holds a value that is not a finite number.")
    if not 1 <= max_groups <= len(affinity):
        raise ValueError(
            f"{len(affinity)} tasks make 1 to {len(affinity)} groups, not {max_groups}."
        )
    if len(affinity) <= EXACT_TASKS:
        partitions = exact_groupings(affinity, max_groups)
    else:
        pairs = pair_affinities(affinity)[None]
        partitions = [labels[0] for labels in search_groupings(pairs, max_groups)]
    kept = partitions[:1]
    for labels in partitions[1:]:
        better = partition_score(affinity, labels) > partition_score(affinity, kept[-1]) + 1e-12
        kept.append(labels if better else kept[-1])
    return kept


def pair_affinities(affinity: Floats) -> Floats:
    """S = Z + Z' with an empty diagonal, [..., T, T]."""
    pairs = affinity + affinity.swapaxes(-1, -2)
    return pairs * (1 - np.eye(pairs.shape[-1]))


def first_seen(labels: npt.ArrayLike) -> Labels:
    """The same groups, numbered by their first task."""
    labels = np.asarray(labels)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def exact_groupings(affinity: Floats, max_groups: int) -> list[Labels]:
    """As `best_groupings`, by a dynamic programme over subsets.

    The best partition of a subset into at most n groups is a group with the subset's first task,
    and the best partition of the rest into at most n - 1: all n at once, 3^T / 2 pairs of sets.
    """
    tasks = len(affinity)
    values = _group_values(pair_affinities(affinity))
    best = np.full((len(values), max_groups + 1), -np.inf)  # of a subset, into at most n groups
    best[0] = 0.0
    chosen = np.zeros((len(values), max_groups + 1), dtype=np.int32)
    half = tasks // 2
    low, high = _submasks(half), _submasks(tasks - half)
    for subset in range(1, len(values)):
        first = subset & -subset
        rest = subset ^ first
        others = (high[rest >> half][:, None] << half | low[rest & ((1 << half) - 1)]).ravel()
        totals = best[others, :-1] + values[subset ^ others, None]
        pick = totals.argmax(axis=0)
        best[subset, 1:] = totals[pick, np.arange(max_groups)]
        chosen[subset, 1:] = subset ^ others[pick]
    partitions = []
    for groups in range(1, max_groups + 1):
        labels = np.zeros(tasks, dtype=np.intp)
        rest, number = len(values) - 1, 0
        while rest:
            group = int(chosen[rest, groups - number])
            labels[[task for task in range(tasks) if group >> task & 1]] = number
            rest, number = rest ^ group, number + 1
        partitions.append(labels)
    return partitions


def _submasks(bits: int) -> list[npt.NDArray[np.int64]]:
    """The subsets of each set of so many elements, as bit masks."""
    every = np.arange(1 << bits)
    return [every[(every & mask) == every] for mask in range(1 << bits)]


def _group_values(pairs: Floats) -> Floats:
    """What each subset of tasks adds as a group to the sum over tasks, [2^T]."""
    tasks = len(pairs)
    sums = np.zeros(1 << tasks)
    sizes = np.zeros(1 << tasks)
    for task in range(tasks):
        here = slice(1 << task, 2 << task)  # the subsets whose last task this is
        links = np.zeros(1 << task)
        for other in range(task):
            links[1 << other : 2 << other] = links[: 1 << other] + pairs[task, other]
        sums[here] = sums[: 1 << task] + links
        sizes[here] = sizes[: 1 << task] + 1
    return sums / np.maximum(sizes - 1, 1)


def search_groupings(
    pairs: Floats, max_groups: int, *, chains: int = 32, rounds: int = 12, seed: int = 0
) -> list[Labels]:
    """Good partitions of many matrices at once into at most 1, 2, ..., `max_groups` groups.

    Chains of an iterated local search: single tasks move and pairs of tasks swap as long as that
    helps; then the tasks of two groups are shuffled, and the search goes on from there if that was
    better. A matrix has `chains`, one of which starts from the partition into one group less, with
    `rounds` of shuffles each.

    The matrices are Z + Z' with an empty diagonal, [B, T, T]. Returns labels [B, T] for each number
    of groups.
    """
    generator = np.random.default_rng(seed)
    problems, tasks, _ = pairs.shape
    matrices = np.repeat(pairs, chains, axis=0)
    partitions = [np.zeros((problems, tasks), dtype=np.intp)]
    for groups in range(2, max_groups + 1):
        starts = generator.integers(groups, size=(problems, chains, tasks))
        starts[:, 0] = partitions[-1]
        labels, scores = _climb(matrices, starts.reshape(-1, tasks), groups)
        for _ in range(rounds):
            tried, reached = _climb(matrices, _shuffled(labels, groups, generator), groups)
            better = reached > scores
            labels[better], scores[better] = tried[better], reached[better]
        best = scores.reshape(problems, chains).argmax(axis=1)
        winners = labels.reshape(problems, chains, tasks)[np.arange(problems), best]
        partitions.append(np.array([first_seen(one) for one in winners]))
    return partitions


def _shuffled(labels: Labels, groups: int, generator: np.random.Generator) -> Labels:
    """Each row with the tasks of two of its groups, maybe empty ones, dealt out anew."""
    first = generator.integers(groups, size=len(labels))
    second = (first + generator.integers(1, groups, size=len(labels))) % groups
    among = (labels == first[:, None]) | (labels == second[:, None])
    dealt = np.where(generator.random(labels.shape) < 0.5, first[:, None], second[:, None])
    return np.where(among, dealt, labels)


def _climb(pairs: Floats, labels: Labels, groups: int) -> tuple[Labels, Floats]:
    """Take each row's best move or swap until none helps; labels [K, T] and their scores."""
    labels, scores = labels.copy(), np.zeros(len(labels))
    climbing = np.arange(len(labels))
    while len(climbing):
        here, matrices = labels[climbing], pairs[climbing]
        scores[climbing], moves, swaps = _gains(matrices, here, groups)
        count, tasks = here.shape
        moves, swaps = moves.reshape(count, -1), swaps.reshape(count, -1)
        move, swap = moves.argmax(axis=1), swaps.argmax(axis=1)
        rows = np.arange(count)
        by_move, by_swap = moves[rows, move], swaps[rows, swap]
        scale = 1e-12 * (1 + np.abs(matrices).max(axis=(1, 2)))  # not for a rounding error
        moving = (by_move >= by_swap) & (by_move > scale)
        swapping = (by_swap > by_move) & (by_swap > scale)
        k = rows[moving]
        here[k, move[k] // groups] = move[k] % groups
        k = rows[swapping]
        one, other = swap[k] // tasks, swap[k] % tasks
        here[k, one], here[k, other] = here[k, other], here[k, one]
        labels[climbing] = here
        climbing = climbing[moving | swapping]
    return labels, scores


def _gains(pairs: Floats, labels: Labels, groups: int) -> tuple[Floats, Floats, Floats]:
    """Sums over tasks now [K], and what moves [K, T, groups] and swaps [K, T, T] would add."""
    member = (labels[:, :, None] == np.arange(groups)).astype(np.float64)
    links = pairs @ member  # of a task with a group, [K, T, groups]
    sizes = member.sum(axis=1)
    sums = (links * member).sum(axis=1) / 2
    value = _value(sums, sizes)
    own = np.take_along_axis(links, labels[:, :, None], axis=2)[..., 0]
    home_sum = np.take_along_axis(sums, labels, axis=1)
    home_size = np.take_along_axis(sizes, labels, axis=1)
    leaving = _value(home_sum - own, home_size - 1) - _value(home_sum, home_size)
    joining = _value(sums[:, None] + links, sizes[:, None] + 1) - value[:, None]
    moves = np.where(member > 0, -np.inf, leaving[:, :, None] + joining)
    # Where one task takes another's place, sizes stay. across[k, t, u]: t with the group of u.
    across = np.take_along_axis(links, np.repeat(labels[:, None], labels.shape[1], axis=1), axis=2)
    replaced = (across - own[:, None] - pairs) / np.maximum(home_size - 1, 1)[:, None]
    same = labels[:, :, None] == labels[:, None]
    swaps = np.where(same, -np.inf, replaced + replaced.swapaxes(1, 2))
    return value.sum(axis=1), moves, swaps


def _value(sums: Floats, sizes: Floats) -> Floats:
    """What groups add, from their sums over pairs and their sizes."""
    return sums / np.maximum(sizes - 1, 1)
