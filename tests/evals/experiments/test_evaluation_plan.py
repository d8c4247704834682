"""Evaluations to be: their commands, their data, how long they take, and how far they are."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cgclora.data.records import DataError
from cgclora.inference.request import Answer, Request
from evals.__main__ import _parser
from evals.data import datasets
from evals.experiments.evaluation_plan import (
    Earlier,
    EvaluationPlan,
    data_facts,
    is_official_data_known,
    seconds_needed,
    total,
)
from evals.methods import METHODS
from evals.runs.evaluate import predict
from evals.runs.progress import Progress, read_progress
from evals.runs.run_dir import Prediction, RunError, Unfinished
from evals.runs.score import score
from evals.tasks.samples import SAMPLES, load_samples

LINES = [
    {"kind": "Couplet", "input": "请对下联：春风", "target": "秋雨"},
    {"kind": "Couplet", "input": "请对下联：夏日", "target": "冬雪"},
    {"kind": "SentimentAnalyze", "input": "灯光柔和", "target": "积极"},
    {"kind": "SomethingElse", "input": "?", "target": "!"},
]


def write(path: Path, lines: Sequence[Any]) -> Path:
    texts = [
        line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines
    ]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


class Scripted:
    """Answers "秋雨" to everything, and may die after some answers."""

    parallel = 1

    def __init__(self, dies_after: int = -1, name: str = "scripted") -> None:
        self.dies_after = dies_after
        self.name = name
        self.asked = 0

    def facts(self, tasks: Sequence[str]) -> dict[str, Any]:
        return {"backbone": {"name": self.name}, "adapters": [], "decoding": {}}

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for place in range(len(requests)):
            if self.asked == self.dies_after:
                raise KeyboardInterrupt
            self.asked += 1
            yield place, Answer("秋雨", "end", 5, 2, 0.1)


# Commands -----------------------------------------------------------------------------------


def test_the_command_says_all_that_the_plan_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = EvaluationPlan(
        "LoRA (Full+TP)",
        tasks=("NER", "Couplet"),
        per_task=20,
        adapter=tmp_path / "adapters" / "mine",
        label="mine",
        source=Path("/elsewhere/test.jsonl"),
        skip_bad=True,
        backbone="owner/name",
    )
    module, evals, *words = plan.command(tmp_path / "runs" / "one")
    assert (module, evals) == ("-m", "evals")
    options = _parser().parse_args(words)
    assert options.method == "LoRA (Full+TP)"
    assert options.prompt == METHODS["LoRA (Full+TP)"].prompt
    assert options.task == ["NER", "Couplet"]
    assert options.per_task == 20
    assert options.adapter == [Path("adapters/mine")]
    assert options.label == "mine"
    assert options.data == "/elsewhere/test.jsonl"
    assert options.skip_bad
    assert options.backbone == "owner/name"
    assert options.run == Path("runs/one")


def test_what_is_left_out_has_the_command_s_own_default(tmp_path):
    _, _, *words = EvaluationPlan("Backbone").command(tmp_path)
    options = _parser().parse_args(words)
    assert (options.adapter, options.data, options.task, options.per_task) == ([], None, None, 0)
    assert (options.prompt, options.label, options.skip_bad) == ("plain", "", False)


def test_paths_are_seen_from_another_folder_when_that_is_asked(tmp_path):
    plan = EvaluationPlan("CGC-LoRA", adapter=tmp_path / "a" / "mine")
    command = plan.command(tmp_path / "runs" / "one", seen_from=tmp_path)
    assert str(tmp_path) not in " ".join(command)


# Data ---------------------------------------------------------------------------------------


def test_facts_count_records_and_show_no_text(tmp_path):
    path = write(tmp_path / "test.jsonl", [*LINES, "{broken", {"kind": "NER", "input": "x"}])
    facts = data_facts(path)
    assert {name: size.records for name, size in facts.tasks.items()} == {
        "SentimentAnalyze": 1,
        "Couplet": 2,
        "SomethingElse": 1,
    }
    assert [entry["name"] for entry in facts.own] == ["SomethingElse"]
    assert {name for name, size in facts.tasks.items() if size.examples} == {"SomethingElse"}
    assert [problem.line for problem in facts.problems] == [5, 6]
    assert "春风" not in repr(facts)


def test_facts_are_read_anew_when_the_file_has_changed(tmp_path):
    path = write(tmp_path / "test.jsonl", LINES[:1])
    assert total(data_facts(path), ("Couplet",), 0)[0] == 1
    write(path, LINES[:2])
    assert total(data_facts(path), ("Couplet",), 0)[0] == 2


def test_our_samples_are_data_like_any_other():
    facts = data_facts(SAMPLES)
    counts = {name: len(samples) for name, samples in load_samples().items()}
    assert {name: size.records for name, size in facts.tasks.items()} == counts


def test_data_that_cannot_be_used_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no usable record"):
        data_facts(write(tmp_path / "test.jsonl", ["{"]))
    monkeypatch.delenv("CGCLORA_DATA", raising=False)
    assert not is_official_data_known()
    with pytest.raises(DataError, match="CGCLORA_DATA"):
        data_facts(None)
    monkeypatch.setenv("CGCLORA_DATA", str(tmp_path))
    assert is_official_data_known()


# Time ---------------------------------------------------------------------------------------


def test_a_limit_takes_records_and_work_away(tmp_path):
    facts = data_facts(write(tmp_path / "test.jsonl", LINES))
    everything, one_each = (total(facts, ("Couplet", "SentimentAnalyze"), n) for n in (0, 1))
    assert (everything[0], one_each[0]) == (3, 2)
    assert one_each[1] < everything[1]


def test_the_time_is_that_of_earlier_runs_in_proportion():
    assert seconds_needed(100, []) is None
    earlier = [Earlier(work=50, answering=10, whole=25), Earlier(work=150, answering=30, whole=45)]
    assert seconds_needed(100, earlier) == pytest.approx(100 * 0.2 + 15)
    assert seconds_needed(100, [Earlier(work=0, answering=0, whole=3)]) is None
    # A run that was gone on with began to answer before its job was last started.
    assert seconds_needed(100, [Earlier(work=100, answering=20, whole=5)]) == pytest.approx(20)


# How far a run is -----------------------------------------------------------------------------


def test_progress_is_that_of_each_task_while_it_answers_and_after_it_was_cut_short(tmp_path):
    dataset = datasets.only(
        datasets.read(write(tmp_path / "test.jsonl", LINES)), ["Couplet", "SentimentAnalyze"]
    )
    run = tmp_path / "run"
    assert read_progress(run) is None
    with pytest.raises(KeyboardInterrupt):
        predict(run, Scripted(dies_after=2), dataset, method="Backbone")
    assert read_progress(run) == Progress({"SentimentAnalyze": (0, 1), "Couplet": (2, 2)}, None)
    predict(run, Scripted(), dataset, method="Backbone")
    assert read_progress(run) is None


def test_the_time_left_is_the_one_that_the_run_has_told(tmp_path):
    run = tmp_path / "run"
    identity = {"data": {"tasks": {"NER": {"records": 10}, "Couplet": {"records": 2}}}}
    with Unfinished(run, identity) as unfinished:
        unfinished.add([Prediction("NER", str(n), "", "end", 1) for n in range(4)])
        for left in (None, 75.04):
            unfinished.log_progress(4, 8.0, left)
            found = read_progress(run)
            assert found is not None
            assert (found.done, found.total) == (4, 12)
            assert found.seconds_left == (None if left is None else 75.0)


@pytest.mark.parametrize("name", ["identity.json", "log.jsonl", "answers.jsonl"])
def test_a_damaged_folder_shows_no_progress(tmp_path, name):
    run = tmp_path / "run"
    with Unfinished(run, {"data": {"tasks": {"NER": {"records": 1}}}}) as unfinished:
        unfinished.add([Prediction("NER", "0", "", "end", 1)])
        unfinished.log_progress(1, 1.0)
    (tmp_path / "run.partial" / name).write_text("?\n")
    assert read_progress(run) is None


def test_a_half_written_line_does_not_count(tmp_path):
    run = tmp_path / "run"
    with Unfinished(run, {"data": {"tasks": {"NER": {"records": 2}}}}) as unfinished:
        unfinished.add([Prediction("NER", "0", "", "end", 1)])
    with (tmp_path / "run.partial" / "answers.jsonl").open("a") as stream:
        stream.write('["NER", "1", "ha')
    assert read_progress(run) == Progress({"NER": (1, 2)}, None)


def test_a_run_that_was_cut_short_before_its_scores_is_not_answered_again(tmp_path):
    dataset = datasets.only(datasets.read(write(tmp_path / "test.jsonl", LINES)), ["Couplet"])
    options: dict[str, Any] = {"method": "Backbone", "to_be_scored": True}
    answered = predict(tmp_path / "run", Scripted(), dataset, **options)
    nobody = Scripted(dies_after=0)
    assert predict(tmp_path / "run", nobody, dataset, **options) == answered
    assert nobody.asked == 0
    with pytest.raises(RunError, match="finished run"):
        predict(tmp_path / "run", Scripted(), dataset, method="Backbone")
    with pytest.raises(RunError, match="finished run"):
        predict(tmp_path / "run", Scripted(name="another"), dataset, **options)
    score(answered, dataset, resamples=50)
    with pytest.raises(RunError, match="finished run"):
        predict(tmp_path / "run", Scripted(), dataset, **options)
