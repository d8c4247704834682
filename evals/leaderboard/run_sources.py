"""Run folders of two origins: those that are shipped, and those that were made here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.leaderboard.board import Board, Entry, Leaderboards, boards
from evals.runs.run_dir import Run, RunError, find_runs, read_run

SHIPPED, LOCAL = "shipped", "local"


@dataclass(frozen=True)
class Library:
    """Where runs lie.

    Attributes:
        shipped: Folder of those that came with the project.
        local: Folder of those that were made on this machine; it need not exist.
    """

    shipped: Path
    local: Path

    def leaderboards(self, *, local: bool = True) -> Leaderboards:
        """The boards of all runs, see `evals.leaderboard.board.boards`; nothing is read twice.

        Args:
            local: With those that were made here.
        """
        return boards([self.shipped, self.local] if local else self.shipped)

    def names(self) -> list[str]:
        """Of all finished runs, scored or not; see `name`."""
        return [
            self.name(folder) for root in (self.shipped, self.local) for folder in find_runs(root)
        ]

    def name(self, folder: str | Path) -> str:
        """Its origin and the way from there, such as `shipped/medical/cgc-lora/seed-0`.

        So a run can be named without saying where on this machine it lies.
        """
        at = Path(folder).resolve()
        for origin, root in ((LOCAL, self.local), (SHIPPED, self.shipped)):
            if at.is_relative_to(root.resolve()):
                return f"{origin}/{at.relative_to(root.resolve()).as_posix()}"
        return at.name

    def run(self, name: str) -> Run:
        """The run of a name.

        Raises:
            RunError: There is none, or it is damaged.
        """
        if name not in self.names():
            raise RunError(f"no run is called {name!r}: choose one of {', '.join(self.names())}.")
        origin, _, rest = name.partition("/")
        folder = (self.local if origin == LOCAL else self.shipped) / rest
        try:
            return read_run(folder)
        except RunError as error:
            raise RunError(str(error).replace(str(folder), name)) from error

    def is_local(self, of: Board | Entry) -> bool:
        """Whether a run of an entry was made here; of a board, whether all its runs were."""
        if isinstance(of, Board):
            return all(map(self._is_all_local, of.entries))
        return any(map(self._is_local, of.folders))

    def _is_all_local(self, entry: Entry) -> bool:
        return all(map(self._is_local, entry.folders))

    def _is_local(self, folder: str) -> bool:
        return self.name(folder).startswith(f"{LOCAL}/")
