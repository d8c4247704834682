"""Dataset families and metrics from outside: read, asked, scored and shown like our own."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cgclora.data import sources
from evals import tasks
from evals.__main__ import main
from evals.leaderboard.board import boards
from evals.leaderboard.tables import facts_table
from evals.scoring import metrics
from evals.scoring.metrics import METRICS, Metric, get_metric, metric_title
from evals.tasks import FAMILIES, TASKS, DatasetFamily, clusters, read_family
from tests.helpers.tiny import save_backbone
from ui.tabs.leaderboard.captions import facts
from ui.tabs.train.form import folders

TABLE = """
cluster = "law"
licence = "MIT"

[[tasks]]
name = "Verdict"
title = ["判决", "Verdict"]
description = ["判断是否胜诉。", "Decide who wins."]
kind = "classification"
max_new_tokens = 4
template = "谁胜诉？{case}（{choices}）"
reader = { format = "label", empty = "原告" }
labels = ["原告", "被告"]
metrics = ["length"]
fields = [
    { name = "case", label = ["案情", "Case"] },
    { name = "choices", label = ["选项", "Options"], offers = 2 },
]
"""

LENGTH = Metric(
    "length",
    "1",
    "长度分",
    "Length score",
    lambda pairs: np.array([[min(len(pair.prediction), 1), 1.0] for pair in pairs]),
    lambda sums: sums[..., 0] / sums[..., 1],
)


@pytest.fixture
def law(tmp_path: Path) -> Iterator[DatasetFamily]:
    path = tmp_path / "lawsuits.toml"
    path.write_text(TABLE, encoding="utf-8")
    metrics.register(LENGTH)
    yield tasks.register(read_family(path))
    sources.FAMILIES.remove("lawsuits")
    del tasks._FAMILIES["lawsuits"], tasks._TASKS["Verdict"], metrics._METRICS["length"]


def test_a_family_and_a_metric_from_outside_are_read_scored_and_shown(
    law: DatasetFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (FAMILIES["lawsuits"], clusters()["law"]) == (law, ("Verdict",))
    data = tmp_path / "data"
    (data / "lawsuits").mkdir(parents=True)
    record = {"task": "Verdict", "fields": {"case": "甲告乙"}, "reference": "原告", "choices": None}
    (data / "lawsuits" / "test.json").write_text(json.dumps([record]), encoding="utf-8")
    monkeypatch.setenv(sources.FOLDER_VARIABLE, str(data))
    assert folders() == {"law": data / "lawsuits"}

    backbone, run = save_backbone(tmp_path / "backbone"), tmp_path / "run"
    assert main(["run", "--backbone", str(backbone), "--run", str(run)]) == 0
    (board,) = boards(run).boards
    assert (board.cluster, board.tasks[0].metric) == ("law", "length")
    assert facts_table(board).rows[0][:2] == ("Verdict", "length")
    assert "Length score (length)" in facts(board, "en")
    assert metric_title("length", "zh") == "长度分"
    assert metric_title("something new", "zh") == "something new"


def test_a_task_of_a_table_reads_fills_in_and_offers(law: DatasetFamily) -> None:
    (task,) = law.tasks
    assert task.prompt({"case": "甲告乙"}) == "谁胜诉？甲告乙（原告，被告）"
    assert task.parse("").items == (("原告",),)
    assert task.parse("", strict=True).items == ()
    assert (task.dataset, task.licence) == ("lawsuits", "MIT")


def test_names_that_are_taken_are_refused(law: DatasetFamily) -> None:
    with pytest.raises(ValueError, match="lawsuits, Verdict: known already"):
        tasks.register(law)
    with pytest.raises(ValueError, match="already"):
        metrics.register(METRICS["accuracy"])
    with pytest.raises(ValueError, match="not of 'other'"):
        DatasetFamily("other", "law", law.tasks)


def test_every_metric_has_a_title_in_both_languages_of_its_own() -> None:
    for language in ("zh", "en"):
        titles = [metric_title(name, language) for name in METRICS]  # type: ignore[arg-type]
        assert len({*titles}) == len(METRICS)
        assert all(title and title != "" for title in titles)
    assert get_metric("accuracy").higher_is_better
    assert "NER" in TASKS
