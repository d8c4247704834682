"""A disk that is full after so many bytes: a small file system of its own in memory."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.suites.faults.kills import check_adapter, check_cache, check_run, check_training, kept_of
from tests.suites.faults.processes import Child, Failure, start
from tests.suites.faults.scene import Kind, Scene
from tests.suites.faults.works import convert, save_adapters, train, write_run
from tests.suites.faults.world import FIRST, World, make_world

FAULT = "disk full"

OURS = {"OSError", "TrainingError", "AdapterError", "BackboneError", "RunError"}
"""Errors that a command reports in a line of its own, see `cgclora.cli.exit_codes`."""

_ROOMY = 2**26  # bytes, for whatever is done here
_PAGE = 4096

Start = Callable[[World], Child]


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    _mount(f"size={_ROOMY}", "-t", "tmpfs", "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _mount(option: str, *words: str) -> None:
    subprocess.run(["mount", "-o", option, *words], check=True, capture_output=True)


def _fill(scene: Scene, world: World, begin: Start) -> tuple[Child, str]:
    """Do work on a disk that gets full at a random byte of those that it needs.

    Returns:
        The process, after its end, and how that was. The disk has room again.
    """
    needed = _needed(begin)
    room = scene.random.randrange(needed)
    scene.moment = f"after {room} of {needed} bytes"
    used = shutil.disk_usage(scene.folder).used
    _mount(f"remount,size={used + max(room, _PAGE)}", str(scene.folder))
    child = begin(world)
    child.hear()
    _mount(f"remount,size={_ROOMY}", str(scene.folder))
    if child.failure is None:
        assert child.process.exitcode == 0, f"ended with {child.process.exitcode}"
        return child, "enough room"
    check_refusal(child.failure)
    return child, child.failure.error[0]


def check_refusal(failure: Failure) -> None:
    """Make sure that an error is one of ours, and says what to do or at least what is full."""
    assert OURS & set(failure.error), failure
    said = failure.message.lower()
    assert "free " in said or "no space left" in said, failure


@cache
def _needed(begin: Start) -> int:
    """Bytes that work takes on a disk, or those of an adapter that it replaces."""
    with TemporaryDirectory() as name, _disk(Path(name)):
        world = make_world(Path(name), package=True)
        before = shutil.disk_usage(name).used
        child = begin(world)
        child.hear()
        assert child.failure is None, child.failure
        own = sum(path.stat().st_size for path in world.adapter.iterdir())
        return max(shutil.disk_usage(name).used - before, own)


def _trial(begin: Start, check: Callable[[World, Child], None]) -> Callable[[Scene], str]:
    def run(scene: Scene) -> str:
        with _disk(scene.folder):
            world = make_world(scene.folder, package=True)
            child, found = _fill(scene, world, begin)
            check(world, child)
        return found

    return run


def _save(world: World) -> Child:
    return start(save_adapters, world.adapter, FIRST + 1)


def _check_save(world: World, child: Child) -> None:
    world.check()
    turn = check_adapter(world.adapter, least=max(child.said, default=FIRST))
    again = start(save_adapters, world.adapter, turn + 1)
    again.hear()
    assert again.failure is None, again.failure


def _write(world: World) -> Child:
    return start(write_run, world.folder, world.runs / "run")


def _check_write(world: World, child: Child) -> None:
    world.check(runs=["run"] if "scored" in child.said else [])
    kept, whole = kept_of(child.said), "answered" in child.said
    check_run(world, world.runs / "run", kept=kept, whole=whole)


def _train(world: World) -> Child:
    return start(train, world.runs / "mine")


def _check_train(world: World, child: Child) -> None:
    world.check()
    again = _train(world)
    again.hear()
    assert again.failure is None, again.failure
    check_training(world, world.runs / "mine")


def _convert(world: World) -> Child:
    return start(convert, world.folder)


def _check_convert(world: World, _: Child) -> None:
    check_cache(world)


@cache
def _no_mount() -> str:
    with TemporaryDirectory() as name:
        try:
            with _disk(Path(name)):
                return ""
        except (OSError, subprocess.SubprocessError):
            return "no file system may be mounted here"


KINDS = tuple(
    Kind(FAULT, work, 10, _trial(begin, check), _no_mount)
    for work, begin, check in (
        ("saving an adapter", _save, _check_save),
        ("writing a run", _write, _check_write),
        ("training", _train, _check_train),
        ("converting the backbone", _convert, _check_convert),
    )
)
