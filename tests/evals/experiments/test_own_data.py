"""A comparison on a user's data: its plan, its state while it is run, and the command."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cgclora.config import ConfigError
from evals.__main__ import main
from evals.data.splits import Splits, read_splits
from evals.experiments.grid import Grid
from evals.experiments.own_data import plan as plan_module
from evals.experiments.own_data.comparison import (
    DATA_FOLDER,
    Comparison,
    adapter_of,
    begin,
    newest_pace,
    read_comparison,
)
from evals.experiments.own_data.plan import (
    ComparisonPlan,
    Pace,
    Work,
    make_plan,
    read_plan,
)
from evals.experiments.own_data.wishes import Wishes
from evals.experiments.recipe import Records
from evals.leaderboard.drilldown import find_samples
from evals.methods import LORAHUB
from evals.runs.run_dir import RunError, read_run
from tests.helpers.records import lines
from tests.helpers.tiny import make_backbone, save_backbone

WISHES = Wishes(
    methods=("LoRA (Single)", "CGC-LoRA"),
    seeds=2,
    learning_rates=(1e-3, 1e-2),
    train_records=4,
    epochs=1,
    test_records=3,
)


def splits_of(folder: Path, per_task: int = 20) -> Splits:
    items = [
        {"task": task, "input": f"{task}：{place}", "target": target}
        for place in range(per_task)
        for task, target in (("换算", f"{place}米"), ("评价", "好" if place % 2 else "坏"))
    ]
    return read_splits(lines(folder / "mine.jsonl", *items))


def planned(folder: Path, wishes: Wishes = WISHES, pace: Pace | None = None) -> ComparisonPlan:
    return make_plan("mine", splits_of(folder), wishes, pace or Pace())


# The plan ---------------------------------------------------------------------------------


def test_the_plan_is_the_largest_that_fits(tmp_path: Path) -> None:
    """Seconds by hand: each doubling of the time allows a plan that takes no more than it."""
    splits = splits_of(tmp_path, per_task=3000)
    taken: list[float] = []
    for minutes in (2, 10, 60, 600, 100_000):
        wishes = Wishes(minutes=minutes)
        plan = make_plan("mine", splits, wishes, Pace())
        assert plan.seconds <= 60 * minutes or plan.recipe.records.train == 40
        assert plan.seconds == pytest.approx(20 + plan.work.seconds(Pace()))
        taken.append(plan.work.training)
    assert taken == sorted(taken)
    assert plan.recipe.records == Records(train=0, dev=32, test=0)  # all of it


def test_the_work_is_counted_by_character(tmp_path: Path) -> None:
    items = [{"task": "数", "input": f"{'字' * 6}{n:04}", "target": "12"} for n in range(100)]
    splits = read_splits(lines(tmp_path / "mine.jsonl", *items))
    wishes = Wishes(
        methods=("Backbone", "LoRA (Full)"),
        seeds=3,
        learning_rates=(1e-3, 2e-3),
        train_records=10,
        epochs=2.0,
        test_records=5,
    )
    work = make_plan("mine", splits, wishes, Pace()).work
    dev = min(32, splits.sizes()["数"]["dev"])
    of_one = 2 * 10 * 12 + 4 * dev * 12 / 3  # two epochs, and four dev losses without gradients
    assert work.training == pytest.approx((2 + 2) * of_one)  # two rates, two more seeds
    assert work.answering == pytest.approx((1 + 3) * 5 * (10 + 8 * 2))  # the backbone has no seed


def test_lorahub_needs_the_modules_and_its_search(tmp_path: Path) -> None:
    both = planned(tmp_path, Wishes(methods=("LoRA (Single)", LORAHUB), epochs=1)).work
    alone = planned(tmp_path, Wishes(methods=(LORAHUB,), epochs=1)).work
    single = planned(tmp_path, Wishes(methods=("LoRA (Single)",), epochs=1)).work
    assert alone.training == both.training > single.training


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"methods": ("LoRa",)}, "LoRa"),
        ({"methods": ()}, "methods must have values"),
        ({"learning_rates": (1e-3, 1e-3)}, "each once"),
        ({"seeds": 0}, "seeds"),
        ({"minutes": -1}, "minutes"),
        ({"epochs": 0.0}, "epochs"),
        ({"train_records": -1}, "train"),
    ],
)
def test_impossible_wishes_are_refused(
    tmp_path: Path, wishes: dict[str, Any], message: str
) -> None:
    splits = splits_of(tmp_path)
    with pytest.raises(ConfigError, match=message):
        make_plan("mine", splits, Wishes(**wishes), Pace())


def test_a_plan_comes_back_as_it_was_written(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    plan.write(tmp_path)
    again = read_plan(tmp_path)
    assert again is not None
    assert again.recipe == plan.recipe
    assert (again.work, again.seconds, dict(again.sizes)) == (plan.work, plan.seconds, plan.sizes)
    assert tuple(again.made) == plan.made
    path = tmp_path / plan_module.PLAN_FILE
    path.write_text(path.read_text().replace("mine", "thine"))
    with pytest.raises(RunError, match="damaged"):
        read_plan(tmp_path)


def test_an_earlier_comparison_is_not_overwritten(tmp_path: Path) -> None:
    splits, plan = splits_of(tmp_path), planned(tmp_path)
    begin(tmp_path / "out", splits, plan)
    with pytest.raises(RunError, match="already"):
        begin(tmp_path / "out", splits, plan)


# Its state --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[Comparison]:
    """The state before the first step, after each finished cell, and at the end."""
    folder = tmp_path_factory.mktemp("comparison")
    out = folder / "all" / "mine"
    assert read_comparison(out) is None
    splits = splits_of(folder)
    plan = make_plan("mine", splits, WISHES, Pace())
    begin(out, splits, plan)

    def state() -> Comparison:
        found = read_comparison(out)
        assert found is not None
        _ = found.board, found.pace  # as of now
        return found

    seen = [state()]
    grid = Grid(
        plan.recipe,
        make_backbone(),
        out / DATA_FOLDER,
        out,
        finished=lambda: seen.append(state()),
    )
    assert grid.run().left == ()
    return [*seen, state()]


def test_certainty_grows_in_steps(states: list[Comparison]) -> None:
    # Two methods with two seeds each: four cells.
    assert [one.certainty for one in states] == [
        *("none", "dev loss", "one seed", "one seed", "all seeds", "all seeds")
    ]
    assert [len(one.answered) for one in states] == [0, 1, 2, 3, 4, 4]


def test_the_share_done_grows_to_all_of_it(states: list[Comparison]) -> None:
    shares = [one.share_done for one in states]
    assert shares[0] == pytest.approx(0)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert states[-1].seconds_left == pytest.approx(0, abs=1e-6)


def test_dev_losses_are_those_of_the_runs(states: list[Comparison]) -> None:
    last = states[-1]
    for method, cell in (("LoRA (Single)", "lora-single"), ("CGC-LoRA", "cgc-lora")):
        manifest = json.loads((last.out / "runs/own" / cell / "seed-0/manifest.json").read_text())
        stated = {float(rate): loss for rate, loss in manifest["dev_losses"].items()}
        assert last.dev_losses[method] == pytest.approx(stated, abs=1e-5)


def test_the_board_has_what_is_scored(states: list[Comparison]) -> None:
    assert states[0].board is None
    assert states[1].board is not None
    assert states[1].board.entries[0].forgetting is None  # unless it is asked for
    names = [[entry.name for entry in one.board.entries] for one in states[1:] if one.board]
    assert len(names[0]) == 1
    assert len(names[-1]) == 2
    last = states[-1].board
    assert last is not None
    assert [entry.seeds for entry in last.entries] == [(0, 1), (0, 1)]
    assert {task.name: task.samples for task in last.tasks} == {"换算": 3, "评价": 3}


def test_the_pace_is_measured_for_the_next_one(states: list[Comparison]) -> None:
    last = states[-1]
    pace = newest_pace(last.out.parent)
    assert pace == last.pace != Pace()
    seconds = math.fsum(step.seconds or 0.0 for step in last.steps)
    assert pace.training * last.plan.work.training == pytest.approx(seconds)
    assert newest_pace(last.out) == Pace()


def test_the_adapter_of_a_method(states: list[Comparison]) -> None:
    last = states[-1]
    assert adapter_of(states[0], "CGC-LoRA") is None
    assert adapter_of(last, "LoRA (Single)") is None  # it has one a task
    folder = adapter_of(last, "CGC-LoRA")
    assert folder is not None
    manifest = json.loads((folder / "manifest.json").read_text())
    (answered,) = json.loads((last.out / "runs/own/cgc-lora/seed-0/manifest.json").read_text())[
        "adapters"
    ]
    assert answered["manifest"]["training"] == manifest["training"]


def test_the_samples_behind_a_score_have_their_records(
    states: list[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CGCLORA_DATA", raising=False)
    run = read_run(states[-1].out / "runs/own/cgc-lora/seed-0")
    found = find_samples(run, ["换算"])
    assert (found.problem, len(found.samples)) == ("", 3)
    assert all(sample.record is not None for sample in found.samples)


def test_work_takes_longer_on_a_slower_machine() -> None:
    work = Work(training=1000, answering=500)
    slow, quick = Pace(2e-3, 1e-3), Pace(1e-3, 1e-3)
    assert work.seconds(slow) - work.seconds(quick) == pytest.approx(1.0)


# The command ------------------------------------------------------------------------------


def test_the_command_resumes_and_takes_more_methods_but_no_other_rates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits_of(tmp_path)
    backbone = save_backbone(tmp_path / "backbone")
    out = tmp_path / "runs" / "mine"
    base = ["compare-methods", str(tmp_path / "mine.jsonl"), "--out", str(out)]
    base += ["--backbone", str(backbone), "--json"]
    chosen = ["--epochs", "1", "--rate", "0.01", "--train-records", "4", "--test-records", "3"]
    assert main([*base, *chosen, "--method", "LoRA (Full)", "--plan"]) == 0
    assert not out.exists()
    capsys.readouterr()
    assert main([*base, *chosen, "--method", "LoRA (Full)"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["entries"]
    assert entry["name"] == "LoRA (Full)"
    assert entry["forgetting"]["samples"] == 48  # passages
    answered = (out / "runs/own/lora-full/seed-0/manifest.json").read_bytes()
    assert main([*base, "--method", "CGC-LoRA"]) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out)["entries"]]
    assert sorted(names) == ["CGC-LoRA", "LoRA (Full)"]
    assert (out / "runs/own/lora-full/seed-0/manifest.json").read_bytes() == answered
    assert main([*base, "--rate", "0.02"]) == 2
    assert "leave --rate out" in capsys.readouterr().err
