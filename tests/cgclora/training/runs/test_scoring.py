"""Weights chosen by the score of dev answers: which, on what, and after an interruption."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cgclora.adapter import Adapter
from cgclora.config import ConfigError
from cgclora.data.records import DataError, Record
from cgclora.inference.engine import generate
from cgclora.inference.request import Request
from cgclora.storage.adapter_dir import read_manifest
from cgclora.storage.run_dir import TrainingError, TrainingStopped
from cgclora.training.settings import TrainingRun, TrainingSettings
from cgclora.training.train import train_side_by_side
from tests.helpers.tiny import make_backbone
from tests.helpers.training_runs import (
    DEV,
    PLAIN,
    SETTINGS,
    TASKS,
    TRAIN,
    assert_same_run,
    log_of,
    run,
    same,
    weights_of,
)


class Exact:
    """The share of answers that are the target; remembers what was asked and answered.

    With `told` the scores of the evaluations are these, whatever the answers.
    """

    def __init__(self, told: Sequence[float] = (), tokens: int = 4) -> None:
        self.told, self.tokens = told, tokens
        self.answers: list[dict[str, list[tuple[Record, str]]]] = []

    def request(self, record: Record) -> Request:
        return Request(record.task, record.prompt, max_new_tokens=self.tokens)

    def score(self, task: str, answers: Sequence[tuple[Record, str]]) -> float:
        if not self.answers or task in self.answers[-1]:
            self.answers.append({})
        self.answers[-1][task] = [*answers]
        if self.told:
            return self.told[len(self.answers) - 1]
        return sum(text == record.target for record, text in answers) / len(answers)

    def metrics(self, tasks: Sequence[str]) -> Mapping[str, str]:
        return dict.fromkeys(tasks, "exact 1")


LEARNS: dict[str, Any] = {"epochs": 5, "evaluations": 4, "best_by": "score"}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exact, dict[str, Any]]:
    folder, judge = tmp_path_factory.mktemp("learned"), Exact()
    _, manifest = run(folder, judge=judge, **LEARNS)
    return folder, judge, manifest


def scored_lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in log_of(folder) if "dev_score" in line]


def test_the_weights_with_the_highest_score_are_saved_and_answer_as_they_were_judged(learned):
    folder, judge, manifest = learned
    lines = scored_lines(folder)
    best = max(range(len(lines)), key=lambda i: (lines[i]["dev_score"], -lines[i]["dev_loss"]))
    assert lines[best]["dev_score"] > 0, "nothing was learned"
    facts = manifest["training"]
    assert facts["best_step"] == lines[best]["step"]
    assert facts["best_dev_score"] == lines[best]["dev_score"]
    assert facts["best_dev_loss"] == lines[best]["dev_loss"]
    backbone = make_backbone()
    adapter = Adapter.load(folder / "adapter", backbone)
    for task in TASKS:
        judged = judge.answers[best][task]
        asked = [judge.request(record) for record, _ in judged]
        texts = [answer.text for answer in generate(backbone, asked, adapter)]
        assert texts == [text for _, text in judged]
        right = sum(text == one.target for text, (one, _) in zip(texts, judged, strict=True))
        assert lines[best]["dev_scores"][task] == right / len(judged)


def test_scoring_leaves_training_as_it_is_and_says_what_it_cost(learned, tmp_path):
    folder, _, manifest = learned
    run(tmp_path, **{**LEARNS, "best_by": "loss"})
    score_free = [
        {name: value for name, value in line.items() if not name.startswith("dev_score")}
        for line in log_of(folder)
    ]
    assert score_free == log_of(tmp_path)
    scoring = manifest["training"]["scoring"]
    assert scoring["metrics"] == dict.fromkeys(TASKS, "exact 1")
    assert scoring["records"] == dict.fromkeys(TASKS, 3)
    assert scoring["seconds"] > 0
    assert manifest["training"]["settings"]["best_by"] == "score"
    without = read_manifest(tmp_path / "adapter")[0]["training"]
    assert not {"scoring", "best_dev_score", "metrics"} & without.keys()
    assert "best_by" not in without["settings"], "older runs could not be resumed"


@pytest.mark.parametrize(
    ("told", "step"), [((0.1, 0.5, 0.3), 6), ((0.5, 0.5, 0.1), 6), ((0.0, 0.0, 0.0), 9)]
)
def test_the_highest_score_wins_and_among_equal_ones_the_lower_loss(tmp_path, told, step):
    _, manifest = run(tmp_path, judge=Exact(told), best_by="score")
    losses = [line["dev_loss"] for line in scored_lines(tmp_path)]
    assert losses == sorted(losses, reverse=True), "the run does not test what it should"
    assert manifest["training"]["best_step"] == step
    checkpoint = tmp_path / "checkpoints" / f"checkpoint-{step}" / "adapter.safetensors"
    assert same(weights_of(tmp_path), load_file(checkpoint))


def test_patience_counts_evaluations_without_a_better_score(tmp_path):
    told = (0.5, 0.4, 0.3, 0.9)
    _, manifest = run(tmp_path, judge=Exact(told), best_by="score", patience=2, evaluations=9)
    facts = manifest["training"]
    assert (facts["best_step"], facts["steps"]) == (1, 3)


def test_at_most_so_many_records_of_a_task_are_answered_always_the_same(tmp_path):
    judge = Exact()
    run(tmp_path, judge=judge, best_by="score", score_records=2)
    (first, *others) = [
        {task: [record.id for record, _ in own] for task, own in one.items()}
        for one in judge.answers
    ]
    assert {task: len(ids) for task, ids in first.items()} == dict.fromkeys(TASKS, 2)
    assert others == [first, first]


@pytest.mark.parametrize("steps", [4, 7])
def test_an_interrupted_run_ends_as_any_other(tmp_path, steps):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    # The last evaluation is not the best one: it must be remembered over the interruption.
    run(whole, judge=Exact((0.9, 0.2, 0.1)), best_by="score")
    left = iter(range(steps - 1))
    with pytest.raises(TrainingStopped):
        run(
            cut,
            judge=Exact((0.9, 0.2)),
            best_by="score",
            stop=lambda: next(left, None) is None,
        )
    run(cut, judge=Exact((0.2, 0.1) if steps == 4 else (0.1,)), best_by="score")
    assert_same_run(cut, whole)
    ours, theirs = (read_manifest(one / "adapter")[0]["training"] for one in (cut, whole))
    assert ours["best_dev_score"] == theirs["best_dev_score"] == 0.9
    assert ours["best_step"] == 3


def test_members_side_by_side_have_the_scores_that_they_have_alone(tmp_path):
    backbone, settings = make_backbone(), {**LEARNS, "evaluations": 2}
    runs = [
        TrainingRun(
            Adapter.attach(backbone, PLAIN, name=name, seed=seed),
            TRAIN,
            DEV,
            TrainingSettings(**{**SETTINGS, **settings, "seed": seed}),
            tmp_path / name,
            judge=Exact(),
        )
        for name, seed in {"a": 0, "b": 1}.items()
    ]
    train_side_by_side(runs, backbone.tokenizer, progress=lambda _: None)
    run(tmp_path / "alone", config=PLAIN, judge=Exact(), **settings)
    ours, alone = (
        [line["dev_scores"] for line in scored_lines(tmp_path / name)] for name in ("a", "alone")
    )
    assert ours == alone
    assert log_of(tmp_path / "b") != log_of(tmp_path / "a")


def test_what_cannot_be_scored_is_refused_before_training(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="python -m evals"):
        run(tmp_path / "none", best_by="score")
    with pytest.raises(DataError, match="no dev record that leaves room"):
        run(tmp_path / "long", judge=Exact(tokens=1000), best_by="score")
    monkeypatch.setattr("cgclora.training.runs.scoring.wants_fsdp", lambda: True)
    with pytest.raises(TrainingError, match="sharded"):
        run(tmp_path / "sharded", judge=Exact(), best_by="score")
    assert not any(tmp_path.rglob("log.jsonl"))
    with pytest.raises(ConfigError, match="best_by"):
        TrainingSettings(best_by="luck")  # type: ignore[arg-type]


def test_a_run_with_other_metrics_is_another_run(tmp_path):
    run(tmp_path, judge=Exact(), best_by="score")
    judge = Exact()
    judge.metrics = lambda tasks: dict.fromkeys(tasks, "exact 2")  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="metrics"):
        run(tmp_path, judge=judge, best_by="score")
