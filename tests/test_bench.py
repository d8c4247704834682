"""The benchmark's report and bars, on a backbone so small that its figures mean nothing."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from cgclora import bench
from cgclora.backbone import Backbone, fingerprint
from cgclora.bench import Bar, Part
from cgclora.config import ConfigError
from tests.tiny import make_backbone

pytest.importorskip("peft")

METHODS = {
    "training": {
        "cgclora, fused experts",
        "PEFT LoRA, same total rank",
        "PEFT + Trainer, full logits",
    },
    "loop": {
        "20 fused experts",
        "loop over 20 experts",
        "20 fused experts, no dropout",
        "loop over 20 experts, no dropout",
    },
    "experts": {"4 experts", "64 experts"},
    "decoding": {"bare, 1 row", "folded, 1 row", "bare, 16 rows", "mixed tasks, 16 rows"},
    "clusters": {
        "1 cluster, 1 task, 16 rows",
        "1 cluster, 4 tasks, 16 rows",
        "1 cluster, 16 tasks, 16 rows",
        "2 clusters, 16 tasks, 16 rows",
        "4 clusters, 16 tasks, 16 rows",
        "8 clusters, 16 tasks, 16 rows",
    },
}
BARS = {
    ("cgclora, fused experts", "PEFT LoRA, same total rank"): 1 / 1.05,
    ("20 fused experts", "loop over 20 experts"): 5,
    ("cgclora, fused experts", "PEFT + Trainer, full logits"): 3,
    ("64 experts", "4 experts"): 1 / 1.1,
    ("folded, 1 row", "bare, 1 row"): 0.98,
    ("mixed tasks, 16 rows", "bare, 16 rows"): 1 / 1.15,
    ("1 cluster, 16 tasks, 16 rows", "1 cluster, 1 task, 16 rows"): 1 / 1.3,
    ("8 clusters, 16 tasks, 16 rows", "1 cluster, 16 tasks, 16 rows"): 1 / 1.3,
}


@pytest.fixture(scope="module")
def measured() -> tuple[Backbone, dict[str, Any], torch.Tensor]:
    """A backbone after the benchmark, the report, and its logits from before."""
    backbone = make_backbone()
    with torch.no_grad():
        before = backbone.model(input_ids=torch.arange(3, 40).unsqueeze(0)).logits
    report = bench.run(backbone, only=list(METHODS), repeats=1)
    return backbone, report, before


def test_every_method_is_timed(measured: tuple[Backbone, dict[str, Any], torch.Tensor]) -> None:
    _, report, _ = measured
    assert report["backbone"] == "tiny-qwen2"
    assert report["repeats"] == 1
    assert {"versions", "hardware", "code", "created"} <= report.keys()
    assert report["hardware"]["dtype"] == "float32"
    for name, methods in METHODS.items():
        part = report["parts"][name]
        assert part["seconds"].keys() == part["medians"].keys() == methods
        assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in part["seconds"].values())


def test_the_bars_are_those_that_were_promised(
    measured: tuple[Backbone, dict[str, Any], torch.Tensor],
) -> None:
    _, report, _ = measured
    bars = [bar for part in report["parts"].values() for bar in part["bars"]]
    assert {(bar["of"], bar["against"]): bar["least"] for bar in bars} == BARS
    for part in report["parts"].values():
        for bar in part["bars"]:
            ratio = part["medians"][bar["against"]] / part["medians"][bar["of"]]
            assert bar["ratio"] == pytest.approx(ratio)
            assert bar["reached"] == (ratio >= bar["least"])


def test_the_table_names_every_method_and_verdict(
    measured: tuple[Backbone, dict[str, Any], torch.Tensor],
) -> None:
    _, report, _ = measured
    table = bench.table(report)
    for methods in METHODS.values():
        assert all(method in table for method in methods)
    bars = [bar for part in report["parts"].values() for bar in part["bars"]]
    assert table.count("MISSED") == sum(not bar["reached"] for bar in bars)
    assert table.count("reached") == sum(bar["reached"] for bar in bars)


def test_the_backbone_is_left_as_it_was(
    measured: tuple[Backbone, dict[str, Any], torch.Tensor],
) -> None:
    backbone, _, before = measured
    fresh = make_backbone()
    assert [type(m) for m in backbone.model.modules()] == [type(m) for m in fresh.model.modules()]
    assert fingerprint(backbone.model) == fresh.fingerprint
    ours, theirs = backbone.model.state_dict(), fresh.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    with torch.no_grad():
        after = backbone.model(input_ids=torch.arange(3, 40).unsqueeze(0)).logits
    assert torch.equal(after, before)


def test_all_ways_to_train_start_from_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared for speed computes the same thing: adapters change nothing at first."""
    losses: list[float] = []
    original = bench.TargetLoss.forward

    def forward(module: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        values = original(module, *arguments, **options)
        losses.append(float(values.detach().mean()))
        return values

    monkeypatch.setattr(bench.TargetLoss, "forward", forward)
    trained: list[float] = []
    step = bench.Trainer.training_step

    def training_step(trainer: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        loss = step(trainer, *arguments, **options)
        trained.append(float(loss))
        return loss

    monkeypatch.setattr(bench.Trainer, "training_step", training_step)
    backbone = make_backbone()
    with bench.PARTS["training"](backbone) as part:
        for method in part.methods.values():
            method()
    ours, peft = losses
    assert peft == pytest.approx(ours, rel=1e-5)
    assert trained == [pytest.approx(ours, rel=1e-5)]


def test_medians_and_bars_are_taken_over_the_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    durations = {"slow": iter([9.0, 4.0, 6.0, 5.0]), "fast": iter([9.0, 1.0, 2.0, 3.0])}

    def method(name: str) -> None:
        nonlocal now
        now += next(durations[name])

    @contextmanager
    def made(_: Backbone) -> Iterator[Part]:
        yield Part(
            {"slow": lambda: method("slow"), "fast": lambda: method("fast")},
            [Bar("fast", 3, "slow"), Bar("fast", 3.1, "slow"), Bar("slow", 2, 10.0)],
        )

    monkeypatch.setattr(bench, "PARTS", {"made": made})
    part = bench.run(make_backbone(), repeats=3)["parts"]["made"]
    assert part["seconds"] == {"slow": [4, 6, 5], "fast": [1, 2, 3]}  # the first is the warm-up
    assert part["medians"] == {"slow": statistics.median([4, 6, 5]), "fast": 2}
    assert [bar["ratio"] for bar in part["bars"]] == [3, 3, 2]
    assert [bar["reached"] for bar in part["bars"]] == [True, False, True]


def test_an_unknown_part_and_no_repeats_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"\['speed'\].*decoding, clusters, training, loop, experts, start"
    ):
        bench.run(make_backbone(), only=["speed"])
    with pytest.raises(ConfigError, match="repeats"):
        bench.run(make_backbone(), repeats=0)
