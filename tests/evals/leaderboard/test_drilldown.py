"""The samples behind a score: joined by id, shown with records only if those were answered."""

import json
from pathlib import Path
from typing import Any

import pytest

from cgclora.data.records import Record, data_hash
from evals.leaderboard.drilldown import find_samples
from evals.runs.run_dir import Run, RunError, read_run
from tests.helpers.run_dirs import around, write_answers, write_run

LABELS = ("积极", "消极", "积极")
TASK = "SentimentAnalyze"


def write_data(folder: Path, targets: tuple[str, ...] = LABELS) -> list[Record]:
    folder.mkdir(exist_ok=True)
    lines = [
        {"kind": TASK, "input": f"句子{n}", "target": target, "sample_id": f"s{n}"}
        for n, target in enumerate(targets)
    ]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "test.jsonl").write_text(text, encoding="utf-8")
    return [Record(f"s{n}", TASK, f"句子{n}", target) for n, target in enumerate(targets)]


def make_run(folder: Path, answers: tuple[str, ...], **changes: Any) -> Run:
    rows = [
        {"task": TASK, "id": f"s{n}", "prediction": said, "score": said == right}
        for n, (said, right) in enumerate(zip(answers, LABELS, strict=True))
    ]
    records = [Record(f"s{n}", TASK, f"句子{n}", target) for n, target in enumerate(LABELS)]
    facts = {"tasks": {TASK: {"records": len(rows), "hash": data_hash(records)}}}
    write_run(folder, {TASK: around(0.5)})
    return read_run(write_answers(folder, rows, data=facts, **changes))


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_data(tmp_path / "data")
    monkeypatch.setenv("CGCLORA_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_an_answer_stands_beside_its_record_and_the_other_answer(tmp_path):
    run = make_run(tmp_path / "a", ("积极", "积极", "消极"))
    other = make_run(tmp_path / "b", ("积极", "消极", "消极"))
    found = find_samples(run, [TASK], other)
    sample = found.samples[1]
    assert (sample.answer.text, sample.answer.score) == ("积极", 0.0)
    assert (sample.other.text, sample.other.score) == ("消极", 1.0)
    assert (sample.record.prompt, sample.record.target) == ("句子1", "消极")
    assert (found.problem, found.other_data) == ("", ())


def test_kinds_count_what_is_wrong_what_differs_and_who_won(tmp_path):
    run = make_run(tmp_path / "a", ("积极", "积极", "消极"))
    other = make_run(tmp_path / "b", ("消极", "消极", "消极"))
    beside, alone = find_samples(run, [TASK], other), find_samples(run, [TASK])
    kinds = ("all", "wrong", "disagree", "won", "lost")
    assert [beside.count(kind) for kind in kinds] == [3, 2, 2, 1, 1]
    assert [alone.count(kind) for kind in kinds] == [3, 2, 0, 0, 0]


def test_tasks_that_were_not_asked_for_are_left_out(tmp_path):
    run = make_run(tmp_path / "a", LABELS)
    assert find_samples(run, ["NER"]).samples == ()


def test_records_that_were_not_answered_are_not_shown(tmp_path, data):
    run = make_run(tmp_path / "a", LABELS)
    write_data(data, ("积极", "积极", "积极"))
    found = find_samples(run, [TASK])
    assert found.other_data == (TASK,)
    assert [sample.record for sample in found.samples] == [None] * 3


def test_answers_are_shown_where_there_is_no_data(tmp_path, monkeypatch):
    run = make_run(tmp_path / "a", LABELS)
    monkeypatch.delenv("CGCLORA_DATA")
    found = find_samples(run, [TASK])
    assert "CGCLORA_DATA" in found.problem
    assert [sample.record for sample in found.samples] == [None] * 3
    assert [sample.answer.text for sample in found.samples] == [*LABELS]


def test_a_run_without_a_split_has_no_records(tmp_path):
    found = find_samples(make_run(tmp_path / "a", LABELS, split=None), [TASK])
    assert "which split" in found.problem


def test_changed_data_is_read_again(tmp_path, data):
    run = make_run(tmp_path / "a", LABELS)
    assert find_samples(run, [TASK]).samples[0].record is not None
    (data / "test.jsonl").unlink()
    assert find_samples(run, [TASK]).problem


def test_damaged_answers_are_refused(tmp_path):
    run = make_run(tmp_path / "a", LABELS)
    (run.folder / "predictions.parquet").write_bytes(b"cut")
    with pytest.raises(RunError, match="damaged"):
        find_samples(run, [TASK])
