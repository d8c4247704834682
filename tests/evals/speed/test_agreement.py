"""How often faster ways to decode agree with fp32, on a tiny model."""

import json

import pytest

import evals.__main__
from cgclora.adapter import Adapter
from cgclora.inference.fast_decoder import FastDecoder
from cgclora.models.backbone import load_backbone
from evals.speed.agreement import WAYS
from tests.helpers.reference import METHODS, scatter
from tests.helpers.tiny import save_backbone


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory):
    """Folders of a backbone and of an adapter, and a file of records."""
    folder = tmp_path_factory.mktemp("agreement")
    save_backbone(folder / "backbone", "qwen2")
    backbone = load_backbone(folder / "backbone", device="cpu", dtype="float32")
    scatter(Adapter.attach(backbone, METHODS["CGC-LoRA"])).save(folder / "adapter")
    lines = [
        json.dumps(
            {"task": task, "input": f"今天{task}天气{place}", "target": "很好，我们去公园散步。"}
        )
        for task in (*METHODS["CGC-LoRA"].tasks[:2], "of another cluster")
        for place in range(4)
    ]
    (folder / "dev.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def agreement(folder):
    words = ["agreement", "--adapter", str(folder / "adapter"), "--data", str(folder / "dev.jsonl")]
    words += ["--backbone", str(folder / "backbone"), "--out", str(folder / "out.json")]
    assert evals.__main__.main(words) == 0
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


def test_each_way_is_counted_on_the_same_tokens(saved):
    found = agreement(saved)
    assert found["tokens"] > 100
    for way in WAYS:
        assert 0.8 < found[way]["agreement"] <= 1
        assert found[way]["low"] <= found[way]["agreement"] <= found[way]["high"]


def test_a_way_that_is_wrong_is_found_out(saved, monkeypatch):
    original = FastDecoder.__call__
    monkeypatch.setattr(FastDecoder, "__call__", lambda self, *words: -original(self, *words))
    found = agreement(saved)
    assert found["lean, bf16"]["agreement"] < 0.2 < found["transformers, bf16"]["agreement"]
