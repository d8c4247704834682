"""The judge's command line, on a tiny backbone and our own words."""

import json
import tomllib
from pathlib import Path

import pytest

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.data.task_table import DESCRIPTIONS
from evals.__main__ import main
from evals.runs.run_dir import read_run
from tests.helpers.tiny import make_backbone, save_backbone

ASSETS = Path(__file__).parents[3] / "assets"
LINES = [
    {"kind": "SentimentAnalyze", "input": f"第{place}句：灯光柔和", "target": "积极"}
    for place in range(3)
] + [{"kind": "Couplet", "input": "请对下联：春风", "target": "秋雨"}]


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    folder = save_backbone(tmp_path / "backbone")
    lines = [json.dumps(line, ensure_ascii=False) for line in LINES]
    (tmp_path / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    Adapter.attach(make_backbone(), AdapterConfig(("SentimentAnalyze",))).save(tmp_path / "adapter")
    return ["--backbone", str(folder), "--data", str(tmp_path / "test.jsonl")]


def test_run_predicts_and_scores_the_tasks_that_the_adapter_knows(tmp_path, options, capsys):
    words = ["--adapter", str(tmp_path / "adapter"), "--run", str(tmp_path / "run"), "--json"]
    assert main(["run", *options, *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["metrics"].keys() == {"SentimentAnalyze"}
    assert said["metrics"]["SentimentAnalyze"]["samples"] == 3
    assert said == {
        "manifest": read_run(tmp_path / "run").manifest,
        "metrics": read_run(tmp_path / "run").metrics,
    }


def test_own_tasks_are_judged_as_the_adapter_was_trained(tmp_path, options):
    task = {"name": "心情", "kind": "generation", "max_new_tokens": 2}
    lines = [
        {"task": "心情", "input": f"灯光{n}", "target": "好" if n % 2 else "坏"} for n in range(6)
    ]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "own.jsonl").write_text(text, encoding="utf-8")
    Adapter.attach(make_backbone(), AdapterConfig(("心情",))).save(
        tmp_path / "own", facts={DESCRIPTIONS: {"心情": task}}
    )
    words = ["--adapter", str(tmp_path / "own"), "--run", str(tmp_path / "run")]
    assert main(["run", *options[:2], "--data", str(tmp_path / "own.jsonl"), *words]) == 0
    run = read_run(tmp_path / "run")
    assert run.manifest["tasks"]["心情"]["description"]["max_new_tokens"] == 2
    assert run.metrics["心情"]["main"] == "rouge-l/jieba"  # recognised alone: accuracy


def test_predictions_made_first_are_scored_later(tmp_path, options, capsys):
    run = str(tmp_path / "run")
    assert main(["predict", *options, "--run", run, "--per-task", "1", "--label", "few"]) == 0
    assert "2 answers, not scored yet" in capsys.readouterr().out
    assert read_run(run).manifest["method"] == "Backbone"
    assert read_run(run).manifest["label"] == "few"
    assert main(["score", run, *options[2:]]) == 0
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()] == ["Couplet", "SentimentAnalyze"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--task", "NER"], 4, "no record of NER"),
        (["--server", "http://127.0.0.1:9"], 2, "--server needs --model"),
        (["--adapter", "nowhere"], 5, "holds no adapter"),
        (
            ["--adapter", "adapter", "--task", "Couplet"],
            4,
            "no given adapter knows Couplet:",
        ),
        (["--adapter", "adapter", "--adapter", "adapter"], 2, "two adapters know"),
        (
            ["--server", "http://127.0.0.1:9", "--model", "*=x", "--method", "y"],
            6,
            "Is the server up",
        ),
    ],
)
def test_what_is_wrong_is_said_with_an_exit_code_of_its_own(
    tmp_path, options, words, code, message, capsys
):
    words = [str(tmp_path / word) if word in {"adapter", "nowhere"} else word for word in words]
    assert main(["predict", *options, "--run", str(tmp_path / "run"), *words]) == code
    assert message in capsys.readouterr().err


def test_a_finished_run_is_not_overwritten(tmp_path, options, capsys):
    words = ["predict", *options, "--run", str(tmp_path / "run"), "--per-task", "1"]
    assert main(words) == 0
    assert main(words) == 6
    assert "finished run" in capsys.readouterr().err


def test_predict_answers_machines_in_json_too(tmp_path, options, capsys):
    words = ["--run", str(tmp_path / "run"), "--per-task", "1", "--json"]
    assert main(["predict", *options, *words]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] is None


def test_an_adapter_that_knows_no_task_of_the_data_answers_nothing(tmp_path, options, capsys):
    other = tmp_path / "couplets.jsonl"
    other.write_text(json.dumps(LINES[-1]), encoding="utf-8")
    words = ["--adapter", str(tmp_path / "adapter"), "--run", str(tmp_path / "run")]
    assert main(["run", *options[:2], "--data", str(other), *words]) == 4
    assert "no given adapter knows Couplet: add one" in capsys.readouterr().err
    assert list(tmp_path.glob("run*")) == []


@pytest.mark.backbone
def test_shipped_samples_run_end_to_end_with_a_shipped_adapter(tmp_path, capsys):
    words = ["--adapter", str(ASSETS / "adapters" / "medical"), "--data", str(ASSETS / "samples")]
    tasks = ["--task", "KUAKE-QIC", "--task", "CHIP-CTC", "--per-task", "2"]
    assert main(["run", *words, *tasks, "--run", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    run = read_run(tmp_path / "run")
    assert run.manifest["method"] == "CGC-LoRA"
    assert run.metrics is not None
    for facts in run.metrics.values():
        assert (facts["samples"], facts["unread"], facts["cut"]) == (2, 0, 0)
    assert set(run.predictions()["finish"]) == {"end"}  # labels, each with its end token
    assert run.predictions()["score"].sum() >= 3


def test_tasks_that_are_not_built_in_are_printed_as_a_table_that_may_be_corrected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"task": "换算", "input": f"{i} 千米是多少米？", "target": f"{i * 1000} 米"}
        for i in range(5)
    ]
    data = tmp_path / "train.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in (*rows, *LINES)]
    data.write_text("\n".join(lines), encoding="utf-8")
    assert main(["tasks", str(data)]) == 0
    printed = capsys.readouterr()
    assert "Couplet, SentimentAnalyze" in printed.err
    (tmp_path / "tasks.toml").write_text(
        printed.out.replace('"number"', '"generation"', 1), "utf-8"
    )
    assert main(["tasks", str(tmp_path)]) == 0
    corrected = tomllib.loads(capsys.readouterr().out)["tasks"]
    assert [(task["name"], task["kind"]) for task in corrected] == [("换算", "generation")]
