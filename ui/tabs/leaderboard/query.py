"""What a visitor asks the leaderboard to show, and the part of a board that matches."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Self

from evals.figures import pareto
from evals.leaderboard.board import (
    REFERENCE,
    Board,
    Leaderboards,
    UnknownEntryError,
    find_entry,
    gains,
    leaders,
    restrict,
)
from evals.leaderboard.drilldown import KINDS
from evals.leaderboard.entries import Entry
from evals.leaderboard.run_sources import Library
from evals.methods import family
from evals.scoring.effect_sizes import OVERALL, Gain

VIEWS = ("table", "tasks", "seesaw", "pareto", "heat", "wins", "radar", "noise")
COSTS = ("parameters", "active_rank", "training_seconds")

RANK = "rank"
_KEPT = 64  # results of queries
_LOWER_IS_BETTER = ("name", RANK, *COSTS, "forgetting")
_MEASURED = (*_LOWER_IS_BETTER, "tokens_per_second", "overall", "spread")


@dataclass(frozen=True)
class Inputs:
    """Values of components, unchecked: they may be inconsistent, or name what does not exist."""

    @classmethod
    def of(cls, *values: Any) -> Self:
        """From the components' values, in the order of the fields; None takes the default."""
        fields = zip(dataclasses.fields(cls), values, strict=True)
        return cls(**{field.name: _cast(field.default, value) for field, value in fields})

    @classmethod
    def from_address(cls, query: Mapping[str, str]) -> Self:
        """From the address of a shared view."""
        fields = dataclasses.fields(cls)
        return cls.of(*(_parse(field.default, query.get(address(field.name))) for field in fields))

    def to_address(self) -> dict[str, str]:
        """Every field by its name in the address; those with their default are empty."""
        return {
            address(field.name): ""
            if (value := getattr(self, field.name)) == field.default
            # As JavaScript writes lists and truth values.
            else ",".join(value)
            if isinstance(value, tuple)
            else str(value).lower()
            if isinstance(value, bool)
            else value
            for field in dataclasses.fields(self)
        }


def address(field: str) -> str:
    """A field's name in the address, which other tabs use, too."""
    return field if field == "board" else f"board-{field}"


def _cast(default: Any, value: Any) -> Any:
    if value is None:
        return default
    if isinstance(default, tuple):
        return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
    return bool(value) if isinstance(default, bool) else str(value)


def _parse(default: Any, written: str | None) -> Any:
    if written is None:
        return None
    if isinstance(default, tuple):
        return tuple(filter(None, written.split(",")))
    return written != "false" if isinstance(default, bool) else written


@dataclass(frozen=True)
class Query(Inputs):
    """Which part of which board to show, and how."""

    board: str = ""  # id of the board; empty takes the first
    cluster: str = ""  # of a board of several, to which the tasks are limited; empty takes all
    view: str = VIEWS[0]  # one of `VIEWS`
    find: str = ""  # parts of method names, separated by commas
    families: tuple[str, ...] = ()  # of methods; none takes all
    budget: str = ""  # largest number of trained parameters, as digits; empty for any
    tasks: tuple[str, ...] = ()  # over which the mean is taken; none takes all
    local: bool = True  # whether runs of this machine are included
    sort: str = ""  # column, with `-` before it for descending; empty sorts by rank
    reference: str = ""  # name of the entry that the seesaw compares with
    # Axes of the Pareto plot, see `evals.figures.pareto.Quantity`.
    cost: str = "parameters"  # across
    versus: str = "overall"  # upward

    @property
    def filters(self) -> int:
        """How many filters are set, not counting the cluster and the search."""
        return sum(map(bool, (self.families, self.budget, self.tasks)))


@dataclass(frozen=True)
class Selection(Inputs):
    """Which samples to show."""

    entry: str = ""  # name of the entry; empty shows none
    cell: str = OVERALL  # the task; `OVERALL` takes all
    against: str = ""  # name of the entry beside it; empty for none
    seed: str = "0"  # index of the run among the entry's, as digits
    only: str = KINDS[0]  # one of `evals.leaderboard.drilldown.KINDS`
    leaf: str = "0"  # number of the page, from 0, as digits


@dataclass(frozen=True)
class BoardView:
    """The result of a query."""

    query: Query  # with defaults in place of what does not exist
    boards: Leaderboards
    board: Board | None  # the chosen one; None if there is none at all
    selectable: Board | None  # all its entries on the chosen cluster and tasks
    filtered: Board | None  # the board after filtering, with its own ranks and means
    entries: tuple[Entry, ...]  # those of it that match the search, in the order of the table

    @property
    def address(self) -> dict[str, str]:
        """The query for the address, see `Inputs.to_address`, without the usual reference."""
        usual = "" if self.filtered is None else _reference(self.filtered, "")
        reference = "" if self.query.reference == usual else self.query.reference
        return dataclasses.replace(self.query, reference=reference).to_address()

    @cached_property
    def leaders(self) -> dict[str, frozenset[str]]:
        """`board.leaders` of the filtered board; empty if there is none."""
        return {} if self.filtered is None else leaders(self.filtered)

    @cached_property
    def gains(self) -> dict[str, dict[str, Gain]]:
        """`board.gains` of the filtered board over the reference; empty without entries."""
        part = self.filtered
        return gains(part, self.query.reference) if part and part.entries else {}

    @cached_property
    def drawn(self) -> Board:
        """The filtered board with the entries that match the search; ranks stay.

        Raises:
            ValueError: There is no board.
        """
        if self.filtered is None:
            raise ValueError("there is no board to draw: run an evaluation first.")
        names = {entry.name for entry in self.entries}
        entries = tuple(entry for entry in self.filtered.entries if entry.name in names)
        return dataclasses.replace(self.filtered, entries=entries)


class _Runs:
    """Leaderboards that are equal if they have the same runs."""

    def __init__(self, boards: Leaderboards) -> None:
        self.boards = boards
        # The boards of the same runs are the same objects, see `evals.leaderboard.board.boards`.
        self._facts = (
            id(boards.boards),
            boards.unscored,
            *map(_pairs, (boards.damaged, boards.replaced)),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Runs) and self._facts == other._facts

    def __hash__(self) -> int:
        return hash(self._facts)


def _pairs(words: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(words.items())


def run_query(library: Library, query: Query) -> BoardView:
    """Apply a query; unknown names are ignored.

    A board that is part of another one is shown as the cluster of that one. The last results are
    kept until there are other runs.
    """
    return _run(query, _Runs(library.leaderboards(local=query.local)))


@lru_cache(_KEPT)
def _run(query: Query, runs: _Runs) -> BoardView:
    boards = runs.boards
    by_id = {board.id: board for board in boards.boards}
    board = by_id.get(query.board) or next(iter(boards.boards), None)
    if board is None:
        return BoardView(query, boards, None, None, None, ())
    cluster = query.cluster
    if board.part_of:
        cluster, board = board.cluster, by_id[board.part_of]
    if cluster not in board.clusters or len(board.clusters) == 1:
        cluster = ""
    names = board.clusters[cluster] if cluster else [task.name for task in board.tasks]
    tasks = tuple(name for name in names if name in query.tasks)
    selectable = restrict(board, tasks or names)
    budget = query.budget if query.budget.isdecimal() else ""
    axes = _axes(selectable, query)
    columns = {*_MEASURED, *names}
    query = dataclasses.replace(
        query,
        board=board.id,
        cluster=cluster,
        view=query.view if query.view in VIEWS else VIEWS[0],
        cost=axes[0],
        versus=axes[1],
        tasks=tasks,
        budget=budget,
        sort=query.sort if query.sort.removeprefix("-") in columns else "",
    )
    kept = [
        entry.name
        for entry in selectable.entries
        if (not query.families or family(entry.method) in query.families)
        and (not budget or (entry.parameters or 0) <= int(budget))
    ]
    filtered = restrict(selectable, entries=kept)
    query = dataclasses.replace(query, reference=_reference(filtered, query.reference))
    entries = [entry for entry in filtered.entries if _matches(entry, query.find)]
    return BoardView(query, boards, board, selectable, filtered, _sorted(entries, query.sort))


def _axes(board: Board, query: Query) -> tuple[str, str]:
    """Two different quantities for the Pareto plot: the asked ones, else the usual ones."""
    known = pareto.known(board)
    x = query.cost if query.cost in known else Query.cost
    if query.versus in known and query.versus != x:
        return x, query.versus
    return x, Query.versus if x != Query.versus else Query.cost


def _reference(board: Board, name: str) -> str:
    """The entry to compare with: the named one, else `REFERENCE`, else the first."""
    for candidate in (name, REFERENCE):
        try:
            return find_entry(board, candidate).name
        except UnknownEntryError:
            continue
    return board.entries[0].name if board.entries else ""


def _matches(entry: Entry, words: str) -> bool:
    parts = [part.strip().lower() for part in words.replace("，", ",").split(",")]
    searched = [part for part in parts if part]
    return not searched or any(part in entry.name.lower() for part in searched)


def toggle_sort(sort: str, column: str) -> str:
    """The order after a click on a column's header, see `Query.sort`."""
    first, second = column, f"-{column}"
    if column not in _LOWER_IS_BETTER:
        first, second = second, first
    return second if sort == first else first


def _sorted(entries: Sequence[Entry], sort: str) -> tuple[Entry, ...]:
    """Sorted by a column; entries without its value come last either way."""
    if not sort:
        return tuple(entries)
    column = sort.removeprefix("-")
    present = [entry for entry in entries if column_value(entry, column) is not None]
    missing = [entry for entry in entries if column_value(entry, column) is None]
    present.sort(key=lambda entry: column_value(entry, column), reverse=sort.startswith("-"))
    return (*present, *missing)


def column_value(entry: Entry, column: str) -> Any:
    """An entry's value in a column; None where it is unknown or the entry lacks the task."""
    if column in ("overall", "forgetting"):
        estimate = getattr(entry, column)
        return estimate and estimate.value
    if column == "spread":
        return entry.spread.standard_deviation if entry.spread.seeds > 1 else None
    if column in entry.scores:
        return entry.scores[column].estimate.value
    return getattr(entry, column, None)
