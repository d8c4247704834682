"""A board as a reference: where its runs come from, and a BibTeX entry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cgclora
from cgclora.storage.atomic_io import read_sealed
from evals.leaderboard.board import Board
from evals.runs.run_dir import MANIFEST_FILE, RunError
from evals.runs.scored_run import UNREADABLE

_SHORT = 7  # digits of a commit
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-\d{2}")


@dataclass(frozen=True)
class Origin:
    """Where the runs of a board come from."""

    commits: tuple[str, ...]  # of the code that made them, shortened; `*`: uncommitted changes
    first: str  # day of the oldest run as YYYY-MM-DD, like the next; empty if unknown
    last: str  # day of the newest run


def origin(board: Board) -> Origin:
    """The commits and days of all runs of a board.

    Raises:
        RunError: A manifest cannot be read.
    """
    folders = [folder for entry in board.entries for folder in entry.folders]
    manifests = [_manifest(folder) for folder in dict.fromkeys(folders)]
    commits = dict.fromkeys(filter(None, (_commit(one.get("code")) for one in manifests)))
    days = sorted(found[0] for one in manifests if (found := _DATE.match(str(one.get("created")))))
    return Origin(tuple(commits), days[0] if days else "", days[-1] if days else "")


def bibtex(board: Board, address: str = "") -> str:
    """The BibTeX entry of a board, or of a part of one.

    Args:
        board: The shown part.
        address: Of the view; empty leaves it out.

    Raises:
        RunError: See `origin`.
    """
    made = origin(board)
    year, month = made.last[:4], made.last[5:7]
    runs = " to ".join(dict.fromkeys(filter(None, (made.first, made.last))))
    note = f"Runs of {runs or 'unknown date'}, commit {', '.join(made.commits) or 'unknown'}"
    methods, tasks = len(board.entries), len(board.tasks)
    fields = {
        "author": "{The cgclora contributors}",
        "title": f"Leaderboard {board.id} of cgclora: {methods} methods on {tasks} tasks",
        "year": year,
        "month": month and _MONTHS[int(month) - 1],
        "version": cgclora.__version__,
        "note": note,
        "url": re.sub(r"[{}\\\s]", "", address),
    }
    lines = [
        f"  {name:<7} = {value if name == 'month' else f'{{{value}}}'},"
        for name, value in fields.items()
        if value
    ]
    return "\n".join([f"@misc{{cgclora-{board.id},", *lines, "}"])


def _manifest(folder: str) -> Mapping[str, Any]:
    try:
        return read_sealed(Path(folder) / MANIFEST_FILE)
    except UNREADABLE as error:
        raise RunError(f"{folder} has no manifest that can be read: {error!r}.") from error


def _commit(code: Any) -> str:
    if not isinstance(code, Mapping) or not code.get("commit"):
        return ""
    digits = re.sub(r"\W", "", str(code["commit"]))[:_SHORT]
    return f"{digits}*" if code.get("dirty") else digits
