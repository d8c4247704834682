"""Runs end to end on tiny models: answered, cut short and gone on with, scored and scored again."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import f1_score

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.data.records import DataError, Record
from cgclora.inference.request import Answer, Request
from evals.data import datasets
from evals.leaderboard.board import boards
from evals.runs.engines import LocalEngine
from evals.runs.evaluate import predict
from evals.runs.run_dir import Run, RunError, read_run
from evals.runs.score import score
from evals.tasks import TASKS
from evals.tasks.recognition import OWN as OWN_CLUSTER
from tests.helpers.tiny import make_backbone

LABELS = ("治疗方案", "病情诊断", "注意事项")
TARGETS = (LABELS[0], LABELS[1], LABELS[0], "非上述类型", LABELS[2])
SAID = (LABELS[0], LABELS[0], "没有这个标签", "", LABELS[2])
RECORDS = [
    *(
        {
            "input": f"判断下面搜索词的意图：\n第{place}个问题",
            "target": target,
            "answer_choices": list(LABELS),
            "task_type": "cls",
            "task_dataset": "KUAKE-QIC",
            "sample_id": f"test-{place}",
        }
        for place, target in enumerate(TARGETS)
    ),
    *(
        {
            "input": f"找出第{place}句中的人名、地名、机构名",
            "target": "人名：王小明\n地名：上海\n机构名：无",
            "task_dataset": "NER",
            "sample_id": f"ner-{place}",
        }
        for place in range(3)
    ),
]


class Scripted:
    """An engine whose answers are written down; it may die after some of them."""

    parallel = 1

    def __init__(self, said: dict[str, str], *, dies_after: int | None = None) -> None:
        self.said = said
        self.dies_after = dies_after
        self.asked: list[Request] = []

    def facts(self, tasks: Sequence[str]) -> dict[str, Any]:
        return {"backbone": {"name": "scripted"}, "decoding": {"tasks": list(tasks)}}

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for count, place in enumerate(reversed(range(len(requests)))):
            if count == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(requests[place])
            text = self.said[requests[place].prompt]
            yield place, Answer(text, "end", 5, len(text) + 1, 0.1)


@pytest.fixture
def dataset(tmp_path: Path) -> datasets.Dataset:
    path = tmp_path / "test.jsonl"
    lines = [json.dumps(record, ensure_ascii=False) for record in RECORDS]
    path.write_text("\n".join(lines), encoding="utf-8")
    return datasets.read(path)


def answers_to(dataset: datasets.Dataset, said: Sequence[str] = SAID) -> dict[str, str]:
    texts = [*said, *["人名：王小明\n地名：北京\n机构名：无"] * 3]
    return {record.prompt: text for record, text in zip(dataset.records, texts, strict=True)}


def made(folder: Path, dataset: datasets.Dataset, **options: Any) -> Run:
    return predict(folder, Scripted(answers_to(dataset)), dataset, method="CGC-LoRA", **options)


def test_scores_are_those_of_scikit_learn_and_of_counting_by_hand(tmp_path, dataset):
    run = score(made(tmp_path / "run", dataset, seed=3), dataset, resamples=200)
    assert run.metrics is not None
    found = {
        (task, name): one["value"]
        for task, facts in run.metrics.items()
        for name, one in facts["scores"].items()
    }
    predicted = [said or "非上述类型" for said in SAID]  # the scorer's rule for no answer
    macro = f1_score(TARGETS, predicted, average="macro", zero_division=0)
    assert found["KUAKE-QIC", "macro-f1"] == pytest.approx(macro)
    assert found["KUAKE-QIC", "accuracy"] == pytest.approx(3 / 5)
    # Each of three sentences: one of two names found, one of two said is right.
    assert found["NER", "micro-f1/items"] == pytest.approx(0.5)
    assert run.metrics["KUAKE-QIC"]["main"] == TASKS["KUAKE-QIC"].metrics[0]
    for facts in run.metrics.values():
        for one in facts["scores"].values():
            assert one["low"] <= one["value"] <= one["high"]
    rows = run.predictions()
    assert rows["prediction"].tolist() == [*SAID, *["人名：王小明\n地名：北京\n机构名：无"] * 3]
    assert json.loads(rows["parsed"][0]) == [[LABELS[0]]]
    assert rows["score"].tolist()[:5] == [1, 0, 0, 1, 1]


def test_a_run_holds_nothing_of_the_prompts_or_references(tmp_path, dataset):
    run = score(made(tmp_path / "run", dataset), dataset, resamples=50)
    for path in run.folder.iterdir():
        content = path.read_bytes()
        assert "个问题".encode() not in content, path
        assert "上海".encode() not in content, path


def test_a_run_that_was_cut_short_goes_on_and_ends_as_if_it_never_was(tmp_path, dataset):
    whole = made(tmp_path / "whole", dataset)
    for dies_after in (0, 3, 2):
        engine = Scripted(answers_to(dataset), dies_after=dies_after)
        with pytest.raises(KeyboardInterrupt):
            predict(tmp_path / "run", engine, dataset, method="CGC-LoRA")
    last = Scripted(answers_to(dataset))
    run = predict(tmp_path / "run", last, dataset, method="CGC-LoRA")
    assert len(last.asked) == len(RECORDS) - 5
    assert run.predictions().equals(whole.predictions())
    for name in ("data", "tasks", "tokens"):
        assert run.manifest[name] == whole.manifest[name]


def test_scoring_twice_gives_the_same_bytes(tmp_path, dataset):
    first = score(made(tmp_path / "run", dataset), dataset, resamples=100)
    files = dict(first.manifest["files"])
    assert score(first, dataset, resamples=100).manifest["files"] == files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: dataclasses.replace(record, id="other"), "lacks 1 of the records"),
        (lambda record: dataclasses.replace(record, target="注意事项"), "are not those"),
    ],
)
def test_other_data_than_was_answered_is_refused(
    tmp_path, dataset, change: Callable[[Record], Record], message
):
    run = made(tmp_path / "run", dataset)
    first, *rest = dataset.records
    other = dataclasses.replace(dataset, records=(change(first), *rest))
    with pytest.raises(DataError, match=message):
        score(run, other)
    assert read_run(run.folder).metrics is None


def test_the_name_of_the_task_can_stand_in_the_prompt(tmp_path, dataset):
    said = answers_to(dataset)
    named = {
        f"任务：{TASKS[record.task].title_zh}\n{record.prompt}": said[record.prompt]
        for record in dataset.records
    }
    engine = Scripted(named)
    plain = made(tmp_path / "plain", dataset)
    run = predict(tmp_path / "run", engine, dataset, method="LoRA (Full+TP)", prompt="task name")
    assert {request.prompt for request in engine.asked} == named.keys()
    assert run.manifest["tasks"] != plain.manifest["tasks"]
    with pytest.raises(RunError, match="choose one of plain, task name"):
        predict(tmp_path / "other", engine, dataset, method="x", prompt="loud")


def test_a_task_that_nobody_knows_is_named(tmp_path, dataset):
    stray = dataclasses.replace(dataset.records[0], task="Astrology")
    other = dataclasses.replace(dataset, records=(stray,))
    with pytest.raises(DataError, match="Astrology"):
        predict(tmp_path / "run", Scripted({}), other, method="CGC-LoRA")
    assert not (tmp_path / "run.partial").exists()


def test_a_local_engine_gives_each_task_its_adapter_and_the_rest_the_bare_backbone(
    tmp_path, dataset
):
    backbone = make_backbone()
    adapter = Adapter.attach(backbone, AdapterConfig(("KUAKE-QIC",)))
    engine = LocalEngine(backbone, {"KUAKE-QIC": adapter}, batch_size=2)
    few = datasets.limit(dataset, 2, seed=0)
    run = predict(tmp_path / "run", engine, few, method="CGC-LoRA")
    assert len(run.predictions()) == 4
    assert run.manifest["trainable_parameters"] == adapter.num_parameters()
    assert [facts["tasks"] for facts in run.manifest["adapters"]] == [["KUAKE-QIC"]]
    assert run.manifest["peak_memory"] > 1e7
    assert run.manifest["tokens"] == run.predictions()["tokens"].sum() > 0


# Tasks that are not built in --------------------------------------------------------------

OWN = {
    "train": [
        {"task": "评价", "input": f"好评还是差评？\n第{i}家", "target": ("好评", "差评")[i % 2]}
        for i in range(8)
    ]
    + [
        {"task": "换算", "input": f"{i} 千米是多少米？", "target": f"{i * 1000} 米"}
        for i in range(8)
    ],
    "test": [
        {"task": "评价", "input": "好评还是差评？\n新开的", "target": "好评"},
        {"task": "评价", "input": "好评还是差评？\n关了的", "target": "差评"},
        {"task": "换算", "input": "12 千米是多少米？", "target": "12000 米"},
    ],
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for split, rows in OWN.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")
    return tmp_path


def test_a_task_of_one_s_own_is_answered_and_scored_as_its_training_data_show(own: Path):
    dataset = datasets.read(own)
    assert dataset.tasks == ("换算", "评价")
    engine = Scripted(
        dict(zip([r["input"] for r in OWN["test"]], ("好评", "好评", "12,000"), strict=False))
    )
    run = score(predict(own / "run", engine, dataset, method="mine"), dataset)
    scores = {
        task: {name: one["value"] for name, one in facts["scores"].items()}
        for task, facts in (run.metrics or {}).items()
    }
    assert scores["评价"] == {"accuracy": 0.5, "macro-f1": pytest.approx(1 / 3)}
    assert scores["换算"] == {"numeric-match": 1, "exact-match": 0}
    stops = {request.task: request.stop for request in engine.asked}
    assert stops == {"评价": ("\n",), "换算": ()}
    (board,) = boards(own).boards
    assert (board.cluster, [task.name for task in board.tasks]) == (OWN_CLUSTER, ["换算", "评价"])
    assert board.entries[0].overall.value == 0.75


def test_a_run_keeps_how_its_own_tasks_were_read(own: Path):
    """Whatever is beside the data later: a run is scored again as it was asked."""
    dataset = datasets.read(own)
    engine = Scripted(dict.fromkeys([r["input"] for r in OWN["test"]], "好评"))
    run = score(predict(own / "run", engine, dataset, method="mine"), dataset)
    (own / "tasks.toml").write_text('[[tasks]]\nname = "评价"\nkind = "generation"\n', "utf-8")
    changed = datasets.read(own)
    assert score(read_run(own / "run"), changed).metrics == run.metrics
    with pytest.raises(RunError):  # another version of the task: another run
        predict(own / "run", engine, changed, method="mine")
    other = score(predict(own / "other", engine, changed, method="mine"), changed)
    assert "chrf" in (other.metrics or {})["评价"]["scores"]
    versions = [
        json.loads((own / name / "manifest.json").read_text("utf-8"))["tasks"]["评价"]["version"]
        for name in ("run", "other")
    ]
    assert versions[0] != versions[1]


def test_a_task_without_targets_cannot_be_scored(tmp_path: Path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"task": "续写", "input": "春天"}', "utf-8")
    dataset = datasets.read(path, need_target=False)
    with pytest.raises(DataError, match="no record has a target"):
        predict(tmp_path / "run", Scripted({}), dataset, method="mine")
