"""Boards and comparisons as tables: aligned text for a terminal, Markdown, and JSON values.

Scores are shown times 100, with the 95 % interval of item noise in brackets.
"""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from evals.leaderboard.board import (
    REFERENCE,
    Board,
    UnknownEntryError,
    find_entry,
    gains,
    leaders,
)
from evals.leaderboard.comparison import Comparison
from evals.leaderboard.entries import Entry
from evals.leaderboard.published import PUBLISHED
from evals.scoring.effect_sizes import OVERALL, Gain
from evals.scoring.statistics import Estimate

BEST, CLOSE, SURE = "*", "~", "*"
"""Marks of a task's best score, of one that it does not beat, and of a significant gain."""

UNKNOWN = "-"

_INTERNAL = ("replicates", "parts", "tokens", "seconds", "forgotten")
"""Fields of an entry that are no result."""


@dataclass(frozen=True)
class Table:
    """Cells of text."""

    title: str  # of one line
    header: tuple[str, ...]  # [C] names of the columns
    rows: tuple[tuple[str, ...], ...]  # [R][C] cells
    notes: tuple[str, ...] = ()  # lines below the table
    words: int = 1  # number of left-aligned columns, from the left; the others hold numbers

    def text(self) -> str:
        """Plain text, aligned by the width of characters in a terminal."""
        lines = [tuple(map(_printable, line)) for line in (self.header, *self.rows)]
        widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
        body = [
            "  ".join(
                _padded(cell, widths[place], left=place < self.words)
                for place, cell in enumerate(line)
            ).rstrip()
            for line in lines
        ]
        notes = [_printable(note) for note in self.notes]
        return "\n".join([_printable(self.title), *body, *notes])

    def markdown(self) -> str:
        """Markdown of GitHub: a heading, a table and the notes."""
        rule = [":--" if place < self.words else "--:" for place in range(len(self.header))]
        escaped = [[_escaped(cell) for cell in line] for line in (self.header, *self.rows)]
        lines = [f"| {' | '.join(line)} |" for line in (escaped[0], rule, *escaped[1:])]
        notes = ["", "  \n".join(map(_escaped, self.notes))] if self.notes else []
        return "\n".join([f"### {_escaped(self.title)}", "", *lines, *notes])


@dataclass(frozen=True)
class Listing:
    """Lines of text."""

    title: str  # of one line
    lines: tuple[str, ...]

    def text(self) -> str:
        """Plain text."""
        return "\n".join(map(_printable, (self.title, *self.lines)))

    def markdown(self) -> str:
        """Markdown of GitHub: a heading and a list."""
        items = (f"- {_escaped(line)}" for line in self.lines)
        return "\n".join([f"### {_escaped(self.title)}", "", *items])


def width(text: str) -> int:
    """Columns of a text in a terminal: two for wide characters, none for combining ones."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def _padded(cell: str, columns: int, *, left: bool) -> str:
    blank = " " * (columns - width(cell))
    return cell + blank if left else blank + cell


def _printable(text: str) -> str:
    """Without control characters, which names in run folders may contain."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _escaped(text: str) -> str:
    return "".join(f"\\{one}" if one in "\\|*~_`<[" else one for one in _printable(text))


# Boards -----------------------------------------------------------------------------------


def board_tables(board: Board, reference: str | None = None) -> list[Table]:
    """The shared facts, the ranking, the scores by task and, with a reference, the seesaw."""
    tables = [facts_table(board), overall_table(board), task_table(board)]
    return tables if reference is None else [*tables, seesaw_table(board, reference)]


def facts_table(board: Board) -> Table:
    """The facts that the entries of a board share, by task."""
    return Table(
        board_title(
            board, f"{len(board.tasks)} tasks, n {sum(task.samples for task in board.tasks):,}"
        ),
        ("task", "metric", "metric version", "task version", "data", "n"),
        tuple(
            (
                *(task.name, task.metric, task.metric_version, task.version),
                *(task.data[:8], f"{task.samples:,}"),
            )
            for task in board.tasks
        ),
        ("Data: the first digits of the hash of the records.",),
        words=5,
    )


def overall_table(board: Board) -> Table:
    """The ranking by the mean over the tasks, with the costs of each entry."""
    has_forgetting = any(entry.forgetting for entry in board.entries)
    return Table(
        board_title(board, f"mean over {len(board.tasks)} tasks"),
        (
            *("rank", "method", "score", "seeds", "parameters", "total / active rank"),
            *("training min", "peak GiB", *["forgetting"] * has_forgetting),
        ),
        tuple(
            (
                _rank(entry),
                entry.name,
                _estimate(entry.overall),
                _seeds(entry),
                _count(entry.parameters),
                _ranks(entry),
                _divided(entry.training_seconds, 60),
                _divided(entry.peak_memory, 2**30),
                *[nats(entry.forgetting)] * has_forgetting,
            )
            for entry in board.entries
        ),
        (
            "Rank: 1 + the number of methods whose interval lies wholly above; in brackets, the "
            "places that it takes in 95 % of the resamples. Intervals: 95 %, of item noise "
            "(bootstrap over records). ±: standard deviation over training seeds.",
            *["Forgetting: nats a token more than the bare backbone on texts unlike the tasks."]
            * has_forgetting,
        ),
        words=2,
    )


def task_table(board: Board) -> Table:
    """The score of each method on each task."""
    close = leaders(board)
    tasks = [task.name for task in board.tasks]
    best = {
        task: max(entry.scores[task].estimate.value for entry in board.entries) for task in tasks
    }

    def cell(entry: Entry, task: str) -> str:
        value = entry.scores[task].estimate.value
        mark = BEST if value == best[task] else CLOSE if entry.name in close[task] else " "
        return f"{_score(value)} {mark}"

    return Table(
        board_title(board, "scores by task"),
        ("method", *tasks, "mean"),
        tuple(
            (entry.name, *(cell(entry, task) for task in tasks), _score(entry.overall.value))
            for entry in board.entries
        ),
        (
            f"{BEST} best of the task; {CLOSE} cannot be told from it (paired bootstrap, Holm's "
            "rule over the methods, p >= .05).",
        ),
    )


def seesaw_table(board: Board, reference: str) -> Table:
    """Each method's gain over the reference by task; UnknownEntryError if that is missing."""
    name = find_entry(board, reference).name
    gained = gains(board, reference)
    return Table(
        board_title(board, f"gain over {name}"),
        ("method", *(task.name for task in board.tasks), "mean"),
        tuple(
            (entry.name, *(_gain(one) for one in gained[entry.name].values()))
            for entry in board.entries
            if entry.name != name
        ),
        (
            f"{SURE} p < .05 (paired bootstrap, Holm's rule over the tasks of a method; the mean "
            "by itself).",
        ),
    )


def published_table() -> Table:
    """The scores published elsewhere."""
    return Table(
        "Published elsewhere, not to be ranked with the runs above",
        ("method", "backbone", "cluster", "score", "source", "note"),
        tuple(
            (one.method, one.backbone, one.cluster, f"{100 * one.score:.2f}", one.source, one.note)
            for one in PUBLISHED
        ),
        words=6,
    )


def board_values(board: Board, reference: str | None = None) -> dict[str, Any]:
    """A board as JSON values, without replicates, with the gains over a reference.

    Raises:
        UnknownEntryError: The reference is not on the board.
    """
    seesaw = {} if reference is None else gains(board, reference)
    return {
        "id": board.id,
        "clusters": {cluster: list(names) for cluster, names in board.clusters.items()},
        "part_of": board.part_of,
        "split": board.split,
        "tasks": [asdict(task) for task in board.tasks],
        "entries": [
            {
                **{name: value for name, value in vars(entry).items() if name not in _INTERNAL},
                "tokens_per_second": entry.tokens_per_second,
                "scores": {
                    task: {"estimate": asdict(score.estimate), "spread": asdict(score.spread)}
                    for task, score in entry.scores.items()
                },
                "overall": asdict(entry.overall),
                "spread": asdict(entry.spread),
                "forgetting": entry.forgetting and asdict(entry.forgetting),
            }
            for entry in board.entries
        ],
        "leaders": {task: sorted(names) for task, names in leaders(board).items()},
        "reference": reference,
        "gains": {
            name: {task: asdict(one) for task, one in row.items()} for name, row in seesaw.items()
        },
    }


def reference_name(board: Board, reference: str | None = None) -> str | None:
    """The name of the reference, by default `REFERENCE`; None if the board does not have it."""
    with suppress(UnknownEntryError):
        return find_entry(board, REFERENCE if reference is None else reference).name
    return None


# Two runs ---------------------------------------------------------------------------------


def comparison_table(comparison: Comparison) -> Table:
    """A comparison of two runs by task."""
    metrics = {task.name: task.metric for task in comparison.tasks}
    return Table(
        f"A: {comparison.first}   B: {comparison.second}",
        ("task", "metric", "n", "A", "B", "A - B", "p", "p, Holm"),
        tuple(
            (
                name,
                metrics.get(name, "mean over the tasks"),
                f"{one.samples:,}",
                *map(_score, comparison.scores[name]),
                _gain(one),
                f"{one.p_value:.4f}",
                UNKNOWN if name == OVERALL else f"{one.adjusted:.4f}",
            )
            for name, one in comparison.gains.items()
        ),
        (
            f"p: {comparison.test} test, of the mean: paired bootstrap. {SURE} p < .05, by Holm's "
            "rule over the tasks. Intervals: 95 %, paired.",
            *(f"In both: {task}: {number}" for task, number in comparison.partly.items()),
            *(f"Left out: {task}: {reason}" for task, reason in comparison.left_out.items()),
        ),
        words=2,
    )


# Cells ------------------------------------------------------------------------------------


def board_title(board: Board, what: str) -> str:
    """A title with the board's cluster, split and id."""
    return f"{board.cluster}, {board.split or 'no split'} ({board.id}): {what}"


def _rank(entry: Entry) -> str:
    low, high = entry.rank_interval
    return f"{entry.rank} ({low})" if low == high else f"{entry.rank} ({low}-{high})"


def _score(value: float) -> str:
    return f"{100 * value:.1f}"


def _estimate(estimate: Estimate) -> str:
    return f"{_score(estimate.value)} [{_score(estimate.low)}, {_score(estimate.high)}]"


def nats(difference: Estimate | None) -> str:
    """A difference in nats a token with its interval."""
    if difference is None:
        return UNKNOWN
    value, low, high = (
        round(one, 3) + 0.0 for one in (difference.value, difference.low, difference.high)
    )
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _gain(one: Gain) -> str:
    value, low, high = (round(100 * x, 1) + 0.0 for x in (one.value, one.low, one.high))  # no -0.0
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}] {SURE if one.significant else ' '}"


def _seeds(entry: Entry) -> str:
    if entry.seeds == (None,):
        return UNKNOWN
    if entry.spread.seeds == 1:
        return "1 seed"
    return f"{entry.spread.seeds} seeds, ±{_score(entry.spread.standard_deviation)}"


def _count(parameters: int | None) -> str:
    if parameters is None:
        return UNKNOWN
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.1f} {unit}"
    return str(parameters)


def _ranks(entry: Entry) -> str:
    if entry.total_rank is None:
        return UNKNOWN
    active = UNKNOWN if entry.active_rank is None else entry.active_rank
    return f"{entry.total_rank} / {active}"


def _divided(value: float | None, unit: float) -> str:
    return UNKNOWN if value is None else f"{value / unit:.1f}"
