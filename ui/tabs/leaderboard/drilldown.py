"""Resolves a selection on a board to runs and a page of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from evals.leaderboard.board import Board, Entry, UnknownEntryError, find_entry
from evals.leaderboard.drilldown import KINDS, Sample, SamplesBehind, samples_behind
from evals.methods import CGC_LORA, SINGLE
from evals.runs.run_dir import Run, RunError, read_run
from evals.runs.scored_run import UNREADABLE
from evals.scoring.effect_sizes import OVERALL
from ui.tabs.leaderboard.query import Selection

PAGE = 20
"""Samples a page."""

T = TypeVar("T")


@dataclass(frozen=True)
class DrillDown:
    """The samples of a cell.

    Attributes:
        selection: With defaults in place of what does not exist.
        entry: The entry whose samples they are.
        other: The entry beside it; None for none.
        run: The entry's run of the chosen seed.
        cell: All samples of the cell.
        page: Those of the chosen kind on the chosen page.
        first: Number of the page's first sample among those of its kind, from 1; 0 if none.
        count: How many samples of the kind there are.
    """

    selection: Selection
    entry: Entry
    other: Entry | None
    run: Run
    cell: SamplesBehind
    page: tuple[Sample, ...]
    first: int
    count: int

    @property
    def last(self) -> int:
        """Number of the page's last sample."""
        return self.first + len(self.page) - 1 if self.page else 0


def select_marker(board: Board, words: Sequence[str], reference: str = "") -> Selection | None:
    """The selection of a click on a chart's marker; None if it is none.

    Args:
        board: The one that is drawn.
        words: Names of the marker, its row and its column, some of them entries or tasks.
        reference: The entry that the chart compares with.
    """
    names = {entry.name for entry in board.entries}
    tasks = {OVERALL, *(task.name for task in board.tasks)}
    entries = [word for word in dict.fromkeys(words) if word in names]
    if not entries:
        return None
    cell = next((word for word in words if word in tasks), OVERALL)
    against = (*entries, reference)[1]
    return with_other(board, Selection(entry=entries[0], cell=cell, against=against))


def with_other(board: Board, selection: Selection) -> Selection:
    """The selection with another entry beside it, by default single-task LoRA or CGC-LoRA."""
    others = [entry for entry in board.entries if entry.name != selection.entry]
    if selection.against in [entry.name for entry in others]:
        return selection
    likely = [entry for one in (SINGLE, CGC_LORA) for entry in others if entry.method == one]
    return replace(selection, against=next((entry.name for entry in (*likely, *others)), ""))


def drill_down(board: Board, selection: Selection) -> DrillDown | None:
    """The samples of a selection; None if the board has no such entry.

    Raises:
        RunError: The answers of a run are missing or damaged.
    """
    entry, other = _find(board, selection.entry), _find(board, selection.against)
    if entry is None:
        return None
    other = None if other is entry else other
    tasks = [task.name for task in board.tasks]
    kinds = KINDS if other else KINDS[:2]
    seed = _index(selection.seed, len(entry.folders))
    cell = selection.cell if selection.cell in tasks else OVERALL
    only = next((kind for kind in kinds if kind == selection.only), KINDS[0])
    run = _read(entry, seed)
    other_run = None if other is None else _read(other, seed)
    samples = _guarded(lambda: samples_behind(run, tasks if cell == OVERALL else [cell], other_run))
    matching = [sample for sample in samples.samples if sample.is_among(only)]
    leaf = _index(selection.leaf, -(-len(matching) // PAGE), last=True)
    page = tuple(matching[PAGE * leaf : PAGE * (leaf + 1)])
    against = other.name if other else ""
    selection = Selection(entry.name, cell, against, str(seed), only, str(leaf))
    first = PAGE * leaf + 1 if page else 0
    return DrillDown(selection, entry, other, run, samples, page, first, len(matching))


def _find(board: Board, name: str) -> Entry | None:
    """An entry by name or method: names grow longer when a board gets further runs."""
    try:
        return find_entry(board, name)
    except UnknownEntryError:
        return None


def _index(digits: str, count: int, *, last: bool = False) -> int:
    """A number below a count; one that is too large becomes 0, or the last one."""
    wanted = int(digits) if digits.isdecimal() else 0
    if wanted < count:
        return wanted
    return max(0, count - 1) if last else 0


def _read(entry: Entry, seed: int) -> Run:
    """The entry's run of an index; the first if it has fewer."""
    folder = entry.folders[seed if seed < len(entry.folders) else 0]
    return _guarded(lambda: read_run(Path(folder)))


def _guarded(read: Callable[[], T]) -> T:
    """Read files that anybody may change at any time; every error becomes a RunError."""
    try:
        return read()
    except RunError:
        raise
    except UNREADABLE as error:
        raise RunError(f"the run is damaged: {error!r}.") from error
