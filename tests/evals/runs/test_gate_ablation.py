"""Scores of an adapter with changed gates: which gates are tried, and what the table says."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cgclora.adapter import Adapter
from cgclora.analysis.gates import LEARNED, VARIANTS
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import DataError, Record
from cgclora.inference.engine import Engine
from cgclora.inference.request import Answer
from cgclora.storage.adapter_dir import read_manifest
from evals.__main__ import main
from evals.data.datasets import Dataset
from evals.runs.gate_ablation import ablate, variants
from tests.helpers.reference import scatter
from tests.helpers.tiny import make_backbone, save_backbone

TASKS = ("SentimentAnalyze", "KUAKE-QIC")
CONFIG = AdapterConfig(TASKS, common=2, specific=1, expert_rank=2, embedding_size=4)
RECORDS = [
    Record(
        f"{task}-{i}", task, f"句子{i}", ("积极", "消极")[i % 2] if task == TASKS[0] else "病情诊断"
    )
    for task in TASKS
    for i in range(6)
]


def test_the_variants_weigh_what_they_say():
    learned = torch.tensor([[0.5, 0.1, 0.4, 0.0], [0.2, 0.2, 0.6, 0.0]])
    found = variants(CONFIG, TASKS[0], learned)
    third = torch.tensor([1, 1, 1, 0]) / 3
    torch.testing.assert_close(found["uniform"], third.expand(2, 4))
    torch.testing.assert_close(
        found["no specific experts"], torch.tensor([[0.5, 0.1, 0, 0], [0.2, 0.2, 0, 0]])
    )
    torch.testing.assert_close(
        found["no common experts"], torch.tensor([[0, 0, 0.4, 0], [0, 0, 0.6, 0]])
    )


def test_a_variant_that_changes_nothing_or_leaves_nothing_is_left_out():
    shared = AdapterConfig(TASKS, common=2, specific=0, expert_rank=2, embedding_size=4)
    assert list(variants(shared, TASKS[0], torch.tensor([[0.7, 0.3]]))) == ["uniform"]
    assert not variants(shared, TASKS[0], torch.tensor([[0.5, 0.5]]))
    alone = AdapterConfig(TASKS, common=0, specific=1, expert_rank=2, embedding_size=4)
    assert not variants(alone, TASKS[1], torch.tensor([[0.0, 1.0]]))


def test_each_record_is_answered_with_each_gate_and_compared_in_pairs(monkeypatch):
    """Answers without the specific experts are wrong in half of the records, others right."""
    backbone = make_backbone()
    adapter = scatter(Adapter.attach(backbone, CONFIG), seed=0)
    targets = {record.prompt + record.task: record.target for record in RECORDS}
    seen = []

    def answers(_: Engine, requests: list) -> Iterator[tuple[int, Answer]]:
        for i, request in reversed([*enumerate(requests)]):
            seen.append(request.gates)
            target = targets[request.prompt + request.task]
            is_without = request.gates is not None and not request.gates[:, 2:].any()
            wrong = is_without and int(request.prompt[-1]) % 2
            yield i, Answer("差" if wrong else target, "end", 1, 1, 0.0)

    monkeypatch.setattr(Engine, "answers", answers)
    report = ablate(backbone, adapter, Dataset("made here", "dev", tuple(RECORDS)))
    assert len(seen) == len(RECORDS) * len(VARIANTS)
    assert report["records"] == 12
    assert report["tasks"][TASKS[0]] == {"metric": "accuracy", "records": 6}
    of = report["variants"]
    assert of[LEARNED]["overall"]["value"] == of["uniform"]["overall"]["value"] == 1
    without = of["no specific experts"]
    assert without[TASKS[0]]["value"] == 0.5
    assert without[TASKS[1]]["value"] == pytest.approx(1 / 3)  # macro F1: one class .67, one 0
    assert without["overall"]["value"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert without[TASKS[0]]["difference"]["value"] == -0.5
    gain = without[TASKS[0]]["difference"]
    assert gain["low"] < -0.5 < gain["high"] < 0
    assert of["uniform"]["overall"]["difference"]["value"] == 0
    assert of["uniform"]["overall"]["difference"]["p_value"] == 1


def test_the_command_gives_scores_of_the_real_answers(tmp_path: Path, capsys):
    backbone = make_backbone()
    save_backbone(tmp_path / "model")
    adapter = scatter(Adapter.attach(backbone, CONFIG), seed=0)
    adapter.save(tmp_path / "adapter")
    data = tmp_path / "dev.jsonl"
    rows = [{"task": r.task, "input": r.prompt, "target": r.target} for r in RECORDS]
    data.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    command = ["gates", "--adapter", str(tmp_path / "adapter"), "--data", str(data), "--most", "2"]
    assert main([*command, "--backbone", str(tmp_path / "model"), "--write"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["records"] == 4
    assert set(report["variants"]) == set(VARIANTS)
    manifest, _ = read_manifest(tmp_path / "adapter")
    assert manifest["gate effects"] == report
    expected = np.mean([report["variants"][LEARNED][task]["value"] for task in TASKS])
    assert report["variants"][LEARNED]["overall"]["value"] == pytest.approx(expected)


def test_without_a_learned_gate_or_records_there_is_nothing_to_compare():
    backbone = make_backbone()
    plain = Adapter.attach(backbone, AdapterConfig.lora(TASKS, 4), name="plain")
    with pytest.raises(ConfigError, match="no learned weights"):
        ablate(backbone, plain, Dataset("made here", "dev", tuple(RECORDS)))
    adapter = Adapter.attach(backbone, CONFIG)
    with pytest.raises(DataError, match="dev data"):
        ablate(backbone, adapter, Dataset("made here", "dev", (Record("1", "NER", "a", "b"),)))
