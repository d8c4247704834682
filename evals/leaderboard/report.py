"""The boards of some run folders as a text or as JSON: tables, and a verdict in words on each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from evals.leaderboard.board import Board, Leaderboards, find_entry
from evals.leaderboard.published import PUBLISHED
from evals.leaderboard.tables import (
    Listing,
    Table,
    board_tables,
    board_title,
    board_values,
    published_table,
    reference_name,
)
from evals.leaderboard.verdict.findings import verdict
from evals.leaderboard.verdict.sentences import sentences
from evals.tasks import Language


def report(
    leaderboards: Leaderboards,
    reference: str | None = None,
    *,
    markdown: bool = False,
    language: Language = "en",
    budget: int | None = None,
) -> str:
    """All boards with their verdicts, the published scores, and the runs that are left out.

    Args:
        leaderboards: The boards.
        reference: Of the seesaw; None takes `REFERENCE` where it is on the board.
        markdown: Instead of text for a terminal.
        language: Of the verdicts.
        budget: Trained parameters, see `evals.leaderboard.verdict.findings.verdict`.

    Raises:
        UnknownEntryError: The given reference is on none of the boards.
    """
    references = _references(leaderboards, reference)
    parts: list[Table | Listing] = []
    for board in leaderboards.boards:
        parts += board_parts(board, references[board.id], language=language, budget=budget)
    parts.append(published_table())
    if left_out := _left_out(leaderboards):
        parts.append(Listing("Left out", left_out))
    return "\n\n".join(one.markdown() if markdown else one.text() for one in parts) + "\n"


def board_parts(
    board: Board,
    reference: str | None = None,
    *,
    language: Language = "en",
    budget: int | None = None,
) -> list[Table | Listing]:
    """The tables of a board, without the seesaw if there is no reference, and its verdict."""
    told = sentences(verdict(board, budget=budget), language)
    listing = Listing(board_title(board, "verdict"), tuple(one.text for one in told))
    return [*board_tables(board, reference), listing]


def values(
    leaderboards: Leaderboards,
    reference: str | None = None,
    *,
    language: Language = "en",
    budget: int | None = None,
) -> dict[str, Any]:
    """The content of `report` as JSON values, without replicates; scores in [0, 1]."""
    references = _references(leaderboards, reference)
    return {
        "boards": [
            judged_values(board, references[board.id], language=language, budget=budget)
            for board in leaderboards.boards
        ],
        "published": [asdict(one) for one in PUBLISHED],
        "unscored": list(leaderboards.unscored),
        "damaged": dict(leaderboards.damaged),
        "replaced": dict(leaderboards.replaced),
    }


def judged_values(
    board: Board,
    reference: str | None = None,
    *,
    language: Language = "en",
    budget: int | None = None,
) -> dict[str, Any]:
    """The content of `board_parts` as JSON values."""
    found = verdict(board, budget=budget)
    return {
        **board_values(board, reference),
        "verdict": asdict(found),
        "sentences": [asdict(one) for one in sentences(found, language)],
    }


def _references(leaderboards: Leaderboards, reference: str | None) -> dict[str, str | None]:
    """The reference's name by board id."""
    names = {board.id: reference_name(board, reference) for board in leaderboards.boards}
    if reference is not None and names and not any(names.values()):
        find_entry(leaderboards.boards[0], reference)  # raises, with the names that exist
    return names


def _left_out(leaderboards: Leaderboards) -> tuple[str, ...]:
    return (
        *(f"damaged: {folder}: {reason}" for folder, reason in leaderboards.damaged.items()),
        *(f"not scored yet: {folder}" for folder in leaderboards.unscored),
        *(
            f"replaced by a newer run: {old} (by {new})"
            for old, new in leaderboards.replaced.items()
        ),
    )
