"""A board as a sortable table whose cells open their samples, or as a chart with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any, cast

from evals.figures import charts
from evals.figures.captions import percent, points, size, title
from evals.figures.charts import Quantity
from evals.figures.palette import colour, symbol
from evals.leaderboard import tables
from evals.leaderboard.board import Board, wins
from evals.leaderboard.entries import Entry
from evals.leaderboard.run_sources import Library
from evals.leaderboard.tables import Table
from evals.methods import description, is_main
from evals.scoring.effect_sizes import OVERALL
from evals.scoring.statistics import Estimate
from evals.tasks import Language
from ui.components import html
from ui.components.texts import text
from ui.tabs.leaderboard.query import COSTS, RANK, BoardView, Selection

UNKNOWN = "–"
_WITH_NOTE = (*COSTS, "tokens_per_second")
_TITLES = {"name": "method", "overall": "mean"}
_NOTES = {
    "overall": "board_interval",
    **{key: f"board_{key}_note" for key in (RANK, *_WITH_NOTE, "forgetting")},
}
_SHAPES: Mapping[str, str] = {
    "circle": '<circle cx="6" cy="6" r="4.5"/>',
    "square": '<path d="M2 2h8v8H2z"/>',
    "diamond": '<path d="M6 .5 11.5 6 6 11.5.5 6z"/>',
    "triangle-up": '<path d="M6 1 11.5 10.5H.5z"/>',
    "triangle-down": '<path d="M6 11 .5 1.5h11z"/>',
    "cross": '<path d="M4 1h4v3h3v4H8v3H4V8H1V4h3z"/>',
    "x": '<path d="M2.5 1 6 4.5 9.5 1 11 2.5 7.5 6 11 9.5 9.5 11 6 7.5 2.5 11 1 9.5 4.5 6z"/>',
}
_MAX_OUTLINES = 5
"""How many outlines of a radar chart can be told apart."""


def board_table(
    shown: BoardView, library: Library, selection: Selection, language: Language
) -> str:
    """The table, or advice if no entry matches; the selected cell is marked."""
    if shown.filtered is None or not shown.entries:
        return f'<p class="board-empty">{text("board_nothing_fits", language)}</p>'
    table = _BoardTable(shown, shown.filtered, library, selection, language)
    caption = text("board_caption", language)
    return (
        f'<div class="board-scroll" role="region" tabindex="0" aria-label="{caption}">'
        f'<table class="board">{html.hidden_caption(caption)}'
        f"<thead><tr>{table.header()}</tr></thead><tbody>{table.body()}</tbody></table></div>"
        f'<p class="quiet board-key">{text("board_key", language)}</p>'
    )


class _BoardTable:
    """Header and rows of the shown entries, which are compared within the filtered board."""

    def __init__(
        self,
        shown: BoardView,
        board: Board,
        library: Library,
        selection: Selection,
        language: Language,
    ) -> None:
        self.tasks = board.tasks
        self.entries = shown.entries
        self.sort = shown.query.sort
        self.library = library
        self.selected = (selection.entry, selection.cell)
        self.language = language
        self.close = shown.leaders
        self.best = {
            task: max(entry.scores[task].estimate.value for entry in board.entries)
            for task in self.close
        }
        self.low, self.high = scale([entry.overall for entry in shown.entries])
        ranks = [entry.rank for entry in board.entries]
        self.shared = {rank for rank in ranks if ranks.count(rank) > 1}
        self.has_seeds = any(entry.spread.seeds > 1 for entry in shown.entries)
        self.has_forgetting = any(entry.forgetting for entry in shown.entries)

    def header(self) -> str:
        spread = ["spread"] if self.has_seeds else []
        forgetting = ["forgetting"] if self.has_forgetting else []
        cells = [
            self._header(key, text(f"board_{_TITLES.get(key, key)}", self.language), note)
            for key in (RANK, "name", "overall", *spread, *_WITH_NOTE, *forgetting)
            for note in [text(_NOTES[key], self.language) if key in _NOTES else ""]
        ]
        cells += [
            self._header(task.name, title(task.name, self.language), task.metric)
            for task in self.tasks
        ]
        return "".join(cells)

    def _header(self, key: str, title: str, note: str) -> str:
        direction = "none"
        if key == (self.sort.removeprefix("-") or RANK):
            direction = "descending" if self.sort.startswith("-") else "ascending"
        small = f"<small>{escape(note)}</small>" if note else ""
        kind = {RANK: "rank", "name": "method", "overall": "mean"}.get(key, "number")
        hint = text("board_sort_by", self.language, column=title)
        return (
            f'<th scope="col" class="{kind}" aria-sort="{direction}">'
            f'<button type="button" data-sort="{escape(key)}" title="{escape(hint)}">'
            f"<span>{escape(title)}</span>{small}</button></th>"
        )

    def body(self) -> str:
        return "".join(f"<tr>{self._cells(entry)}</tr>" for entry in self.entries)

    def _cells(self, entry: Entry) -> str:
        spread, ranks = entry.spread, [entry.active_rank, entry.total_rank]
        deviation = f"±{points(spread.standard_deviation)}<small> × {spread.seeds}</small>"
        speed = entry.tokens_per_second
        numbers = [
            *([deviation if spread.seeds > 1 else UNKNOWN] if self.has_seeds else []),
            self._size(entry, "parameters"),
            UNKNOWN
            if ranks == [None, None]
            else " / ".join(UNKNOWN if rank is None else str(rank) for rank in ranks),
            self._size(entry, "training_seconds"),
            UNKNOWN if speed is None else f"{speed:.0f}",
            *([_forgetting(entry.forgetting)] if self.has_forgetting else []),
        ]
        cells = [self._rank(entry), self._method(entry), self._mean(entry)]
        cells += [f'<td class="number">{number}</td>' for number in numbers]
        return "".join([*cells, *(self._score(entry, task.name) for task in self.tasks)])

    def _size(self, entry: Entry, quantity: str) -> str:
        value = getattr(entry, quantity)
        return UNKNOWN if value is None else size(quantity, value, self.language)

    def _rank(self, entry: Entry) -> str:
        tied = text("board_tied_with", self.language)
        note = f'<span class="unseen"> {tied}</span>' if entry.rank in self.shared else ""
        low, high = entry.rank_interval
        hint = text("board_rank_hint", self.language, low=low, high=high)
        interval = f"<small>({places(entry)})</small>"
        return f'<td class="rank" title="{escape(hint)}">{entry.rank}{note} {interval}</td>'

    def _method(self, entry: Entry) -> str:
        local = text("board_local_mark", self.language)
        note = f'<em class="local">{local}</em>' if self.library.is_local(entry) else ""
        suffix = entry.name.removeprefix(entry.method)  # tells it from others of the method
        more = f"<small>{escape(suffix)}</small>" if suffix != entry.name else ""
        name = escape(entry.method if more else entry.name)
        inside = f"{marker(entry.method)}<span>{name}{more}{note}</span>"
        about = description(entry.method, self.language)
        button = self._button(entry, OVERALL, inside, about, is_cell=False)
        return f'<th scope="row" class="method">{button}</th>'

    def _mean(self, entry: Entry) -> str:
        mean = entry.overall
        inside = (
            f"<b>{points(mean.value)}</b>{interval(mean, entry.method, self.low, self.high)}"
            f"<small>{points(mean.low)}–{points(mean.high)}</small>"
        )
        return f'<td class="mean">{self._button(entry, OVERALL, inside)}</td>'

    def _score(self, entry: Entry, task: str) -> str:
        score = entry.scores[task].estimate
        standing = "close" if entry.name in self.close[task] else "behind"
        if score.value == self.best[task]:
            standing = "best"
        words = text(f"board_{standing}", self.language)
        inside = f'{points(score.value)}<span class="unseen"> {words}</span>'
        bounds = f"[{points(score.low)}, {points(score.high)}]"
        hint = f"{bounds} · n = {score.samples:,} · {words}"
        return f'<td class="number {standing}">{self._button(entry, task, inside, hint)}</td>'

    def _button(
        self, entry: Entry, task: str, inside: str, hint: str = "", *, is_cell: bool = True
    ) -> str:
        name = text(
            "board_view_samples", self.language, name=entry.name, task=title(task, self.language)
        )
        is_current = is_cell and (entry.name, task) == self.selected
        current = ' aria-current="true"' if is_current else ""
        tooltip = escape("\n".join(filter(None, (hint, name))))
        return (
            f'<button type="button" data-entry="{escape(entry.name)}" data-cell="{escape(task)}" '
            f'title="{tooltip}"{current}>{inside}</button>'
        )


def _forgetting(estimate: Estimate | None) -> str:
    if estimate is None:
        return UNKNOWN
    interval = f"[{estimate.low:+.2f}, {estimate.high:+.2f}]"
    return f"{estimate.value:+.2f} <small>{interval}</small>"


def places(entry: Entry) -> str:
    """The interval of an entry's rank: `1–3`, or `1`."""
    low, high = entry.rank_interval
    return f"{low}–{high}" if low < high else f"{low}"


def text_table(table: Table, kind: str = "") -> str:
    """A table of text cells as HTML; `kind` is its class, such as `unseen`."""
    rows = []
    for row in table.rows:
        kinds = ["word"] * table.words + ["number"] * (len(row) - table.words)
        cells = (
            f'<td class="{one}">{escape(cell)}</td>' for one, cell in zip(kinds, row, strict=True)
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    caption = html.hidden_caption(table.title)
    return html.table(map(escape, table.header), rows, caption=caption, kind=kind)


def budgets(board: Board, language: Language) -> Mapping[str, str]:
    """Each adapter size on the board as a limit, by its number of parameters."""
    sizes = sorted({entry.parameters for entry in board.entries if entry.parameters})
    return {
        str(one): text("board_at_most", language, size=size("parameters", one, language))
        for one in sizes
    }


# Drawings -----------------------------------------------------------------------------------


def marker(method: str) -> str:
    """The method's marker in its colour, as in the charts."""
    fill = colour(method)
    return (
        f'<svg class="mark" viewBox="0 0 12 12" fill="{fill}" aria-hidden="true">'
        f"{shape(method)}</svg>"
    )


def shape(method: str) -> str:
    """The method's marker as an element of SVG, 12 units wide."""
    return _SHAPES.get(symbol(method), _SHAPES["circle"])


def scale(scores: Sequence[Estimate]) -> tuple[float, float]:
    """Ends of a common scale of intervals.

    Outliers far below would compress the others: up to a quarter of the scores may lie off the
    scale if that halves it.
    """
    lows, high = sorted(one.low for one in scores), max(one.high for one in scores)
    outliers = lows[: 1 + len(lows) // 4]
    return next((low for low in outliers if 2 * (high - low) < high - lows[0]), lows[0]), high


def interval(score: Estimate, method: str, low: float, high: float) -> str:
    """A line over the interval with a dot at the value, in the method's colour.

    `low` and `high` are the ends of the scale; a score below it is drawn as an arrow.
    """
    width = (high - low) or 1.0
    left, at, right = (
        max(0.0, 100 * (value - low) / width) for value in (score.low, score.value, score.high)
    )
    kind = "interval" if score.value >= low else "interval below"
    style = f"--low:{left:.1f}%;--at:{at:.1f}%;--high:{right:.1f}%;--colour:{colour(method)}"
    return f'<span class="{kind}" style="{escape(style)}" aria-hidden="true"></span>'


# Charts ----------------------------------------------------------------------------------------


def chart(shown: BoardView, language: Language) -> tuple[Any, Table] | None:
    """The figure of the chosen view and its numbers; None for the table and without data."""
    view = shown.query.view
    board = _with_reference(shown) if view == "seesaw" else shown.drawn
    if view == "table" or len(board.entries) < (2 if view == "seesaw" else 1):
        return None
    draw: dict[str, Callable[[], tuple[Any, Table]]] = {
        "tasks": lambda: (charts.per_task(board, language), tables.task_table(board)),
        "seesaw": lambda: (
            charts.seesaw(board, shown.query.reference, language),
            tables.seesaw_table(board, shown.query.reference),
        ),
        "pareto": lambda: (
            charts.pareto(
                board,
                language,
                cast(Quantity, shown.query.cost),
                cast(Quantity, shown.query.versus),
            ),
            tables.overall_table(board),
        ),
        "heat": lambda: (charts.heat_map(board, language), tables.task_table(board)),
        "wins": lambda: (charts.win_matrix(board, language), _wins_table(board)),
        "radar": lambda: (
            charts.radar(board, _outlines(board), language),
            tables.task_table(board),
        ),
        "noise": lambda: (charts.seeds(board, language), tables.overall_table(board)),
    }
    return draw[view]()


def _with_reference(shown: BoardView) -> Board:
    """The drawn board with the reference, which the search may have left out."""
    board, filtered = shown.drawn, shown.filtered
    if filtered is None or any(one.name == shown.query.reference for one in board.entries):
        return board
    names = {entry.name for entry in board.entries} | {shown.query.reference}
    entries = tuple(entry for entry in filtered.entries if entry.name in names)
    return replace(filtered, entries=entries)


def _outlines(board: Board) -> list[str]:
    names = [entry.name for entry in board.entries]
    main = [entry.name for entry in board.entries if is_main(entry.method)]
    return names if len(names) <= _MAX_OUTLINES else (main or names)[:_MAX_OUTLINES]


def _wins_table(board: Board) -> Table:
    duels = wins(board)
    names = [entry.name for entry in board.entries]

    def cell(one: str, other: str) -> str:
        if one == other:
            return ""
        duel = duels[one][other]
        return f"{percent(duel.probability)} %, {duel.won}"

    rows = ((one, *(cell(one, other) for other in names)) for one in names)
    title = f"P(row better than column), sure wins of {len(board.tasks)} tasks"
    return Table(title, ("method", *names), tuple(rows))
