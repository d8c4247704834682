"""What was committed before a fault, and what must be there after it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from cgclora.storage.adapter_dir import read_manifest
from cgclora.storage.atomic_io import sha256_file
from evals.leaderboard.run_sources import Library
from tests.helpers.run_dirs import around
from tests.helpers.run_dirs import write_run as write_scored_run
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_gguf import write_gguf
from tests.helpers.training_runs import TASKS
from tests.suites.faults.works import PACKAGE_FILE, make_adapter, stand_in, write_data
from tests.ui.test_app import pieces
from ui.engine.engine import AppEngine
from ui.engine.models import Load, Models, loader

FIRST = 1
"""The turn of the adapters that were committed before."""

OTHER_RUN = "other"
"""The run that was committed before."""


@dataclass(frozen=True)
class World:
    """A folder with what was committed.

    Attributes:
        folder: Holds `adapters`, `shipped` (runs), `runs` (those that were made here) and the data.
    """

    folder: Path

    @property
    def adapter(self) -> Path:
        """An adapter that a trial may work on; another one lies beside it."""
        return self.folder / "adapters" / "medical"

    @property
    def runs(self) -> Path:
        """What was trained and evaluated here."""
        return self.folder / "runs"

    def check(
        self,
        *,
        adapters: Collection[str] = ("medical", "general"),
        damaged_adapters: Collection[str] = (),
        runs: Collection[str] = (),
        damaged_runs: Collection[str] = (),
        load: Load | None = None,
    ) -> None:
        """Start the app's engine and read the leaderboard.

        Args:
            adapters: Names of those that must be usable; `general` must answer as before.
            damaged_adapters: Names of those that must be named with a reason.
            runs: Below `runs`; must stand on a board, beside the one that was there before.
            damaged_runs: Below `runs`; must be named with a reason.
            load: Another backbone than the tiny one, which then fits no adapter.
        """
        with _started(
            AppEngine(self.folder / "adapters", Models(load or _tiny), trained=self.runs)
        ) as engine:
            if load is None:
                assert set(adapters) <= set(engine.adapters()), engine.problems
                assert engine.problems.keys() == set(damaged_adapters), engine.problems
                assert _answer(engine) == _expected_answer()
        library = Library(self.folder / "shipped", self.runs)
        found = library.leaderboards()
        shown = {
            library.name(folder)
            for board in found.boards
            for entry in board.entries
            for folder in entry.folders
        }
        assert {f"shipped/{OTHER_RUN}", *(f"local/{name}" for name in runs)} <= shown, shown
        named = {library.name(folder) for folder in found.damaged}
        assert named == {f"local/{name}" for name in damaged_runs}, found.damaged


def make_world(folder: Path, *, package: bool = False) -> World:
    """A fresh one.

    Args:
        folder: Where; empty.
        package: Whether with the stand-in's package.
    """
    shutil.copytree(_template(), folder, dirs_exist_ok=True)
    if package:
        for path in _package().iterdir():
            shutil.copy2(path, folder)
    return World(folder)


@cache
def _shared() -> TemporaryDirectory[str]:
    """What all trials of this process copy from; it is removed when the process ends."""
    return TemporaryDirectory(prefix="faults-")


@cache
def _template() -> Path:
    folder = Path(_shared().name, "world")
    for name in ("medical", "general"):
        adapter = make_adapter(make_backbone(), FIRST)
        adapter.save(folder / "adapters" / name, facts={"turn": FIRST})
    write_scored_run(folder / "shipped" / OTHER_RUN, {"NER": around(0.5)})
    (folder / "runs").mkdir()
    write_data(folder)
    return folder


@cache
def _package() -> Path:
    folder = Path(_shared().name, "package")
    folder.mkdir()
    write_gguf(folder / PACKAGE_FILE)
    (folder / f"{PACKAGE_FILE}.sha256").write_text(sha256_file(folder / PACKAGE_FILE))
    return folder


def _tiny(_: Callable[[str, float], None]) -> object:
    return make_backbone()


@contextmanager
def _started(engine: AppEngine) -> Iterator[AppEngine]:
    """The engine at work; afterwards none of its threads holds on to the backbone's file."""
    engine.start()
    assert engine.wait(60), "the engine does not come to an end"
    assert engine.status.ready, engine.status.problem
    try:
        yield engine
    finally:
        engine.end(0)


def _answer(engine: AppEngine) -> str:
    return "".join(piece.text for piece in pieces(engine, "general", TASKS[0], "abcdefgh", 6))


@cache
def _expected_answer() -> str:
    with _started(AppEngine(_template() / "adapters", Models(_tiny))) as engine:
        return _answer(engine)


def load_stand_in(world: World) -> Load:
    """Loads the embedded backbone from the stand-in's cache, as the app does."""

    def load(progress: Callable[[str, float], None]) -> object:
        with stand_in(world.folder):
            return loader(None, int8=False)(progress)

    return load


def turn_of(folder: Path) -> int:
    """Which turn's adapter lies in a folder, after a check of all its hashes."""
    manifest, _ = read_manifest(folder)
    return int(manifest["turn"])


def leftovers(folder: Path) -> list[str]:
    """What a killed writer left below a folder."""
    return sorted(path.name for path in folder.rglob(".*") if path.name.endswith((".new", ".old")))
