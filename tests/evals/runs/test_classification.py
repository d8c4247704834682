"""The table of accuracies: who is asked what, how answers are counted, and the interval."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgclora.adapter import Adapter
from cgclora.analysis.intervals import wilson_interval
from cgclora.config import AdapterConfig
from cgclora.data.records import DataError, Record
from cgclora.inference.request import Answer
from cgclora.storage.adapter_dir import read_manifest
from evals.__main__ import main
from evals.runs.classification import compare
from tests.helpers.tiny import make_backbone, save_backbone

TASKS = ("SentimentAnalyze", "KUAKE-QIC", "NER", "a task of somebody's own")
LABELS = ("治疗方案", "病情诊断")
RECORDS = [
    Record("1", "SentimentAnalyze", "灯光柔和", "积极"),
    Record("2", "KUAKE-QIC", "咳嗽怎么治", LABELS[0], LABELS),
    Record("3", "NER", "王小明到了上海", "人名：王小明"),
    Record("4", "SentimentAnalyze", "灯罩是坏的", "消极"),
    Record("5", "a task of somebody's own", "?", "!"),
    Record("6", "SentimentAnalyze", "还会再买", "积极"),
]


def test_each_method_is_asked_in_its_own_way_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def answer(_: Any, requests: Any, *__: Any, **___: Any) -> list[Answer]:
        asked.extend(requests)
        said = {None: "消极", "SentimentAnalyze": "积极\n", "KUAKE-QIC": LABELS[0]}
        return [Answer(said[request.task], "end", 1, 1, 0.0) for request in requests]

    monkeypatch.setattr("evals.runs.classification.generate", answer)
    backbone = make_backbone()
    adapter = Adapter.attach(backbone, AdapterConfig(TASKS))
    report = compare(backbone, adapter, RECORDS)
    right = {
        task: {method: of["right"] for method, of in scores.items() if method != "records"}
        for task, scores in report["tasks"].items()
    }
    assert right == {
        "SentimentAnalyze": {
            "adapter": 2,
            "backbone": 1,
            "backbone, labels": 1,
            "commonest label": 2,
        },
        "KUAKE-QIC": {"adapter": 1, "backbone": 0, "backbone, labels": 0, "commonest label": 1},
    }
    assert report["tasks"]["SentimentAnalyze"]["records"] == 3
    assert report["tasks"]["SentimentAnalyze"]["adapter"]["accuracy"] == pytest.approx(2 / 3)
    assert {(request.task, request.choices) for request in asked} == {
        ("SentimentAnalyze", None),
        ("KUAKE-QIC", None),
        (None, None),
        (None, ("积极", "消极")),
        (None, ("非上述类型", *LABELS)),
    }
    few = compare(backbone, adapter, RECORDS, most=1)
    assert {scores["records"] for scores in few["tasks"].values()} == {1}


def test_records_without_a_classification_task_are_refused() -> None:
    backbone = make_backbone()
    adapter = Adapter.attach(backbone, AdapterConfig(TASKS))
    with pytest.raises(DataError, match="none of these records"):
        compare(backbone, adapter, [record for record in RECORDS if record.task == "NER"])


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_ends_where_the_score_test_turns(case: tuple[int, int]) -> None:
    """The bounds are the shares p from which right / total is 1.96 standard errors of p away."""
    right, total = case
    low, high = wilson_interval(right, total)
    assert -1e-9 <= low <= right / total + 1e-9
    assert right / total - 1e-9 <= high <= 1 + 1e-9
    for bound in (low, high):
        error = math.sqrt(max(bound * (1 - bound), 0) / total)
        assert abs(right / total - bound) == pytest.approx(1.96 * error, abs=1e-6)


@pytest.mark.parametrize(("right", "total"), [(0, 0), (2, 1), (-1, 3)])
def test_what_is_no_proportion_is_refused(right: int, total: int) -> None:
    with pytest.raises(ValueError, match="proportion"):
        wilson_interval(right, total)


def test_the_command_writes_the_table_into_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_backbone(tmp_path / "backbone")
    data = tmp_path / "test.jsonl"
    record = {"kind": RECORDS[0].task, "input": RECORDS[0].prompt, "target": RECORDS[0].target}
    data.write_text(json.dumps(record), encoding="utf-8")
    adapter = tmp_path / "adapter"
    Adapter.attach(make_backbone(), AdapterConfig(TASKS)).save(adapter)
    options = ["--adapter", str(adapter), "--backbone", str(folder), "--write"]
    assert main(["classification", *options, "--data", str(data)]) == 0
    written = read_manifest(adapter)[0]["classification"]
    assert json.loads(capsys.readouterr().out) == written
    assert written["tasks"]["SentimentAnalyze"]["records"] == 1
    assert main(["classification", *options, "--data", str(tmp_path / "none.jsonl")]) == 4
    assert "none.jsonl" in capsys.readouterr().err
