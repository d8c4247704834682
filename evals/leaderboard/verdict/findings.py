"""What a comparison tells: whether sharing helps, which method to take, what remains open.

A verdict holds findings with their evidence; `evals.leaderboard.verdict.sentences` words them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evals.leaderboard.board import (
    REFERENCE,
    Board,
    UnknownEntryError,
    find_entry,
    gains,
    restrict,
)
from evals.leaderboard.entries import Entry
from evals.methods import METHODS
from evals.scoring.effect_sizes import Gain, Part, adjust, gain, probability_better
from evals.scoring.power import Power, power
from evals.scoring.statistics import Estimate, Spread, mean_of

POINTS = 2.0
"""Difference of scores times 100 that a comparison should be able to tell."""

FEW_RECORDS = 50
"""With fewer records than this the score of a task is rough, and so is its bootstrap."""

_SAME_SIZE = 1.05
"""Up to this ratio of parameters two methods have one size: a gate is no reason to choose."""

_TRAINING_ERRORS = 2.0
"""A difference within so many of its standard errors over seeds may be training noise."""


@dataclass(frozen=True)
class Sharing:
    """The sharing method with the highest mean against one adapter a task."""

    method: str  # name of its entry
    reference: str  # likewise, of the method that shares nothing
    candidates: int  # number of sharing methods of which it is the best
    gains: Mapping[str, Gain]  # by task and `OVERALL`, see `board.gains`
    helped: tuple[str, ...]  # tasks that surely gain, the largest gain first
    hurt: tuple[str, ...]  # tasks that surely lose, the largest loss first
    undecided: tuple[str, ...]  # the other tasks
    within_training_noise: tuple[str, ...]  # of those helped or hurt, see `Pair.training_error`


@dataclass(frozen=True)
class Pair:
    """The best entry and another one."""

    best: str
    other: str
    gain: Gain  # of the best; `adjusted` by Holm's rule over all other entries
    probability: float  # that the best is the better one, see `probability_better`
    power: Power | None  # to tell `POINTS` or the observed difference, whichever is larger
    # Standard error of the difference over seeds, in [0, 1]; None if either has a single seed.
    training_error: float | None

    @property
    def is_within_training_noise(self) -> bool:
        """Whether other seeds may tell otherwise, see `_TRAINING_ERRORS`."""
        return _is_noise(self.gain, self.training_error)


Reason = Literal["untrained", "smallest", "not surely worse", "surely better", "within budget"]


@dataclass(frozen=True)
class Choice:
    """The method to take with a budget of trained parameters, and why.

    It is the smallest one that is not surely worse than the best within the budget.

    Attributes:
        name: Of its entry.
        parameters: That it trains; 0 if nothing is trained.
        limit: The budget from which on another choice is better; None for the last choice.
        reason: `smallest`: it has the highest mean and none is smaller. `not surely worse` than the
            larger `rival`, which has the highest mean. `untrained`: likewise, and it trains
            nothing. `surely better` than all smaller ones, of which `rival` has the highest mean.
            `within budget`: for budgets below `limit` only; `rival` is the last choice.
        rival: Name of the entry that it is compared with; None if there is none.
        rival_parameters: That this one trains.
        gain: Over the rival; `adjusted` by Holm's rule over all entries of known size, except
            within a budget.
    """

    name: str
    parameters: int
    limit: int | None
    reason: Reason
    rival: str | None
    rival_parameters: int | None
    gain: Gain | None


@dataclass(frozen=True)
class Verdict:
    """The findings on a board; scores and differences in [0, 1], on the mean over its tasks."""

    tasks: tuple[str, ...]
    entries: tuple[str, ...]  # the best first
    best: Estimate | None  # mean of the first; None for an empty board
    nearest: Pair | None  # the first with the second, if it is surely above all others
    sharing: Sharing | None  # None if the board lacks the reference or a method that shares
    pairs: tuple[Pair, ...]  # the best with each entry that cannot be told from it
    choices: tuple[Choice, ...]  # by rising budget; methods of unknown size are left out
    budget: int | None  # trained parameters that the reader can afford, if asked for
    within: Choice | None  # the choice for this budget; None if there is none
    seeds: tuple[int, int] | None  # fewest and most seeds of a trained entry; None without one
    single_seed: tuple[str, ...]  # trained entries with one seed, whose training noise is unknown
    few_records: Mapping[str, int]  # records of each task with fewer than `FEW_RECORDS`
    backbones: tuple[str, ...]  # if there are several: what differs may be due to them


def verdict(
    board: Board,
    *,
    reference: str = REFERENCE,
    budget: int | None = None,
    difference: float = POINTS / 100,
) -> Verdict:
    """The findings on a board.

    Args:
        board: Of any number of tasks and entries.
        reference: The entry that shares nothing; the board need not have it.
        budget: Trained parameters that the reader can afford.
        difference: Of means in (0, 1], that more records should be able to tell.

    Raises:
        ValueError: The difference is not in (0, 1], or the budget is negative.
    """
    if budget is not None and budget < 0:
        raise ValueError(f"a budget of parameters must be at least 0, got {budget}.")
    means = {entry.name: _mean(entry) for entry in board.entries}
    leads = _leads(means, list(means)) if means else {}
    close = [one for one in board.entries[1:] if not leads[one.name].significant]
    pairs = tuple(
        _pair(board.entries[0], other, leads[other.name], difference)
        for other in close or board.entries[1:2]
    )
    trained = [entry for entry in board.entries if set(entry.seeds) != {None}]
    counts = [entry.spread.seeds for entry in trained]
    backbones = tuple(dict.fromkeys(one.backbone for one in board.entries if one.backbone))
    choices = _choices(board, means)
    return Verdict(
        tasks=tuple(task.name for task in board.tasks),
        entries=tuple(means),
        best=board.entries[0].overall if board.entries else None,
        nearest=pairs[0] if pairs and not close else None,
        sharing=_sharing(board, reference),
        pairs=pairs if close else (),
        choices=choices,
        budget=budget,
        within=_within(choices, budget),
        seeds=(min(counts), max(counts)) if counts else None,
        single_seed=tuple(one.name for one in trained if one.spread.seeds == 1),
        few_records={one.name: one.samples for one in board.tasks if one.samples < FEW_RECORDS},
        backbones=backbones if len(backbones) > 1 else (),
    )


def _mean(entry: Entry) -> Part:
    scores = entry.scores.values()
    return mean_of([(one.estimate.value, one.replicates, one.estimate.samples) for one in scores])


def _gain(first: Part, second: Part) -> Gain:
    return gain((first[0] - second[0], first[1] - second[1], first[2]))


def _leads(means: Mapping[str, Part], names: Sequence[str]) -> dict[str, Gain]:
    """Gains of the best of some entries over the others, adjusted over them; the best first."""
    ordered = sorted(names, key=lambda name: -means[name][0])
    measured = adjust([_gain(means[ordered[0]], means[name]) for name in ordered[1:]])
    return dict(zip(ordered[1:], measured, strict=True))


# Sharing ----------------------------------------------------------------------------------


def _sharing(board: Board, reference: str) -> Sharing | None:
    sharers = [one for one in board.entries if one.method in METHODS and METHODS[one.method].shares]
    other = None
    with suppress(UnknownEntryError):
        other = find_entry(board, reference)
    if other is None or other in sharers or not sharers:
        return None
    best = sharers[0]
    measured = gains(restrict(board, entries=[best.name, other.name]), other.name)[best.name]
    sure = [task.name for task in board.tasks if measured[task.name].significant]
    sure.sort(key=lambda task: -abs(measured[task].value))
    return Sharing(
        method=best.name,
        reference=other.name,
        candidates=len(sharers),
        gains=measured,
        helped=tuple(task for task in sure if measured[task].value > 0),
        hurt=tuple(task for task in sure if measured[task].value < 0),
        undecided=tuple(task.name for task in board.tasks if task.name not in sure),
        within_training_noise=tuple(
            task
            for task in sure
            if _is_noise(
                measured[task], _training_error(best.scores[task].spread, other.scores[task].spread)
            )
        ),
    )


def _training_error(one: Spread, other: Spread) -> float | None:
    """Standard error of the difference of two means over seeds, which are independent trainings."""
    if min(one.seeds, other.seeds) < 2:
        return None
    return math.hypot(
        one.standard_deviation / math.sqrt(one.seeds),
        other.standard_deviation / math.sqrt(other.seeds),
    )


def _is_noise(difference: Gain, error: float | None) -> bool:
    return error is not None and abs(difference.value) < _TRAINING_ERRORS * error


# The best and those near it ---------------------------------------------------------------


def _pair(best: Entry, other: Entry, lead: Gain, difference: float) -> Pair:
    parts: list[Part] = [
        (
            score.estimate.value - other.scores[task].estimate.value,
            score.replicates - other.scores[task].replicates,
            score.estimate.samples,
        )
        for task, score in best.scores.items()
    ]
    return Pair(
        best=best.name,
        other=other.name,
        gain=lead,
        probability=float(probability_better(np.mean([drawn for _, drawn, _ in parts], axis=0))),
        power=power(parts, max(difference, abs(lead.value))),
        training_error=_training_error(best.spread, other.spread),
    )


# Choices by budget ------------------------------------------------------------------------


def _parameters(entry: Entry) -> int | None:
    """What the entry trains; 0 for the bare backbone, None if unknown."""
    untrained = entry.method in METHODS and METHODS[entry.method].adapters == "none"
    return 0 if untrained else entry.parameters


def _choices(board: Board, means: Mapping[str, Part]) -> tuple[Choice, ...]:
    """The choice without a limit, then that among the smaller methods, and so on; smallest first.

    Within each budget the smallest method is chosen that is not surely worse than the best one.
    """
    sizes = {
        entry.name: size for entry in board.entries if (size := _parameters(entry)) is not None
    }
    choices: list[Choice] = []
    while left := [
        one for one in sizes if not choices or _is_smaller(sizes[one], choices[-1].parameters)
    ]:
        leads = _leads(means, left)
        best = next(name for name in left if name not in leads)
        close = [best, *(name for name in leads if not leads[name].significant)]
        least = min(sizes[name] for name in close)
        name = next(name for name in close if not _is_smaller(least, sizes[name]))
        if not choices:
            choices.append(_last_choice(name, best, leads, sizes))
        elif sizes[name]:
            last, limit = choices[0].name, choices[-1].parameters
            given_up = _gain(means[name], means[last])
            rival = last, choices[0].parameters, given_up
            choices.append(Choice(name, sizes[name], limit, "within budget", *rival))
        else:
            break  # that an untrained method is worse needs no choice of its own
    return tuple(reversed(choices))


def _last_choice(
    name: str, best: str, leads: Mapping[str, Gain], sizes: Mapping[str, int]
) -> Choice:
    """The choice without a limit, with its evidence."""
    smaller = [one for one in leads if _is_smaller(sizes[one], sizes[name])]
    rival: str | None = None
    over_rival: Gain | None = None
    reason: Reason = "smallest"
    if name != best:
        reason, rival = "not surely worse" if sizes[name] else "untrained", best
        over_rival = leads[name].reversed()
    elif smaller:
        reason, rival = "surely better", smaller[0]
        over_rival = leads[smaller[0]]
    rival_size = None if rival is None else sizes[rival]
    return Choice(name, sizes[name], None, reason, rival, rival_size, over_rival)


def _is_smaller(size: int, other: int) -> bool:
    return size * _SAME_SIZE < other


def _within(choices: Sequence[Choice], budget: int | None) -> Choice | None:
    affordable = [one for one in choices if budget is not None and one.parameters <= budget]
    return affordable[-1] if affordable else None
