"""Forgetting: nats by hand, which tasks read which passage, and what a run's manifest keeps."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import DataError
from cgclora.models.backbone import Backbone
from cgclora.storage.adapter_dir import read_manifest
from evals.__main__ import main
from evals.data.prose import Passage, Prose, read_prose
from evals.leaderboard.board import boards
from evals.runs import forgetting
from evals.runs.engines import LocalEngine
from evals.runs.forgetting import draw, measure, measure_run
from evals.runs.run_dir import RunError, read_run
from tests.helpers.reference import merged, scatter
from tests.helpers.tiny import make_backbone, make_model, save_backbone

TASKS = ("SentimentAnalyze", "KUAKE-QIC", "CHIP-CTC")
CONFIG = AdapterConfig(TASKS, common=2, specific=1, expert_rank=2, embedding_size=4)
PROSE = Prose(
    "mine.jsonl",
    tuple(
        Passage(str(i), text, language)
        for i, (language, text) in enumerate(
            [
                ("zh", "天气很好。"),
                ("en", "The dog looked on, and the cat sat."),
                ("zh", "我们去公园，还是在家？请用一句话回答。"),
                ("en", "No."),
                ("en", "Is it about health, or about the weather of last week?"),
            ]
        )
    ),
)


def adapted(architecture: str = "qwen2") -> tuple[Backbone, Adapter]:
    backbone = make_backbone(architecture)
    return backbone, scatter(Adapter.attach(backbone, CONFIG), seed=0)


def by_hand(model: torch.nn.Module, backbone: Backbone, text: str) -> float:
    """The mean of -log p of all tokens but the first, in float64."""
    ids = torch.tensor([backbone.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits[0].double()
    return -np.mean(
        [float(logits[i].log_softmax(-1)[ids[0, i + 1]]) for i in range(ids.shape[1] - 1)]
    )


@pytest.mark.parametrize("architecture", ["qwen2", "gemma3", "glm"])
def test_nats_are_those_of_the_merged_weights(architecture: str, monkeypatch):
    """Bare and adapted, padded or not, in passes of several lengths, and on either decoder."""
    monkeypatch.setattr(forgetting, "PASS_TOKENS", 100)
    backbone, adapter = adapted(architecture)
    bare = make_model(architecture).double()
    measured = measure(backbone, dict.fromkeys(TASKS, adapter), PROSE, tasks_per_text=0)
    folded = [merged(make_model(architecture), adapter, task) for task in TASKS]
    for i, passage in enumerate(PROSE.passages):
        expected = by_hand(bare, backbone, passage.text)
        assert measured.bare[i] == pytest.approx(expected, rel=1e-5)
        expected = np.mean([by_hand(model, backbone, passage.text) for model in folded])
        assert measured.adapted[i] == pytest.approx(expected, rel=1e-5)
        assert measured.tokens[i] == len(backbone.tokenizer(passage.text)["input_ids"]) - 1


def test_the_facts_are_means_over_passages_with_a_paired_interval():
    backbone, adapter = adapted()
    measured = measure(backbone, dict.fromkeys(TASKS, adapter), PROSE)
    facts = json.loads(json.dumps(measured.facts()))
    differences = measured.adapted - measured.bare
    np.testing.assert_allclose(facts["differences"], differences, atol=1e-5)
    assert facts["overall"]["bare"] == pytest.approx(measured.bare.mean())
    assert facts["overall"]["difference"]["value"] == pytest.approx(differences.mean())
    chinese = facts["languages"]["zh"]
    assert chinese["difference"]["value"] == pytest.approx(differences[[0, 2]].mean())
    # A resample of two is one of them twice, with probability 1/4 each.
    assert chinese["difference"]["low"] == pytest.approx(min(differences[[0, 2]]))
    assert facts["texts"] == {
        "name": "mine.jsonl",
        "hash": PROSE.hash,
        "count": 5,
        "tokens": sum(measured.tokens),
    }
    assert facts["tasks"] == sorted(TASKS)
    assert facts["tasks_per_text"] == 3
    assert facts["hardware"]["dtype"] == "float32"


@pytest.mark.parametrize(("tasks", "per_text"), [(16, 4), (6, 4), (3, 4), (5, 0), (7, 1)])
def test_each_passage_is_read_with_as_many_tasks_and_each_task_reads_as_often(tasks, per_text):
    names = [f"task {i}" for i in range(tasks)]
    drawn = draw(48, names, per_text)
    count = min(per_text or tasks, tasks)
    assert all(len(one) == len(set(one)) == count for one in drawn)
    often = Counter(name for one in drawn for name in one).values()
    assert max(often) - min(often) <= 1
    assert drawn == draw(48, names, per_text)


def test_only_what_differs_is_read(monkeypatch):
    """The bare backbone once for all adapters, and tasks of the same effect once."""
    read = []
    original = forgetting._read

    def count(*arguments):
        read.append(len(arguments[2]))
        return original(*arguments)

    monkeypatch.setattr(forgetting, "_read", count)
    backbone = make_backbone()
    shared = scatter(Adapter.attach(backbone, AdapterConfig.lora(TASKS, rank=4), name="full"))
    gated = scatter(Adapter.attach(backbone, CONFIG, name="cgc"))
    first = measure(backbone, dict.fromkeys(TASKS, shared), PROSE)
    measure(backbone, dict.fromkeys(TASKS, gated), PROSE)
    assert read == [5 + 5, 3 * 5]
    assert not np.allclose(first.adapted, first.bare)
    nothing = measure(backbone, {}, PROSE)
    assert read[2:] == [0]
    np.testing.assert_array_equal(nothing.adapted, nothing.bare)
    assert nothing.facts()["tasks_per_text"] == 0


def test_what_cannot_be_read_is_an_error(monkeypatch):
    backbone, adapter = adapted()
    with pytest.raises(ConfigError, match="tasks_per_text is -1"):
        measure(backbone, {}, PROSE, tasks_per_text=-1)
    adapter.fold(TASKS[0])
    with pytest.raises(ConfigError, match="folded"):
        measure(backbone, {}, PROSE)
    adapter.unfold()
    monkeypatch.setattr(forgetting, "MAX_TOKENS", 4)
    assert max(measure(backbone, {}, PROSE).tokens) == 3
    monkeypatch.setattr(forgetting, "MAX_TOKENS", 1)  # as of a text that is one token
    with pytest.raises(DataError, match=r"passage 0 of mine\.jsonl has less than two tokens"):
        measure(backbone, {}, PROSE)
    monkeypatch.undo()

    def out_of_time(*_: int) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        measure(backbone, dict.fromkeys(TASKS, adapter), PROSE, progress=out_of_time)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A backbone, an adapter, and data of its tasks."""
    _, adapter = adapted()
    save_backbone(tmp_path / "model")
    adapter.save(tmp_path / "adapter")
    rows = [
        {"task": task, "input": f"句子{i}", "target": "病情诊断"}
        for task in TASKS
        for i in range(2)
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (tmp_path / "diary.txt").write_text("今天天气很好。\n\nThe cat sat on the mat.", "utf-8")
    return tmp_path


def evals(folders: Path, *words: str) -> int:
    return main([*words, "--backbone", str(folders / "model")])


def test_the_command_tells_and_writes_into_the_adapter(folders: Path, capsys):
    adapter, texts = str(folders / "adapter"), str(folders / "diary.txt")
    command = ("forgetting", adapter, "--texts", texts)
    assert evals(folders, *command, "--write", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert read_manifest(folders / "adapter")[0]["forgetting"] == facts
    assert facts["texts"]["count"] == len(facts["differences"]) == 2
    assert evals(folders, *command) == 0
    title, header, row, note = capsys.readouterr().out.splitlines()
    assert title.startswith("2 passages of diary.txt, ")
    assert header.split() == ["passages", "n", "bare", "adapted", "forgetting"]
    assert f"{facts['overall']['difference']['value']:+.3f}" in row
    assert note.startswith("Nats a token")
    assert evals(folders, "forgetting", adapter, adapter, "--write") == 2


def test_a_run_is_measured_as_it_is_made_or_later(folders: Path):
    data = ("--data", str(folders / "test.jsonl"))
    adapter, runs = str(folders / "adapter"), folders / "runs"
    made = ("run", *data, "--adapter", adapter, "--run")
    assert evals(folders, *made, str(runs / "first"), "--forgetting") == 0
    assert evals(folders, *made, str(runs / "later"), "--label", "later") == 0
    assert "forgetting" not in read_run(runs / "later").manifest
    assert evals(folders, "forgetting", adapter, "--run", str(runs / "later")) == 0
    assert evals(folders, "run", *data, "--run", str(runs / "bare"), "--forgetting") == 0
    measured = {
        name: read_run(runs / name).manifest["forgetting"] for name in ("first", "later", "bare")
    }
    assert measured["first"]["differences"] == measured["later"]["differences"]
    assert measured["first"]["texts"]["hash"] == read_prose().hash
    assert {*measured["bare"]["differences"]} == {0}
    assert main(["score", str(runs / "first"), *data]) == 0  # scoring again keeps it
    value = measured["first"]["overall"]["difference"]["value"]
    for board in boards(runs).boards:  # the tasks are of two clusters
        of = {entry.name: entry.forgetting for entry in board.entries}
        assert {*of} == {"Backbone", "CGC-LoRA", "CGC-LoRA · later"}
        assert of["Backbone"].high == 0
        assert of["CGC-LoRA"].value == pytest.approx(value, abs=1e-5)


def test_a_server_cannot_be_measured(folders: Path):
    server = ("--server", "http://127.0.0.1:9/v1", "--model", "*=x", "--method", "X")
    data = ("--data", str(folders / "test.jsonl"))
    assert main(["run", *data, "--run", str(folders / "run"), *server, "--forgetting"]) == 2
    assert not (folders / "run").exists()


def test_only_the_adapters_that_answered_a_run_are_measured_for_it(folders: Path):
    run = folders / "run"
    data = ("--data", str(folders / "test.jsonl"))
    assert (
        evals(folders, "predict", *data, "--adapter", str(folders / "adapter"), "--run", str(run))
        == 0
    )
    backbone = make_backbone()
    other = scatter(Adapter.attach(backbone, CONFIG, name="other"), seed=5)
    other.save(folders / "other")
    for adapters in ({}, dict.fromkeys(TASKS, other)):
        with pytest.raises(RunError, match="by other adapters"):
            measure_run(read_run(run), LocalEngine(backbone, adapters), PROSE)
    adapter = Adapter.load(folders / "adapter", backbone)
    engine = LocalEngine(backbone, dict.fromkeys(TASKS, adapter))
    assert measure_run(read_run(run), engine, PROSE).manifest["forgetting"]["texts"]["count"] == 5
