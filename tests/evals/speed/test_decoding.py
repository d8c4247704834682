"""Timing answers side by side: the ratios, and that the ways answer what they are asked."""

from pathlib import Path

import pytest

from evals.data import datasets
from evals.speed.decoding import (
    BEST,
    LLAMA_CPP,
    PLAIN,
    Timing,
    _against_llama_cpp,
    _ratio,
    _summary,
    measure,
)

ROOT = Path(__file__).parents[3]


def test_ratios_are_of_the_same_prompts_and_a_token():
    slow = [Timing(1.0, 4.0, 5, "a"), Timing(2.0, 0.0, 1, "b"), Timing(1.0, 9.0, 10, "c")]
    fast = [Timing(0.5, 1.0, 3, "a"), Timing(1.0, 0.0, 1, "x"), Timing(0.5, 4.5, 10, "c")]
    found = _ratio(fast, slow)
    assert found["first token"] == 2.0
    assert found["tokens per second"] == 2.0  # the answer of one token has no rest
    assert found["answer"] == 2.0
    summary = _summary(fast, slow)
    assert summary["same"] == 2
    assert summary["tokens"] == 14
    assert summary["tokens per second"] == pytest.approx(11 / 5.5)


def test_bars_are_judged_on_the_tasks_that_they_are_about():
    ours = [Timing(0.1, 0.4, 5, "a"), Timing(0.1, 1.9, 5, "b")]
    theirs = [Timing(0.2, 0.8, 5, "a"), Timing(0.2, 1.4, 5, "b")]
    found = _against_llama_cpp({BEST: ours, LLAMA_CPP: theirs}, ["extraction", "generation"])
    assert found["kinds"]["extraction"]["answer"] == 2.0
    assert found["bars"]["answers, free text"] == {"ratio": 0.8, "least": 1.0, "reached": False}
    assert found["bars"]["first token"]["reached"]
    assert _against_llama_cpp({BEST: ours}, ["extraction", "generation"]) == {}


@pytest.mark.backbone
def test_all_ways_answer_the_prompts():
    records = datasets.read(str(ROOT / "assets" / "samples"), split="test").records
    chosen = [record for record in records if record.task in ("KUAKE-QIC", "CHIP-STS")]
    found = measure([ROOT / "assets" / "adapters" / "medical"], chosen)
    assert found["prompts"] == 2
    ways = found["ways"]
    assert {"transformers", PLAIN, BEST} <= ways.keys()
    assert all(one["tokens"] >= 4 and one["first token"] > 0 for one in ways.values())
    assert found["ratios"]["lean, int8 / transformers"]["answer"] > 0
