"""An interrupted training run ends as any other: the same weights, log and facts."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import cgclora.storage.run_dir
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.storage import atomic_io
from cgclora.storage.run_dir import (
    TrainingError,
    TrainingStopped,
    checkpoints,
    claim,
    read_state,
)
from cgclora.training.runs.member import Member
from tests.helpers.tiny import make_backbone
from tests.helpers.training_runs import (
    CONFIG,
    DEV,
    TASKS,
    TRAIN,
    WRONG,
    assert_same_run,
    dev_losses_of,
    log_of,
    run,
    same,
    weights_of,
)

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["cgclora.training.train", "tests.helpers.tiny"])


def last_checkpoint(folder: Path) -> Path | None:
    """The newest one that counts."""
    return next(iter(checkpoints(folder)), None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until(folder: Path, moment: str, changes: Mapping[str, Any]) -> None:
    """Train, and be killed at a moment; runs in a process of its own."""
    torch.set_num_threads(1)
    where, _, number = moment.partition(" ")
    calls = 0

    def die_at_call(original: Any, before: Any = die) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == int(number or 1):
                before(*arguments, **options)
                die()
            return original(*arguments, **options)

        return call

    def write_half(*arguments: Any, **_: Any) -> None:
        (path,) = (one for one in arguments if isinstance(one, str | Path))
        Path(path).write_bytes(b"half a fi")

    owner: Any

    def remove_half(path: Any, **_: Any) -> None:
        (Path(path) / "optimizer.safetensors").unlink(missing_ok=True)

    if where == "step":
        owner = Member
        owner.take_step = die_at_call(owner.take_step)
    elif where == "log":
        owner = Member
        owner._write_log = die_at_call(
            owner._write_log,
            lambda member, _: (member.run.folder / "log.jsonl").open("a").write('{"step": 3, "lo'),
        )
    elif where == "tensors":
        owner = cgclora.storage.run_dir
        owner.write_tensors = die_at_call(owner.write_tensors, write_half)
    elif where == "state":
        owner = atomic_io
        owner.write_json = die_at_call(owner.write_json)
    elif where == "removal":
        shutil.rmtree = die_at_call(shutil.rmtree, remove_half)
    elif where == "adapter":
        Adapter.save = die_at_call(Adapter.save)
    elif where == "pause":
        owner = Member
        owner.take_step = die_at_call(
            owner.take_step, lambda *_: os.kill(os.getpid(), signal.SIGSTOP)
        )
    run(folder, **changes)


def killed(folder: Path, moment: str, **changes: Any) -> bool:
    """Run in a process until a moment; returns whether it was killed."""
    process = PROCESSES.Process(target=run_until, args=(folder, moment, changes))
    process.start()
    process.join(timeout=120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


MOMENTS = [
    "step 2",  # before there is any checkpoint
    "step 5",
    "step 9",  # the last
    "log 5",  # in the middle of a line
    "tensors 3",  # in the middle of a checkpoint's files: weights
    "tensors 4",  # and Adam's moments
    "state 3",  # all files written, but not called complete
    "state 4",
    "state 7",
    "removal 4",  # the oldest checkpoint half removed
    "adapter",  # trained, but the result not saved
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_a_moment_ends_as_if_it_had_not_been(
    tmp_path: Path, whole: Path, moment: str
) -> None:
    assert killed(tmp_path, moment)
    run(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_run_killed_again_and_again_at_random_ends_as_if_it_had_not_been(
    tmp_path: Path, whole: Path
) -> None:
    generator = random.Random()
    for _ in range(4):
        process = PROCESSES.Process(target=run_until, args=(tmp_path, "", {}))
        process.start()
        before = last_checkpoint(tmp_path / "checkpoints")
        while process.is_alive() and last_checkpoint(tmp_path / "checkpoints") == before:
            time.sleep(0.01)
        process.join(timeout=generator.random() / 3)
        process.kill()
        process.join()
    run(tmp_path)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_run_told_to_stop_goes_on_to_the_same_weights(
    tmp_path: Path, whole: Path, after: int
) -> None:
    asked = iter(range(1, 100))
    with pytest.raises(TrainingStopped, match=f"step {after} of 9"):
        run(tmp_path, stop=lambda: next(asked) >= after)
    newest = last_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    before = read_state(newest)["seconds"]
    assert before > 0
    _, manifest = run(tmp_path, stop=lambda: False)
    assert manifest["training"]["resumed_at"] == after
    assert manifest["training"]["seconds"] >= round(before, 1)
    assert same(weights_of(tmp_path), weights_of(whole))


@pytest.mark.parametrize("file", ["optimizer.safetensors", "adapter.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, whole: Path, file: str
) -> None:
    assert killed(tmp_path, "step 8")
    newest = last_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "checkpoint-6"
    content = (newest / file).read_bytes()
    (newest / file).write_bytes(content[: len(content) // 2])
    earlier = last_checkpoint(tmp_path / "checkpoints")
    assert earlier is not None
    assert earlier.name == "checkpoint-3"
    run(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_finished_run_given_again_changes_nothing(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "again")
    run(tmp_path / "again")
    assert_same_run(tmp_path / "again", whole)


def test_a_run_may_move_to_another_folder_between_two_starts(tmp_path: Path, whole: Path) -> None:
    assert killed(tmp_path / "here", "step 8")
    (tmp_path / "here").rename(tmp_path / "there")
    run(tmp_path / "there")
    assert_same_run(tmp_path / "there", whole)
    assert not (tmp_path / "here").exists()


def other_weights(checkpoints: Path) -> None:
    """Overwrite the weights in all checkpoints with valid ones of another seed."""
    fresh = Adapter.attach(make_backbone(), CONFIG, seed=7).state_dict()
    for checkpoint in checkpoints.iterdir():
        save_file(fresh, checkpoint / "adapter.safetensors")


def test_a_copy_of_a_finished_run_takes_nothing_from_where_it_was_copied(
    tmp_path: Path, whole: Path
) -> None:
    run(tmp_path / "original")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    other_weights(tmp_path / "original" / "checkpoints")
    run(tmp_path / "copy")
    assert_same_run(tmp_path / "copy", whole)


def test_a_finished_run_without_its_adapter_may_move(tmp_path: Path, whole: Path) -> None:
    run(tmp_path / "here")
    shutil.rmtree(tmp_path / "here" / "adapter")
    (tmp_path / "here").rename(tmp_path / "there")
    run(tmp_path / "there")
    assert_same_run(tmp_path / "there", whole)
    assert not (tmp_path / "here").exists()


def test_a_checkpoint_brings_the_best_weights_along(tmp_path: Path) -> None:
    changes = {"dev_records": WRONG, "epochs": 5, "evaluations": 10, "patience": 3}
    run(tmp_path / "whole", **changes)
    assert dev_losses_of(tmp_path / "whole").index(min(dev_losses_of(tmp_path / "whole"))) < 3
    folder = tmp_path / "run"
    assert killed(folder, "step 13", **changes)
    for older in checkpoints(folder / "checkpoints")[1:]:
        shutil.rmtree(older)
    run(folder, **changes)
    assert_same_run(folder, tmp_path / "whole")


def test_older_checkpoints_stay_until_the_new_one_counts(tmp_path: Path) -> None:
    assert killed(tmp_path, "state 7")
    names = {path.parent.name for path in tmp_path.glob("checkpoints/*/complete.json")}
    assert names == {"checkpoint-3", "checkpoint-6"}


def test_no_more_checkpoints_stay_than_the_newest_two(tmp_path: Path) -> None:
    run(tmp_path, dev_records=WRONG, epochs=5, evaluations=10)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"checkpoint-27", "checkpoint-30"}


def test_a_folder_in_which_a_run_is_under_way_is_refused(tmp_path: Path, whole: Path) -> None:
    process = PROCESSES.Process(target=run_until, args=(tmp_path, "pause 5", {}))
    process.start()
    log = tmp_path / "log.jsonl"
    try:
        while not (log.exists() and '"step": 4' in log.read_text(encoding="utf-8")):
            assert process.is_alive()
            time.sleep(0.01)
        before = log.read_bytes()
        with pytest.raises(TrainingError, match="another process"):
            run(tmp_path)
        assert log.read_bytes() == before
    finally:
        process.kill()
        process.join()
    run(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_resumed_log_is_the_same_where_checkpoints_fall_between_its_lines(
    tmp_path: Path,
) -> None:
    # 42 steps: a line every 2 of them, a checkpoint every 7.
    changes = {"batch_size": 2, "epochs": 3.5, "evaluations": 6}
    run(tmp_path / "whole", **changes)
    steps = [line["step"] for line in log_of(tmp_path / "whole") if "loss" in line]
    assert steps == [step for step in range(1, 43) if step % 2 == 0 or step % 7 == 0]
    assert killed(tmp_path / "run", "step 9", **changes)
    run(tmp_path / "run", **changes)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_patience_is_counted_across_an_interruption(tmp_path: Path) -> None:
    changes = {"dev_records": WRONG, "epochs": 5, "evaluations": 10, "patience": 2}
    run(tmp_path / "whole", **changes)
    steps = log_of(tmp_path / "whole")[-1]["step"]
    assert steps < 30
    for moment in (f"step {steps - 1}", "adapter"):
        folder = tmp_path / moment
        assert killed(folder, moment, **changes)
        run(folder, **changes)
        assert_same_run(folder, tmp_path / "whole")


def test_a_checkpoint_holds_nothing_but_tensors_and_json(tmp_path: Path) -> None:
    run(tmp_path)
    assert {path.suffix for path in tmp_path.glob("checkpoints/*/*")} == {".safetensors", ".json"}


@pytest.mark.parametrize(
    ("differing", "changes"),
    [
        ("settings", {"learning_rate": 0.02}),
        ("config", {"config": AdapterConfig(TASKS, common=3, specific=1, dropout=0.1)}),
        ("train_data", {"train_records": TRAIN[1:]}),
        ("dev_data", {"dev_records": DEV[::-1]}),
        ("backbone", {"backbone": 1}),
    ],
)
def test_the_folder_of_another_run_is_refused(
    tmp_path: Path, whole: Path, differing: str, changes: dict[str, Any]
) -> None:
    if "backbone" in changes:
        changes = {"backbone": make_backbone(seed=1)}
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(TrainingError, match=rf"differs in {differing}:.*another folder"):
        run(tmp_path / "run", **changes)
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_note_of_what_the_run_is_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(TrainingError, match=r"run\.json is damaged .*choose another folder"):
        claim(tmp_path, {"kind": "x"})


def test_a_damaged_line_of_the_log_costs_no_other_line(tmp_path: Path, whole: Path) -> None:
    assert killed(tmp_path, "step 8")
    log = tmp_path / "log.jsonl"
    first, second, *others = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + second.replace(b'"step"', b'"st\xffp"') + b"".join(others))
    run(tmp_path)
    assert same(weights_of(tmp_path), weights_of(whole))
    expected = log_of(whole)
    assert log_of(tmp_path) == [expected[0], *expected[2:]]


@pytest.mark.parametrize("call", [3, 4])
def test_a_full_disk_ends_a_run_that_goes_on_once_there_is_room(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    original, calls = cgclora.storage.run_dir.write_tensors, iter(range(1, 100))

    def write(*arguments: Any) -> None:
        if next(calls) == call:  # of the second checkpoint
            raise OSError(28, "No space left on device")
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cgclora.storage.run_dir, "write_tensors", write)
        with pytest.raises(TrainingError, match="free room there and give the command again"):
            run(tmp_path)
    last = last_checkpoint(tmp_path / "checkpoints")
    assert last is not None
    assert last.name == "checkpoint-3"
    run(tmp_path)
    assert_same_run(tmp_path, whole)
