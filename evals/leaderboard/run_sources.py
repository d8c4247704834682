"""Run folders of two origins: shipped with the project, and made on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from evals.leaderboard.board import Board, Leaderboards, boards
from evals.leaderboard.entries import Entry
from evals.runs.run_dir import Run, RunError, find_runs, read_run

SHIPPED, LOCAL = "shipped", "local"


@dataclass(frozen=True)
class Library:
    """The two folders of runs."""

    shipped: Path
    local: Path  # need not exist

    def leaderboards(self, *, local: bool = True) -> Leaderboards:
        """The boards of all runs, or of the shipped ones only; see `board.boards`."""
        return boards([self.shipped, self.local] if local else self.shipped)

    def names(self) -> list[str]:
        """The names of all finished runs, scored or not; see `name`."""
        return [
            self.name(folder) for root in (self.shipped, self.local) for folder in find_runs(root)
        ]

    def name(self, folder: str | Path) -> str:
        """A run's name without the folder's location: `shipped/medical/cgc-lora/seed-0`."""
        return _name(str(folder), self.local, self.shipped)

    def run(self, name: str) -> Run:
        """The run of a name.

        Raises:
            RunError: There is none, or it is damaged.
        """
        if name not in (names := self.names()):
            raise RunError(f"no run is called {name!r}: choose one of {', '.join(names)}.")
        origin, _, rest = name.partition("/")
        folder = (self.local if origin == LOCAL else self.shipped) / rest
        try:
            return read_run(folder)
        except RunError as error:
            raise RunError(str(error).replace(str(folder), name)) from error

    def newest_local(self, boards: Leaderboards) -> tuple[Board, Entry] | None:
        """The entry whose run was made here last, on the first board that has it."""
        found = [
            (board, entry)
            for board in boards.boards
            if not board.part_of
            for entry in board.entries
            if self.is_local(entry)
        ]
        return max(found, key=lambda one: one[1].created, default=None)

    def is_local(self, item: Board | Entry) -> bool:
        """Whether any run of an entry was made here; of a board, whether all its runs were."""
        if isinstance(item, Board):
            return all(self._is_local(folder) for one in item.entries for folder in one.folders)
        return any(map(self._is_local, item.folders))

    def _is_local(self, folder: str) -> bool:
        return self.name(folder).startswith(f"{LOCAL}/")


@lru_cache(4096)
def _name(folder: str, local: Path, shipped: Path) -> str:
    """See `Library.name`; kept, since links are followed file by file."""
    at = Path(folder).resolve()
    for origin, root in ((LOCAL, local.resolve()), (SHIPPED, shipped.resolve())):
        if at.is_relative_to(root):
            return f"{origin}/{at.relative_to(root).as_posix()}"
    return at.name
