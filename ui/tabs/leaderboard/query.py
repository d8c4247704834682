"""What a visitor asks the leaderboard to show, and what there is of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from evals.leaderboard.board import (
    REFERENCE,
    Board,
    Entry,
    Leaderboards,
    UnknownEntryError,
    find_entry,
    restrict,
)
from evals.leaderboard.drilldown import KINDS
from evals.leaderboard.run_sources import Library
from evals.methods import family
from evals.scoring.effect_sizes import OVERALL

VIEWS = ("table", "tasks", "seesaw", "pareto", "heat", "wins", "radar", "noise")
COSTS = ("parameters", "active_rank", "training_seconds")

RANK = "rank"
_COSTLY = ("name", RANK, *COSTS)
"""Columns whose small values are sought first."""


@dataclass(frozen=True)
class Wishes:
    """Values of components as they came: nothing here need fit together, or exist."""

    @classmethod
    def of(cls, *values: Any) -> Self:
        """From the components' values, in the order of the fields; None takes the default."""
        fields = dataclasses.fields(cls)
        known = zip(fields, values, strict=True)
        return cls(**{one.name: _fitted(one.default, value) for one, value in known})

    @classmethod
    def from_address(cls, query: Mapping[str, str]) -> Self:
        """From the address of a view that somebody shared."""
        fields = dataclasses.fields(cls)
        return cls.of(*(_read(one.default, query.get(address(one.name))) for one in fields))


def address(field: str) -> str:
    """What a field is called in the address, which other tabs use, too."""
    return field if field == "board" else f"board-{field}"


def _fitted(default: Any, value: Any) -> Any:
    if value is None:
        return default
    if isinstance(default, tuple):
        return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
    return bool(value) if isinstance(default, bool) else str(value)


def _read(default: Any, written: str | None) -> Any:
    if written is None:
        return None
    if isinstance(default, tuple):
        return tuple(filter(None, written.split(",")))
    return written != "false" if isinstance(default, bool) else written


@dataclass(frozen=True)
class Asked(Wishes):
    """What is to be shown of which board.

    Attributes:
        board: Id of the board; empty takes the first.
        view: One of `VIEWS`.
        find: Parts of names, commas between them.
        families: Of methods; none takes all.
        budget: Most trained parameters, as digits; empty for any.
        tasks: Over which the mean is taken; none takes all.
        local: Whether runs of this machine take part.
        sort: Column, with `-` before it for largest first; empty sorts by rank.
        reference: Name of the entry that the seesaw compares with.
        cost: Of `COSTS`, for the Pareto plot.
    """

    board: str = ""
    view: str = VIEWS[0]
    find: str = ""
    families: tuple[str, ...] = ()
    budget: str = ""
    tasks: tuple[str, ...] = ()
    local: bool = True
    sort: str = ""
    reference: str = ""
    cost: str = COSTS[0]

    @property
    def filters(self) -> int:
        """How many filters are set that hide methods or tasks, the search aside."""
        return sum(map(bool, (self.families, self.budget, self.tasks)))


@dataclass(frozen=True)
class Picked(Wishes):
    """Whose samples are to be shown.

    Attributes:
        entry: Name of the entry; empty shows none.
        cell: The task; `OVERALL` takes all.
        against: Name of the entry beside it; empty for none.
        seed: Place of the run among the entry's, as digits.
        only: One of `evals.leaderboard.drilldown.KINDS`.
        leaf: Number of the page, from 0, as digits.
    """

    entry: str = ""
    cell: str = OVERALL
    against: str = ""
    seed: str = "0"
    only: str = KINDS[0]
    leaf: str = "0"


@dataclass(frozen=True)
class Sight:
    """What is shown.

    Attributes:
        asked: What was asked for, where it exists; the default else.
        found: All boards.
        board: The chosen one; None if there is none at all.
        part: What the filters leave of it, with ranks and means of its own.
        entries: Of the part those that the search finds, in the order of the table.
    """

    asked: Asked
    found: Leaderboards
    board: Board | None
    part: Board | None
    entries: tuple[Entry, ...]

    @cached_property
    def every_entry(self) -> Board | None:
        """All that may be picked: the board on the tasks that are asked for; None without one."""
        return None if self.board is None else restrict(self.board, self.asked.tasks or None)

    @cached_property
    def drawn(self) -> Board:
        """The part with the entries that the search finds, for a picture; ranks stay.

        Raises:
            ValueError: There is no board.
        """
        if self.part is None:
            raise ValueError("there is no board to draw: run an evaluation first.")
        names = {entry.name for entry in self.entries}
        kept = tuple(entry for entry in self.part.entries if entry.name in names)
        return dataclasses.replace(self.part, entries=kept)


def look(library: Library, asked: Asked) -> Sight:
    """What there is of what is asked for; unknown names are passed over."""
    found = library.leaderboards(local=asked.local)
    board = next((one for one in found.boards if one.id == asked.board), None)
    board = board or next(iter(found.boards), None)
    if board is None:
        return Sight(asked, found, None, None, ())
    tasks = tuple(task.name for task in board.tasks if task.name in asked.tasks)
    budget = asked.budget if asked.budget.isdecimal() else ""
    asked = dataclasses.replace(
        asked,
        board=board.id,
        view=asked.view if asked.view in VIEWS else VIEWS[0],
        cost=asked.cost if asked.cost in COSTS else COSTS[0],
        tasks=tasks,
        budget=budget,
        sort=asked.sort if asked.sort.removeprefix("-") in _columns(board) else "",
    )
    names = [
        entry.name
        for entry in board.entries
        if (not asked.families or family(entry.method) in asked.families)
        and (not budget or (entry.parameters or 0) <= int(budget))
    ]
    part = restrict(board, tasks or None, names)
    asked = dataclasses.replace(asked, reference=_reference(part, asked.reference))
    shown = [entry for entry in part.entries if _is_found(entry, asked.find)]
    return Sight(asked, found, board, part, _sorted(shown, asked.sort))


def _columns(board: Board) -> tuple[str, ...]:
    measured = (*COSTS, "tokens_per_second", "overall", "spread", "name", RANK)
    return (*measured, *(task.name for task in board.tasks))


def _reference(board: Board, wanted: str) -> str:
    """The entry to compare with: the wanted one, else `REFERENCE`, else the first."""
    for name in (wanted, REFERENCE):
        try:
            return find_entry(board, name).name
        except UnknownEntryError:
            continue
    return board.entries[0].name if board.entries else ""


def _is_found(entry: Entry, words: str) -> bool:
    parts = [part.strip().lower() for part in words.replace("，", ",").split(",")]
    wanted = [part for part in parts if part]
    return not wanted or any(part in entry.name.lower() for part in wanted)


def turned(sort: str, column: str) -> str:
    """How the table is sorted after its header `column` was pressed, see `Asked.sort`."""
    first, second = (column, f"-{column}") if column in _COSTLY else (f"-{column}", column)
    return second if sort == first else first


def _sorted(entries: Sequence[Entry], sort: str) -> tuple[Entry, ...]:
    """By a column; entries without its value come last either way."""
    if not sort:
        return tuple(entries)
    column = sort.removeprefix("-")
    known = [entry for entry in entries if column_value(entry, column) is not None]
    others = [entry for entry in entries if column_value(entry, column) is None]
    known.sort(key=lambda entry: column_value(entry, column), reverse=sort.startswith("-"))
    return (*known, *others)


def column_value(entry: Entry, column: str) -> Any:
    """What a column is sorted by; None where it is not known or the entry lacks the task."""
    if column == "overall":
        return entry.overall.value
    if column == "spread":
        return entry.spread.standard_deviation if entry.spread.seeds > 1 else None
    if column in entry.scores:
        return entry.scores[column].estimate.value
    return getattr(entry, column, None)
