"""Many requests side by side with PEFT's mixed batch, on a tiny model: the answers and the bars."""

import json

import pytest

import evals.__main__
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.models.backbone import load_backbone
from evals.data.datasets import read
from evals.speed import throughput
from evals.speed.throughput import EVALUATION, OURS, PEERS, measure
from tests.helpers.reference import scatter
from tests.helpers.tiny import save_backbone

pytest.importorskip("peft")

TASKS = ("KUAKE-QIC", "CHIP-STS", "MedDG")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory):
    """Folders of a backbone and an adapter, and a file of records."""
    folder = tmp_path_factory.mktemp("throughput")
    save_backbone(folder / "backbone", "qwen2")
    backbone = load_backbone(folder / "backbone", device="cpu", dtype="float32")
    scatter(Adapter.attach(backbone, AdapterConfig(TASKS))).save(folder / "adapter")
    lines = [
        json.dumps(
            {"task": task, "input": f"天气{place}", "target": "很好", "id": f"{task} {place}"}
        )
        for task in (*TASKS, "CMeIE")
        for place in range(3)
    ]
    (folder / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_all_ways_answer_the_same_requests(saved, monkeypatch):
    """In fp32, where no rounding parts them, they say the same."""
    monkeypatch.setattr(throughput, "load_backbone", in_fp32)
    said = {}

    def keep(owner, attribute, name):
        original = getattr(owner, attribute)

        def answer(*words):
            said[name] = original(*words)
            return said[name]

        monkeypatch.setattr(owner, attribute, answer)

    keep(throughput._Peers, "answer", PEERS)
    keep(throughput, "_evaluation", EVALUATION)
    keep(throughput, "_ours", OURS)
    records = read(saved / "test.jsonl", split="test")
    folders = [saved / "adapter"]
    found = measure(folders, records, source=saved / "backbone", per_task=2, widths=[4])
    assert found["requests"] == 6  # none of a task that no adapter knows
    assert said[OURS] == said[EVALUATION] == said[PEERS]
    assert found["widths"]["4"][OURS]["tokens"] == sum(tokens for _, tokens in said[PEERS])


def in_fp32(source, **_):
    return load_backbone(source, device="cpu", dtype="float32")


def test_bars_are_ratios_of_tokens_a_second(saved):
    words = ["throughput", "--adapter", str(saved / "adapter"), "--data", str(saved / "test.jsonl")]
    words += ["--backbone", str(saved / "backbone"), "--out", str(saved / "out.json")]
    assert evals.__main__.main([*words, "--per-task", "1", "--width", "2"]) == 0
    found = json.loads((saved / "out.json").read_text(encoding="utf-8"))
    ways = found["widths"]["2"]
    assert ways.keys() == {PEERS, OURS, EVALUATION}
    for bar in found["bars"]:
        rates = [ways[bar[side]]["tokens per second"] for side in ("of", "against")]
        assert bar["ratio"] == pytest.approx(rates[0] / rates[1], abs=1e-3)
        assert bar["reached"] == (bar["ratio"] >= bar["least"])


def test_any_number_of_adapters_answers_in_one_batch(saved):
    words = ["throughput", "--adapter", str(saved / "adapter"), "--data", str(saved / "test.jsonl")]
    words += ["--backbone", str(saved / "backbone"), "--out", str(saved / "mixed.json")]
    assert evals.__main__.main([*words, "--mixed", "5", "--per-task", "2", "--width", "8"]) == 0
    found = json.loads((saved / "mixed.json").read_text(encoding="utf-8"))
    assert found["requests"] == 5 * len(TASKS) * 2
    one = found["widths"]["8"]
    assert one["tokens per second"] == pytest.approx(one["tokens"] / one["seconds"], rel=0.05)
    assert one["prompt tokens"] > 0
    assert not found["bars"]  # they are for one kind of device
