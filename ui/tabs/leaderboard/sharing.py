"""A view of the board for use elsewhere: its address, its citation, its picture."""

import json
from html import escape

import cgclora
from evals.figures.captions import percent, points
from evals.leaderboard.board import Board, duel
from evals.leaderboard.citation import bibtex, origin
from evals.runs.run_dir import RunError
from evals.tasks import Language
from ui.components.html import quiet
from ui.components.render import notice, snippet
from ui.components.texts import text
from ui.tabs.leaderboard.captions import board_title, shared_rank
from ui.tabs.leaderboard.card import MOST, Card, card
from ui.tabs.leaderboard.query import BoardView
from ui.tabs.leaderboard.table import places

_LOCAL = ("localhost", "127.", "[::1]")


def link_button(shown: BoardView, language: Language) -> str:
    """A button that copies the address of the view; a script reads its attributes."""
    words = {key: text(f"board_{key}", language) for key in ("share", "shared", "share_by_hand")}
    address = {"tab": "leaderboard", **shown.address}
    return (
        f'<button type="button" id="board-share" data-address="{escape(json.dumps(address))}" '
        f'data-shares="{words["share"]}" data-shared="{words["shared"]}" '
        f'data-by-hand="{words["share_by_hand"]}">{words["share"]}</button>'
    )


def citation(shown: BoardView, address: str, language: Language) -> str:
    """The view as a sentence with its numbers and as BibTeX, each with a button that copies it."""
    part = shown.filtered
    if part is None or not part.entries:
        return quiet(text("board_nothing_fits", language))
    public = "" if _is_local(address) else address
    try:
        parts = sentence(part, public, language), bibtex(part, public)
    except RunError as error:
        return notice(text("board_run_unreadable", language), verbatim=str(error))
    heading = text("board_citation", language)
    return f"<h3>{heading}</h3>{''.join(snippet(one, language) for one in parts)}"


def sentence(part: Board, address: str, language: Language) -> str:
    """The best method of a board and the next one, with intervals and origin, as plain text.

    Raises:
        RunError: See `evals.leaderboard.citation.origin`.
        ValueError: The board has no entry.
    """
    first, *rest = part.entries
    lines = [
        text(
            "board_cite_first",
            language,
            tasks=len(part.tasks),
            n=f"{first.overall.samples:,}",
            methods=len(part.entries),
            name=first.name,
            places=places(first),
            **_bounds(first.overall),
        )
    ]
    if rest:
        above = percent(duel(first, rest[0])[0].probability)
        bounds = _bounds(rest[0].overall)
        lines.append(text("board_cite_next", language, name=rest[0].name, share=above, **bounds))
    made = origin(part)
    lines.append(
        text(
            "board_cite_origin",
            language,
            version=cgclora.__version__,
            board=part.id,
            date=made.last or "–",
            commit=", ".join(made.commits) or "–",
        )
    )
    return "".join(lines).strip() + (f" {address}" if address else "")


def picture(shown: BoardView, address: str, language: Language, *, dark: bool) -> str:
    """The card of a view as an SVG file; empty if it shows no method.

    Raises:
        RunError: See `evals.leaderboard.citation.origin`.
    """
    part = shown.filtered
    if part is None or not shown.entries:
        return ""
    made = origin(part)
    hidden = len(shown.entries) - MOST
    content = Card(
        heading=board_title(part, language),
        verdict=shared_rank(part, language),
        entries=shown.entries,
        tasks=[task.name for task in part.tasks],
        more=text("board_card_more", language, n=hidden) if hidden > 0 else "",
        origin=" · ".join(filter(None, (text("board_card_interval", language), made.last))),
        address=address,
    )
    return card(content, language, dark=dark)


def _bounds(score: object) -> dict[str, str]:
    return {key: points(getattr(score, key)) for key in ("value", "low", "high")}


def _is_local(address: str) -> bool:
    """Whether nobody else can open an address."""
    host = address.partition("://")[2]
    return host.startswith(_LOCAL)
