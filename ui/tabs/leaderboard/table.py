"""The leaderboard as a table that sorts, each cell a button to the samples behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

from evals.figures.captions import points, size, title
from evals.leaderboard.board import Board, Entry, leaders
from evals.leaderboard.run_sources import Library
from evals.leaderboard.tables import Table
from evals.methods import description
from evals.scoring.effect_sizes import OVERALL
from evals.scoring.statistics import Estimate
from evals.tasks import Language
from ui.components.texts import text
from ui.tabs.leaderboard.markers import interval, mark, scale
from ui.tabs.leaderboard.query import RANK, Sight

UNKNOWN = "–"


@dataclass(frozen=True)
class _Column:
    """A column of the table.

    Attributes:
        key: What it is sorted by, see `column_value`.
        title: Of one line.
        note: Below the title.
        cell: The cell's element for an entry.
    """

    key: str
    title: str
    note: str
    cell: Callable[[Entry], str]


def board_table(sight: Sight, library: Library, picked: tuple[str, str], language: Language) -> str:
    """The table, or what to do where nothing fits.

    Args:
        sight: What is shown.
        library: Which runs are local.
        picked: Entry and task whose samples are shown.
        language: Of the words.
    """
    if sight.part is None or not sight.entries:
        return f'<p class="board-empty">{text("board_nothing_fits", language)}</p>'
    columns = _columns(sight.part, sight.entries, library, picked, language)
    head = "".join(_head(column, sight.asked.sort, language) for column in columns)
    body = "".join(
        f"<tr>{''.join(column.cell(entry) for column in columns)}</tr>" for entry in sight.entries
    )
    caption = text("board_caption", language)
    return (
        f'<div class="board-scroll" role="region" tabindex="0" aria-label="{caption}">'
        f'<table class="board"><caption class="unseen">{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="quiet board-key">{text("board_key", language)}</p>'
    )


def _head(column: _Column, sort: str, language: Language) -> str:
    sorted_by = sort.removeprefix("-") or RANK
    way = "none"
    if column.key == sorted_by:
        way = "descending" if sort.startswith("-") else "ascending"
    note = f"<small>{escape(column.note)}</small>" if column.note else ""
    place = {RANK: "rank", "name": "method", "overall": "mean"}.get(column.key, "number")
    hint = text("board_sort_by", language, column=column.title)
    return (
        f'<th scope="col" class="{place}" aria-sort="{way}">'
        f'<button type="button" data-sort="{escape(column.key)}" title="{escape(hint)}">'
        f"<span>{escape(column.title)}</span>{note}</button></th>"
    )


def _columns(
    part: Board,
    entries: tuple[Entry, ...],
    library: Library,
    picked: tuple[str, str],
    language: Language,
) -> list[_Column]:
    cells = _Cells(part, entries, library, picked, language)

    def column(key: str, cell: Callable[[Entry], str]) -> _Column:
        noted = key in ("parameters", "active_rank", "training_seconds", "tokens_per_second")
        note = text(f"board_{key}_note", language) if noted else ""
        return _Column(key, text(f"board_{key}", language), note, cell)

    found = [
        column(RANK, cells.rank),
        _Column("name", text("board_method", language), "", cells.method),
        _Column(
            "overall", text("board_mean", language), text("board_interval", language), cells.mean
        ),
    ]
    if any(entry.spread.seeds > 1 for entry in entries):
        found.append(column("spread", cells.spread))
    return [
        *found,
        column("parameters", cells.size_of("parameters")),
        column("active_rank", cells.ranks),
        column("training_seconds", cells.size_of("training_seconds")),
        column("tokens_per_second", cells.speed),
        *(
            _Column(task.name, title(task.name, language), task.metric, cells.of_task(task.name))
            for task in part.tasks
        ),
    ]


class _Cells:
    """Writes the cells of the entries that are shown, compared within the part."""

    def __init__(
        self,
        part: Board,
        entries: tuple[Entry, ...],
        library: Library,
        picked: tuple[str, str],
        language: Language,
    ) -> None:
        self.library = library
        self.picked = picked
        self.language = language
        self.close = leaders(part)
        self.best = {
            task: max(entry.scores[task].estimate.value for entry in part.entries)
            for task in self.close
        }
        self.least, self.most = scale([entry.overall for entry in entries])
        ranks = [entry.rank for entry in part.entries]
        self.shared = {rank for rank in ranks if ranks.count(rank) > 1}

    def rank(self, entry: Entry) -> str:
        tied = text("board_tied_with", self.language)
        note = f"<small>{tied}</small>" if entry.rank in self.shared else ""
        return f'<td class="rank">{entry.rank}{note}</td>'

    def method(self, entry: Entry) -> str:
        local = text("board_local_mark", self.language)
        note = f'<em class="local">{local}</em>' if self.library.is_local(entry) else ""
        rest = entry.name.removeprefix(entry.method)  # what tells it from others of the method
        more = f"<small>{escape(rest)}</small>" if rest != entry.name else ""
        name = escape(entry.method if more else entry.name)
        inside = f"{mark(entry.method)}<span>{name}{more}{note}</span>"
        button = self._button(
            entry, OVERALL, inside, description(entry.method, self.language), is_cell=False
        )
        return f'<th scope="row" class="method">{button}</th>'

    def mean(self, entry: Entry) -> str:
        of = entry.overall
        inside = (
            f"<b>{points(of.value)}</b>{interval(of, entry.method, self.least, self.most)}"
            f"<small>{points(of.low)}–{points(of.high)}</small>"
        )
        return f'<td class="mean">{self._button(entry, OVERALL, inside)}</td>'

    def of_task(self, task: str) -> Callable[[Entry], str]:
        def cell(entry: Entry) -> str:
            of = entry.scores[task].estimate
            if of.value == self.best[task]:
                standing = "best"
            else:
                standing = "close" if entry.name in self.close[task] else "behind"
            said = text(f"board_{standing}", self.language)
            inside = f'{points(of.value)}<span class="unseen"> {said}</span>'
            hint = f"{_bounds(of)} · n = {of.samples:,} · {said}"
            return f'<td class="number {standing}">{self._button(entry, task, inside, hint)}</td>'

        return cell

    def spread(self, entry: Entry) -> str:
        of = entry.spread
        if of.seeds < 2:
            return _plain(UNKNOWN)
        return _plain(f"±{points(of.standard_deviation)}<small> × {of.seeds}</small>")

    def size_of(self, quantity: str) -> Callable[[Entry], str]:
        def cell(entry: Entry) -> str:
            value = getattr(entry, quantity)
            return _plain(UNKNOWN if value is None else size(quantity, value, self.language))

        return cell

    def ranks(self, entry: Entry) -> str:
        known = [entry.active_rank, entry.total_rank]
        if known == [None, None]:
            return _plain(UNKNOWN)
        return _plain(" / ".join(UNKNOWN if one is None else str(one) for one in known))

    def speed(self, entry: Entry) -> str:
        value = entry.tokens_per_second
        return _plain(UNKNOWN if value is None else f"{value:.0f}")

    def _button(
        self, entry: Entry, task: str, inside: str, hint: str = "", *, is_cell: bool = True
    ) -> str:
        name = text(
            "board_view_samples", self.language, name=entry.name, task=title(task, self.language)
        )
        chosen = ' aria-current="true"' if is_cell and (entry.name, task) == self.picked else ""
        title_of = escape("\n".join(filter(None, (hint, name))))
        return (
            f'<button type="button" data-entry="{escape(entry.name)}" data-cell="{escape(task)}" '
            f'title="{title_of}"{chosen}>{inside}</button>'
        )


def _bounds(of: Estimate) -> str:
    return f"[{points(of.low)}, {points(of.high)}]"


def _plain(inside: str) -> str:
    return f'<td class="number">{inside}</td>'


def text_table(table: Table, kind: str = "") -> str:
    """Any table of text cells as HTML; the first `words` columns are words.

    Args:
        table: Its cells.
        kind: Class of the element, such as `unseen`.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{"word" if place < table.words else "number"}">{escape(cell)}</td>'
            for place, cell in enumerate(row)
        )
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<table class="{kind}"><caption class="unseen">{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def budgets(board: Board, language: Language) -> Mapping[str, str]:
    """Each size of adapter on the board as a limit, by its number of parameters."""
    known = sorted({entry.parameters for entry in board.entries if entry.parameters})
    return {
        str(one): text("board_at_most", language, size=size("parameters", one, language))
        for one in known
    }
