"""The judge of dev answers: the scores that an evaluation gives, while training."""

import json
from pathlib import Path

import pytest

from cgclora.__main__ import main as library
from cgclora.config import ConfigError
from cgclora.data.records import DataError, Record
from cgclora.storage.adapter_dir import read_manifest
from evals.__main__ import main
from evals.experiments.comparison_dir import DevResult
from evals.runs.run_dir import read_run
from evals.scoring.dev_scores import TaskJudge
from evals.tasks import TASKS
from tests.helpers.tiny import save_backbone

MOODS = ("积极", "消极")


def test_a_task_has_its_own_metric_by_its_own_reader():
    judge = TaskJudge(TASKS)
    label = [Record(str(i), "KUAKE-QIC", "问", "治疗方案", ("治疗方案", "其他")) for i in range(4)]
    answers = [(one, "治疗方案" if i else "其他") for i, one in enumerate(label)]
    # Macro F1: three right of three said and four expected, and none of the other label.
    assert judge.score("KUAKE-QIC", answers) == pytest.approx((2 * 3 / (3 + 4) + 0) / 2)
    items = Record("1", "CMeEE-V2", "问", "疾病实体：感冒，肺炎")
    # Two right of two said and two expected, then one of two and two: F1 of the sums.
    said = [(items, "疾病实体：感冒，肺炎"), (items, "疾病实体：感冒，流感")]
    assert judge.score("CMeEE-V2", said) == pytest.approx(2 * 3 / (4 + 4))
    metrics = judge.metrics(["CMeEE-V2"])
    assert metrics == {"CMeEE-V2": "micro-f1/items 1"}


def test_a_task_or_a_package_that_lacks_is_named_before_training(monkeypatch):
    with pytest.raises(DataError, match=r"\['mystery'\] cannot be scored"):
        TaskJudge(TASKS).metrics(["mystery"])
    judge = TaskJudge(TASKS)

    def without(*_: object) -> float:
        raise ModuleNotFoundError("no rouge_chinese", name="rouge_chinese")

    monkeypatch.setattr(judge, "score", without)
    with pytest.raises(ConfigError, match="pip install rouge_chinese"):
        judge.metrics(["Couplet"])


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    for split, count in (("train", 8), ("dev", 4)):
        lines = [
            {"task": "mood", "input": f"{split} {i} 怎样？", "target": MOODS[i % 2]}
            for i in range(count)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    backbone = str(save_backbone(tmp_path / "backbone"))
    data = ["--data", str(tmp_path / "train.jsonl"), "--dev", str(tmp_path / "dev.jsonl")]
    options = ["--epochs", "12", "--batch-size", "4", "--evaluations", "4", "--best-by", "score"]
    rate = ["--learning-rate", "0.02", "--run", str(tmp_path / "run")]
    return ["train", *data, "--backbone", backbone, *options, *rate]


def test_the_best_score_is_that_of_an_evaluation_of_the_saved_adapter(words, tmp_path, capsys):
    assert main(words) == 0
    output, progress = capsys.readouterr()
    training = read_manifest(tmp_path / "run" / "adapter")[0]["training"]
    assert output.startswith(f"dev score {training['best_dev_score']:.4f} · dev loss")
    assert "s of scoring)" in progress
    assert training["scoring"]["metrics"]["mood"].startswith("accuracy ")
    evaluation = ["--adapter", str(tmp_path / "run" / "adapter"), "--run", str(tmp_path / "scored")]
    split = ["--data", str(tmp_path), "--split", "dev"]
    assert main(["run", *words[5:7], *split, *evaluation]) == 0
    metrics = read_run(tmp_path / "scored").metrics
    assert metrics is not None
    scores = metrics["mood"]["scores"][metrics["mood"]["main"]]
    assert training["best_dev_score"] == pytest.approx(scores["value"])
    assert training["best_dev_score"] > 0, "the run does not test what it should"


def test_the_library_says_which_command_knows_the_metrics(words, capsys):
    assert library(words) == 2
    assert "python -m evals" in capsys.readouterr().err


def test_of_trainings_the_highest_score_is_best_and_then_the_lowest_loss():
    results = [
        DevResult.of({"best_dev_score": score, "best_dev_loss": loss})
        for score, loss in ((0.5, 0.3), (0.7, 0.9), (0.7, 0.8))
    ]
    assert min(results) == (-0.7, 0.8)
    assert DevResult.mean(results[1:]) == (-0.7, pytest.approx(0.85))
    assert DevResult.of({"best_dev_loss": 0.3}) == (0.0, 0.3)
