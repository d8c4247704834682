"""The leaderboard's texts: which differences are significant, what was measured, other results."""

from html import escape

from evals.figures.captions import percent, title
from evals.leaderboard.board import Board, Leaderboards, duel, find_entry
from evals.leaderboard.published import PUBLISHED
from evals.leaderboard.run_sources import Library
from evals.leaderboard.tables import Table
from evals.scoring.effect_sizes import OVERALL
from evals.scoring.metrics import metric_title
from evals.tasks import Language
from ui.components import html, render
from ui.components.forms import cluster_title
from ui.components.texts import text
from ui.tabs.leaderboard.query import BoardView
from ui.tabs.leaderboard.table import text_table

_EVALUATE = "python -m evals matrix small --out runs/evaluations"


def board_titles(
    boards: Leaderboards, library: Library, language: Language
) -> list[tuple[str, str]]:
    """The boards as choices: title and id. Equal titles get the first digits of their ids.

    A board that is part of another one is left out: it is that one's cluster.
    """
    whole = [board for board in boards.boards if not board.part_of]
    titles = [_choice_title(board, library, language) for board in whole]
    return [
        (f"{words} · {board.id[:6]}" if titles.count(words) > 1 else words, board.id)
        for words, board in zip(titles, whole, strict=True)
    ]


def _choice_title(board: Board, library: Library, language: Language) -> str:
    mark = text("board_local_mark", language)
    words = board_title(board, language)
    return f"{words} · {mark}" if library.is_local(board) else words


def board_title(board: Board, language: Language) -> str:
    """The comparison's name, its clusters, and how much was compared."""
    labels = {entry.label for entry in board.entries}
    words = text(
        "board_title",
        language,
        cluster=cluster_titles(board, language),
        split=board.split or text("board_no_split", language),
        methods=len(board.entries),
        tasks=len(board.tasks),
        n=f"{sum(task.samples for task in board.tasks):,}",
    )
    label = labels.pop() if len(labels) == 1 else ""
    return f"{words} · {label}" if label else words


def cluster_titles(board: Board, language: Language) -> str:
    """The titles of a board's clusters."""
    comma = "、" if language == "zh" else ", "
    return comma.join(cluster_title(one, language) for one in board.clusters)


def clusters(board: Board, language: Language) -> list[tuple[str, str]]:
    """The clusters of a board as a choice, after the one of all."""
    named = [(cluster_title(one, language), one) for one in board.clusters]
    return [(text("board_all_clusters", language), ""), *named]


def newest(shown: BoardView, library: Library, language: Language) -> str:
    """Which run of this machine is the newest; empty if its board is shown."""
    found = library.newest_local(shown.boards)
    if found is None or found[0].id == shown.query.board:
        return ""
    board, entry = found
    titles = cluster_titles(board, language)
    return text("board_newest", language, name=entry.name, cluster=titles)


def verdict(shown: BoardView, language: Language) -> str:
    """Which differences are significant, by intervals and paired tests of the filtered board."""
    board, part = shown.board, shown.filtered
    if board is None or part is None:
        return render.notice(text("board_empty", language), verbatim=_EVALUATE)
    if not part.entries:
        return ""
    significant = _significant(shown, language)
    lines = [
        f'<p class="quiet">{escape(board_title(part, language))}</p>',
        f'<p class="verdict-line">{shared_rank(part, language)}</p>',
        html.quiet(
            significant, _better(part, shown.query.reference, language), _training(part, language)
        ),
    ]
    if shown.query.filters:
        counted = text(
            "board_part",
            language,
            shown=len(part.entries),
            all=len(board.entries),
            tasks=len(part.tasks),
            of=len(board.tasks),
        )
        lines.append(f'<p class="quiet part">{counted}</p>')
    return f'<div class="signal">{"".join(lines)}</div>'


def shared_rank(part: Board, language: Language) -> str:
    """How many methods share the first rank, as HTML."""
    first = [entry.name for entry in part.entries if entry.rank == 1]
    count = len(part.entries)
    if len(first) == 1:
        key = "board_only_one" if count == 1 else "board_alone"
    elif len(first) == count:
        key = "board_tied_both" if count == 2 else "board_tied_all"
    else:
        key = "board_tied"
    return text(key, language, all=count, tied=len(first), name=escape(first[0]))


def _significant(shown: BoardView, language: Language) -> str:
    if len(shown.gains) < 2:
        return ""
    overall = {name: row[OVERALL] for name, row in shown.gains.items()}
    effects = {name: gain.value for name, gain in overall.items() if gain.significant}

    def names(sign: int) -> str:
        matching = [escape(name) for name, value in effects.items() if sign * value > 0]
        comma = "、" if language == "zh" else ", "
        return comma.join(matching) or text("board_nobody", language)

    return text(
        "board_sure",
        language,
        reference=escape(shown.query.reference),
        above=names(1),
        below=names(-1),
    )


def _better(part: Board, reference: str, language: Language) -> str:
    """How probably the first entry is better than the second and than the reference."""
    first, *rest = part.entries
    others = dict.fromkeys([*(one.name for one in rest[:1]), reference])
    compared = [find_entry(part, name) for name in others if name != first.name]
    if not compared:
        return ""
    sign = "%" if language == "zh" else " %"
    shares = [f"{percent(duel(first, one)[0].probability)}{sign}" for one in compared]
    return text(
        f"board_better_than_{len(compared)}",
        language,
        first=escape(first.name),
        others=[escape(one.name) for one in compared],
        shares=[escape(share) for share in shares],
    )


def _training(part: Board, language: Language) -> str:
    seeds = [entry.spread.seeds for entry in part.entries if entry.seeds != (None,)]
    if not seeds:
        return ""
    if max(seeds) == 1:
        return text("board_one_seed", language)
    key = "board_even_seeds" if min(seeds) == max(seeds) else "board_seeds"
    return text(key, language, least=min(seeds), most=max(seeds))


def _with_name(title: str, name: str) -> str:
    return name if title == name else f"{title} ({name})"


def facts(board: Board, language: Language) -> str:
    """Metric, data and number of records of each task of a board, folded."""
    header = ("task", "board_metric", "board_version", "board_data", "board_records")
    rows = tuple(
        (
            _with_name(title(task.name, language), task.name),
            _with_name(metric_title(task.metric, language), task.metric),
            f"{task.version}, {task.metric_version}",
            task.data[:12],
            f"{task.samples:,}",
        )
        for task in board.tasks
    )
    name = text("board_facts", language)
    table = Table(name, tuple(text(key, language) for key in header), rows, words=4)
    return _folded(name, _scrolling(text_table(table)), text("board_facts_note", language))


def published(board: Board, language: Language) -> str:
    """Published numbers, each with its source and how its measurement differs."""
    results = [one for one in PUBLISHED if one.cluster in board.clusters]
    if not results:
        return ""
    keys = ("board_method", "board_backbone", "board_score", "board_note", "board_source")
    rows = (
        f"<tr><td>{escape(one.method)}</td><td>{escape(one.backbone)}</td>"
        f'<td class="number">{100 * one.score:.2f}</td>'
        f'<td class="long" lang="en">{escape(one.note)}</td>'
        f'<td><a href="{escape(one.source)}" target="_blank" rel="noopener">'
        f"{escape(one.source.removeprefix('https://'))}</a></td></tr>"
        for one in results
    )
    name = text("board_published", language)
    columns = [text(key, language) for key in keys]
    table = html.table(columns, rows, caption=html.hidden_caption(name))
    return _folded(name, _scrolling(table), text("board_published_note", language))


def left_out(boards: Leaderboards, library: Library, language: Language) -> str:
    """Runs that are on no board, and why; empty if there are none."""
    rows = [
        *(
            (library.name(folder), reason.replace(folder, library.name(folder)))
            for folder, reason in boards.damaged.items()
        ),
        *((library.name(folder), text("board_unscored", language)) for folder in boards.unscored),
        *(
            (library.name(old), text("board_replaced", language, by=library.name(new)))
            for old, new in boards.replaced.items()
        ),
    ]
    if not rows:
        return ""
    name = text("board_left_out", language, n=len(rows))
    header = (text("board_run", language), text("board_reason", language))
    return _folded(name, _scrolling(text_table(Table(name, header, tuple(rows), words=2))))


def _scrolling(table: str) -> str:
    return f'<div class="board-scroll plain">{table}</div>'


def _folded(name: str, inside: str, note: str = "") -> str:
    return f'<details class="folded"><summary>{name}</summary>{html.quiet(note)}{inside}</details>'
