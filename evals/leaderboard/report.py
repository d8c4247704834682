"""The boards of some run folders as a text or as JSON: tables, and a verdict in words on each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from evals.leaderboard.board import Leaderboards, find_entry
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
        budget: Trained parameters, see `evals.leaderboard.verdict.verdict`.

    Raises:
        UnknownEntryError: The given reference is on none of the boards.
    """
    references = _references(leaderboards, reference)
    parts: list[Table | Listing] = []
    for board in leaderboards.boards:
        told = sentences(verdict(board, budget=budget), language)
        parts += board_tables(board, references[board.id])
        parts.append(Listing(board_title(board, "verdict"), tuple(one.text for one in told)))
    parts.append(published_table())
    if left_out := _left_out(leaderboards):
        parts.append(Listing("Left out", left_out))
    return "\n\n".join(one.markdown() if markdown else one.text() for one in parts) + "\n"


def values(
    leaderboards: Leaderboards,
    reference: str | None = None,
    *,
    language: Language = "en",
    budget: int | None = None,
) -> dict[str, Any]:
    """The content of `report` as JSON values, without replicates; scores in [0, 1]."""
    references = _references(leaderboards, reference)
    verdicts = [verdict(board, budget=budget) for board in leaderboards.boards]
    return {
        "boards": [
            {
                **board_values(board, references[board.id]),
                "verdict": asdict(found),
                "sentences": [asdict(one) for one in sentences(found, language)],
            }
            for board, found in zip(leaderboards.boards, verdicts, strict=True)
        ],
        "published": [asdict(one) for one in PUBLISHED],
        "unscored": list(leaderboards.unscored),
        "damaged": dict(leaderboards.damaged),
        "replaced": dict(leaderboards.replaced),
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
