"""Which samples stand behind what was picked on a board: the runs, the kind, the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from evals.leaderboard.board import Board, Entry, UnknownEntryError, find_entry
from evals.leaderboard.drilldown import KINDS, Only, Sample, SamplesBehind, samples_behind
from evals.methods import CGC_LORA, SINGLE
from evals.runs.run_dir import Run, RunError, read_run
from evals.runs.scored_run import UNREADABLE
from evals.scoring.effect_sizes import OVERALL
from ui.tabs.leaderboard.query import Picked

PAGE = 20
"""Samples a page."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Behind:
    """What stands behind a cell.

    Attributes:
        picked: What was picked, where it exists; the default else.
        entry: Whose samples.
        other: Who stands beside; None for nobody.
        run: Of the entry, with the chosen seed.
        found: All samples of the cell.
        page: Those of the kind that is asked for, on the page that is asked for.
        first: Number of the page's first sample among those of its kind, from 1; 0 if none.
        count: How many there are of the kind.
    """

    picked: Picked
    entry: Entry
    other: Entry | None
    run: Run
    found: SamplesBehind
    page: tuple[Sample, ...]
    first: int
    count: int

    @property
    def last(self) -> int:
        """Number of the page's last sample."""
        return self.first + len(self.page) - 1 if self.page else 0


def pick(board: Board, words: Sequence[str], reference: str = "") -> Picked | None:
    """What somebody means who clicked a mark that is called so; None if nothing.

    Args:
        board: Where it was.
        words: Names of the mark, the row and the column, those of entries and tasks among others.
        reference: Whom a picture compares with, who then stands beside.
    """
    names = {entry.name for entry in board.entries}
    tasks = {OVERALL, *(task.name for task in board.tasks)}
    entries = [word for word in dict.fromkeys(words) if word in names]
    if not entries:
        return None
    cell = next((word for word in words if word in tasks), OVERALL)
    return beside(board, Picked(entry=entries[0], cell=cell, against=(*entries, reference)[1]))


def beside(board: Board, picked: Picked) -> Picked:
    """With somebody beside the entry, if nobody is: whom it is worth comparing with."""
    others = [entry for entry in board.entries if entry.name != picked.entry]
    if picked.against in [entry.name for entry in others]:
        return picked
    likely = [entry for one in (SINGLE, CGC_LORA) for entry in others if entry.method == one]
    return replace(picked, against=next((entry.name for entry in (*likely, *others)), ""))


def behind(board: Board, picked: Picked) -> Behind | None:
    """The samples that are asked for; None if the board has no such entry.

    Raises:
        RunError: The answers of a run are missing or damaged.
    """
    entry, other = _find(board, picked.entry), _find(board, picked.against)
    if entry is None:
        return None
    other = None if other is entry else other
    tasks = [task.name for task in board.tasks]
    picked = replace(
        picked,
        entry=entry.name,
        cell=picked.cell if picked.cell in tasks else OVERALL,
        against=other.name if other else "",
        seed=str(_number(picked.seed, len(entry.folders))),
        only=picked.only if picked.only in (KINDS if other else KINDS[:2]) else KINDS[0],
    )
    wanted = tasks if picked.cell == OVERALL else [picked.cell]
    run = _read(entry, int(picked.seed))
    theirs = None if other is None else _read(other, int(picked.seed))
    found = _guarded(lambda: samples_behind(run, wanted, theirs))
    return _on_page(picked, entry, other, run, found)


def _find(board: Board, name: str) -> Entry | None:
    """An entry by name; by method, too, since names grow when further runs come to a board."""
    try:
        return find_entry(board, name)
    except UnknownEntryError:
        return None


def _on_page(
    picked: Picked, entry: Entry, other: Entry | None, run: Run, found: SamplesBehind
) -> Behind:
    only: Only = picked.only  # type: ignore[assignment]
    kept = [sample for sample in found.samples if sample.is_among(only)]
    leaf = _number(picked.leaf, -(-len(kept) // PAGE), last=True)
    page = tuple(kept[PAGE * leaf : PAGE * (leaf + 1)])
    picked = replace(picked, leaf=str(leaf))
    first = PAGE * leaf + 1 if page else 0
    return Behind(picked, entry, other, run, found, page, first, len(kept))


def _number(digits: str, count: int, *, last: bool = False) -> int:
    """A number below a count; one that is too large becomes 0, or the last one."""
    wanted = int(digits) if digits.isdecimal() else 0
    if wanted < count:
        return wanted
    return max(0, count - 1) if last else 0


def _read(entry: Entry, place: int) -> Run:
    """The entry's run of a place; the first if it has fewer."""
    folder = entry.folders[_number(str(place), len(entry.folders))]
    return _guarded(lambda: read_run(Path(folder)))


def _guarded(read: Callable[[], Found]) -> Found:
    """What is read, or a RunError: a folder may change at any time, by anybody's hand."""
    try:
        return read()
    except RunError:
        raise
    except UNREADABLE as error:
        raise RunError(f"the run is damaged: {error!r}.") from error
