"""The recipe of the next comparison in small: from plan to leaderboard, in one go and killed.

All twelve methods, both clusters with all 24 tasks, two seeds; few records, on a tiny backbone.
"""

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cgclora.training.runs.member import Member
from cgclora.training.settings import TrainingSettings
from evals.experiments.comparison_dir import is_run
from evals.experiments.grid import Grid
from evals.experiments.grid_plan import plan
from evals.experiments.parts.parts import read_parts, write_parts
from evals.experiments.recipe import Recipe, Records, Search, read_recipe
from evals.leaderboard.board import boards
from evals.methods import Sizes, compared
from evals.runs.run_dir import Unfinished, find_runs, read_run
from evals.tasks import TASKS
from tests.cgclora.training.test_interrupted_training import PROCESSES
from tests.helpers.tiny import VOCABULARY, make_backbone
from tests.helpers.training_runs import same

SECONDS = 180
"""The whole must not take longer on two cores, counted in their work: others may be busy there."""


def small(**changes: Any) -> Recipe:
    """The recipe with tiny sizes."""
    paper = read_recipe("paper")
    return dataclasses.replace(
        paper,
        records=Records(train=2, dev=1, test=1),
        sizes=Sizes(lora_rank=2, common=2, expert_rank=1, moe_experts=2, moe_rank=4, alpha=4.0),
        training=TrainingSettings(epochs=1, batch_size=8, evaluations=1, weighting="record"),
        search=Search(examples=1, evaluations=3),
        **{"seeds": (0, 1), "learning_rates": paper.learning_rates[:2], **changes},
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two records a task and split, of our own."""
    folder = tmp_path_factory.mktemp("data")
    paper = read_recipe("paper")
    for split in ("train", "dev", "test"):
        lines = [
            {
                "task_dataset": task,
                "input": f"{split} {place} {task}",
                "target": "是的" if TASKS[task].kind == "classification" else "头痛",
                "sample_id": f"{split}-{task}-{place}",
            }
            for place in range(2)
            for tasks in paper.clusters.values()
            for task in tasks
        ]
        text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def made(source: Path, out: Path, **changes: Any) -> Grid:
    backbone = make_backbone()
    # One word in eight ends an answer: else a model of no sense goes on to the limit.
    backbone.model.generation_config.eos_token_id = [*range(1, VOCABULARY, 8)]
    backbone.model.config.max_position_embeddings = 1024  # longer than its answers may be
    return Grid(small(**changes), backbone, source, out, members=16)


def answers(out: Path) -> dict[str, list[str]]:
    """What each run says, by its place."""
    return {
        str(folder.relative_to(out)): read_run(folder).predictions()["prediction"].tolist()
        for folder in find_runs(out / "runs")
    }


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The tensors of all adapters, by their place."""
    from safetensors.torch import load_file

    return {
        f"{path.relative_to(out)} {name}": tensor
        for path in sorted(out.glob("adapters/**/adapter/adapter.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison in one go, its parts beside it; the test of its time comes first."""
    out = tmp_path_factory.mktemp("whole")
    started = time.process_time()
    matrix = made(source, out / "comparison")
    planned = plan(matrix)
    assert planned.complete_seeds(float("inf")) == [0, 1]
    assert {stage.work for stage in planned.stages} == {"rates", "training", "search", "answers"}
    outcome = matrix.run()
    assert outcome.left == ()
    assert outcome.done == 2 * (2 * (len(compared()) - 1) + 1)  # the backbone has no seeds
    assert plan(matrix).stages == ()
    write_parts(out / "comparison", out / "parts", 1)
    (out / "seconds").write_text(str(time.process_time() - started))
    return out


def test_it_goes_from_plan_to_leaderboard_in_three_minutes(whole: Path) -> None:
    started = time.process_time()
    found = boards([whole / "comparison" / "runs"])
    assert not found.damaged
    assert not found.unscored
    assert [len(board.clusters) for board in found.boards] == [2, 1, 1]
    for board in found.boards:
        assert {entry.method for entry in board.entries} == set(compared())
    taken = time.process_time() - started + float((whole / "seconds").read_text())
    assert taken < 2 * SECONDS


def test_it_comes_back_in_parts(whole: Path, source: Path, tmp_path: Path) -> None:
    report = read_parts(whole / "parts", tmp_path / "back")
    assert not report.missing
    assert answers(tmp_path / "back") == answers(whole / "comparison")
    assert made(source, tmp_path / "back").missing() == []


def die_at(source: Path, out: Path, where: str, call: int) -> None:
    """Run the comparison with one seed, and be killed at a call; in a process of its own."""
    torch.set_num_threads(1)
    owner: Any = {"take_step": Member, "add": Unfinished}[where]
    original, calls = getattr(owner, where), iter(range(1, 10**6))

    def dying(*arguments: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(owner, where, dying)
    made(source, out, seeds=(0,)).run()


def test_killed_twice_it_ends_as_if_it_had_not_been(
    whole: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "comparison"
    for where, call in (("take_step", 60), ("add", 20)):
        process = PROCESSES.Process(target=die_at, args=(source, out, where, call))
        process.start()
        process.join(timeout=SECONDS)
        assert process.exitcode == -signal.SIGKILL
    matrix = made(source, out, seeds=(0,))
    assert matrix.run().left == ()
    expected = {
        place: said for place, said in answers(whole / "comparison").items() if "seed-0" in place
    }
    assert answers(out) == expected
    trained = {
        name: tensor for name, tensor in weights(whole / "comparison").items() if "/seed-0/" in name
    }
    assert same(weights(out), trained)
    shutil.rmtree(out / ".locks")
    assert all(is_run(matrix.folder.run(cell)) for cell in matrix.recipe.cells())
