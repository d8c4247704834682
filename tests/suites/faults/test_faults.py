"""The fault suite in short: each fault once, at a moment drawn anew; and it finds what is lost."""

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from cgclora.inference.router import TaskRouter
from cgclora.storage import atomic_io
from tests.helpers.tiny import make_backbone
from tests.suites.faults import kills
from tests.suites.faults.__main__ import KINDS, LONG, main, report, table, trials, verdict
from tests.suites.faults.damage import parts
from tests.suites.faults.processes import Say, start
from tests.suites.faults.scene import Kind, Outcome, Scene, attempt, seed_of
from tests.suites.faults.works import make_adapter

QUICK = [kind for kind in KINDS if "real" not in kind.work]
OF = {(kind.fault, kind.work): kind for kind in KINDS}


@pytest.mark.parametrize("kind", QUICK, ids=lambda kind: f"{kind.fault}, {kind.work}")
def test_a_fault_loses_nothing(kind: Kind) -> None:
    if reason := kind.skipped():
        pytest.skip(reason)
    outcome = attempt(kind, random.randrange(2**32))
    assert not outcome.problem, f"{outcome}\n{outcome.problem}"


# The suite itself -------------------------------------------------------------------------------


def save_in_place(say: Say, folder: Path, first: int) -> None:
    """As nobody should: the old adapter is gone before the new one is there."""
    adapter = make_adapter(make_backbone(), first)
    for turn in range(first, first + 3):
        shutil.rmtree(folder)
        adapter.save(folder, facts={"turn": turn})
        say(turn)


def test_a_writer_that_is_not_atomic_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "save_adapters", save_in_place)
    kills.usual_saving.cache_clear()
    try:
        found = (attempt(OF["kill -9", "saving an adapter"], seed) for seed in range(6))
        assert any(one.problem for one in found)
    finally:
        kills.usual_saving.cache_clear()


def test_a_manifest_without_a_seal_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))

    monkeypatch.setattr(atomic_io, "read_sealed", read)
    found = (attempt(OF["damage", "a job"], seed) for seed in range(400))  # few hit a value
    assert any("something else was read" in one.problem for one in found)


def write_two(say: Say, folder: Path) -> None:
    (folder / "a").write_text("a")
    say("a")
    (folder / "b").write_text("b")
    say("b")


@pytest.mark.parametrize(("number", "there"), [(1, []), (2, ["a"]), (3, ["a", "b"])])
def test_a_process_dies_before_the_operation_it_shall_die_at(
    tmp_path: Path, number: int, there: list[str]
) -> None:
    child = start(write_two, tmp_path, die_at=number)
    child.hear()
    assert child.said == there
    assert sorted(path.name for path in tmp_path.iterdir()) == there
    assert (child.operations is None) == (number < 3)


def test_every_part_of_a_safetensors_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(TaskRouter.fit({"a": ["b"]}).to_bytes())
    content = path.read_bytes()
    found = {name: (start, end) for name, start, end in parts(path, bytearray(content))}
    first, end = found["header"]
    json.loads(content[first:end])
    assert found["header length"] == (0, first)
    assert found["tensors"] == (end, len(content))
    assert found["end"][1] == len(content)


def test_the_long_form_kills_two_hundred_times_and_each_trial_has_a_seed() -> None:
    planned = list(trials(KINDS, LONG, seed=0))
    assert sum(kind.fault == "kill -9" for kind, _ in planned) == 200
    assert len({seed for _, seed in planned}) == len(planned)
    assert {kind for kind, _ in trials(KINDS, 1, seed=0)} == set(KINDS)


def _loses(scene: Scene) -> str:
    scene.moment = "at once"
    assert scene.random is None, "all is lost"
    return ""


def _keeps(_: Scene) -> str:
    return "all of it"


def _impossible(_: Scene) -> str:
    raise AssertionError("this cannot be tried here")


def test_what_is_lost_is_told_with_seed_and_moment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad, good = Kind("fire", "a disk", 1, _loses), Kind("water", "a disk", 1, _keeps)
    not_here = Kind("earth", "a disk", 1, _impossible, lambda: "no earth")
    monkeypatch.setattr("tests.suites.faults.__main__.KINDS", (good, not_here))
    command = ["faults", "--trials", "1", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", command)
    assert main() == 0
    assert capsys.readouterr().out.endswith("1 of 1 trials: nothing lost\n")
    monkeypatch.setattr("tests.suites.faults.__main__.KINDS", (good, bad))
    assert main() == 1
    said = capsys.readouterr().out
    assert "1 of 2 trials: SOMETHING WAS LOST in the others" in said
    seed = seed_of(bad, 0, 0)
    assert re.search(rf'moment.*at once.*again: --only "fire, a disk" --again {seed}', said, re.S)
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["trials"], written["passed"]) == (2, 1)
    assert [one["seed"] for one in written["outcomes"]] == [seed_of(good, 0, 0), seed]


def test_what_cannot_be_tried_is_told_with_the_reason() -> None:
    kind = Kind("earth", "a disk", 1, _impossible, lambda: "no earth")
    outcome = Outcome("fire", "a disk", 1, "at once", "all of it")
    assert "no earth" in table([kind], [outcome])
    assert report([kind], [outcome], 0, 1.0)["skipped"][0]["reason"] == "no earth"
    assert verdict([outcome]) == "1 of 1 trials: nothing lost"
