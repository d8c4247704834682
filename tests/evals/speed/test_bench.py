"""The benchmark's report and bars, on a backbone so small that its figures mean nothing."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.models.backbone import Backbone, fingerprint
from cgclora.models.target_modules import linear_paths
from cgclora.training.loss import TargetLoss
from evals.speed import bench, bench_growth, bench_members
from evals.speed.bench_growth import WORK
from evals.speed.harness import Bar, Part
from evals.speed.workloads import TASKS, training_batch, training_step, twin
from tests.helpers.tiny import make_backbone

pytest.importorskip("peft")

SIZES = {"experts": (4, 256), "tasks": (1, 40), "clusters": (1, 3), "prompt tokens": (64, 128)}
GROWING = {what.split()[0].removesuffix("s") + "s": what for what in SIZES}
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
    "members": {"1 side by side", "4 side by side", "4 one after another"},
    "experts": {"4 experts", "64 experts"},
    "decoding": {"bare, 1 row", "folded, 1 row", "bare, 16 rows", "mixed tasks, 16 rows"},
    **{
        f"growth of {name}": {f"{work}, {size} {what}" for work in WORK for size in SIZES[what]}
        for name, what in GROWING.items()
    },
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
    ("cgclora, fused experts", "PEFT LoRA, same total rank"): 1.5,
    ("4 side by side", "4 one after another"): 1 / 1.05,
    ("4 side by side", "1 side by side", "memory"): 1 / 1.3,
    ("20 fused experts", "loop over 20 experts"): 5,
    ("cgclora, fused experts", "PEFT + Trainer, full logits"): 4,
    ("cgclora, fused experts", "PEFT + Trainer, full logits", "memory"): 2,
    ("64 experts", "4 experts"): 1 / 1.1,
    ("folded, 1 row", "bare, 1 row"): 0.98,
    ("mixed tasks, 16 rows", "bare, 16 rows"): 1 / 1.15,
    ("1 cluster, 16 tasks, 16 rows", "1 cluster, 1 task, 16 rows"): 1 / 1.3,
    ("8 clusters, 16 tasks, 16 rows", "1 cluster, 16 tasks, 16 rows"): 1 / 1.3,
    **{
        (f"{work}, {most} {what}", f"{work}, {few} {what}"): pytest.approx((few / most) ** 0.1)
        for what, (few, most) in SIZES.items()
        for work in WORK
        if what != "prompt tokens"
    },
}


@pytest.fixture(scope="module")
def measured() -> Iterator[tuple[Backbone, dict[str, Any], torch.Tensor]]:
    """A backbone after the benchmark, the report, and its logits from before."""
    backbone = make_backbone()
    with torch.no_grad():
        before = backbone.model(input_ids=torch.arange(3, 40).unsqueeze(0)).logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_growth, "SIZES", SIZES)
        patch.setattr(bench_members, "MEMBERS", (1, 4))
        yield backbone, bench.run(backbone, only=list(METHODS), repeats=1), before


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
    found = {}
    for bar in bars:
        key = (bar["of"], bar["against"])
        found[key if bar["what"] == "seconds" else (*key, bar["what"])] = bar["least"]
    assert found == BARS
    for part in report["parts"].values():
        for bar in part["bars"]:
            values = part["medians" if bar["what"] == "seconds" else "memory"]
            ratio = values[bar["against"]] / values[bar["of"]]
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


def test_exponents_are_slopes_of_logarithms(
    measured: tuple[Backbone, dict[str, Any], torch.Tensor],
) -> None:
    medians = {
        f"{work}, {size} tasks": 3 * size**power
        for work, power in zip(WORK, (1.0, 0.25), strict=True)
        for size in (1, 40)
    }
    expected = {"training step": 1.0, "16 tokens": 0.25}
    assert bench_growth.exponents(medians, "tasks") == pytest.approx(expected)
    _, report, _ = measured
    parts = report["parts"]
    assert {name for name in parts if "exponents" in parts[name]} == {
        f"growth of {name}" for name in GROWING
    }
    assert "time grows with the power" in bench.table(report)


def test_memory_is_the_most_that_a_method_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def made(_: Backbone) -> Iterator[Part]:
        yield Part(
            {
                "large": lambda: torch.ones(100 << 20, dtype=torch.uint8).sum(),
                "small": lambda: torch.ones(1 << 20, dtype=torch.uint8).sum(),
            },
            [Bar("small", 2, "large", "memory")],
        )

    monkeypatch.setattr(bench, "PARTS", {"made": made})
    report = bench.run(make_backbone(), repeats=1)
    memory = report["parts"]["made"]["memory"]
    assert memory["large"] - memory["small"] > 80 << 20
    assert report["parts"]["made"]["bars"][0]["ratio"] == memory["large"] / memory["small"]
    assert "of the memory of large (bar 2.00): " in bench.table(report)


def test_equal_steps_lead_to_equal_losses() -> None:
    """One expert is PEFT's LoRA: the same weights, batch and steps give the same loss."""
    from peft import LoraConfig, get_peft_model

    backbone = make_backbone()
    batch = training_batch(backbone, rows=3, tokens=40)
    config = AdapterConfig.lora(TASKS, rank=4)
    adapter = Adapter.attach(twin(backbone.model), config)
    names = LoraConfig(
        r=4, lora_alpha=4 * config.scale, target_modules=linear_paths(backbone.model)
    )
    tuned: Any = get_peft_model(twin(backbone.model), names)
    with torch.no_grad():
        for path, layer in adapter.layers.items():
            peer = tuned.get_base_model().get_submodule(path)
            peer.lora_A["default"].weight.copy_(layer.expert_A[adapter.name])
    ours, theirs = TargetLoss(adapter.model), TargetLoss(tuned.get_base_model())
    route = lambda: adapter.route(torch.zeros(3, dtype=torch.long))  # noqa: E731
    for step in (training_step(ours, batch, route), training_step(theirs, batch)):
        for _ in range(20):
            step()
    with torch.no_grad(), route():
        loss = ours(**batch).mean()
    with torch.no_grad():
        start = TargetLoss(make_backbone().model)(**batch).mean()
        assert theirs(**batch).mean() == pytest.approx(float(loss), rel=1e-4)
    assert loss < start - 0.01


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
        ConfigError, match=r"\['speed'\].*decoding, clusters, training, .*growth of tasks, .*start"
    ):
        bench.run(make_backbone(), only=["speed"])
    with pytest.raises(ConfigError, match="repeats"):
        bench.run(make_backbone(), repeats=0)
