"""Training: what it learns, and what it leaves alone."""

import json
import math
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

import cgclora.data.records
import cgclora.training.train
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.chat import encode_prompts
from cgclora.data.records import DataError, Record, data_hash
from cgclora.storage import provenance
from cgclora.storage.adapter_dir import read_manifest
from cgclora.storage.run_dir import TrainingError
from cgclora.training.settings import TrainingSettings
from tests.helpers.tiny import make_backbone
from tests.helpers.training_runs import (
    CONFIG,
    DEV,
    PLAIN,
    SETTINGS,
    TASKS,
    TRAIN,
    WRONG,
    close,
    dev_losses_of,
    log_of,
    losses_of,
    run,
    same,
    weights_of,
)

# What a run does --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Adapter, dict[str, Any]]:
    """A run of 60 steps."""
    folder = tmp_path_factory.mktemp("learned")
    adapter, manifest = run(folder, epochs=10, evaluations=5)
    return folder, adapter, manifest


def test_the_loss_goes_down(learned: tuple[Path, Adapter, dict[str, Any]]) -> None:
    folder, *_ = learned
    losses, dev = losses_of(folder), dev_losses_of(folder)
    assert min(losses[-5:]) < 0.5 * losses[0]
    assert len(dev) == 5
    assert min(dev) < 0.7 * dev[0]


def test_the_frozen_weights_are_the_same_bit_for_bit(
    learned: tuple[Path, Adapter, dict[str, Any]],
) -> None:
    _, adapter, _ = learned
    adapter.detach()
    ours, fresh = adapter.model.state_dict(), make_backbone().model.state_dict()
    assert same(ours, fresh)
    assert not any(parameter.requires_grad for parameter in adapter.model.parameters())
    assert not adapter.model.training


def dev_loss_by_hand(adapter: Adapter, tokenizer: Any, dev_records: Sequence[Record]) -> float:
    """Mean over tasks of the nats a target token, by transformers' own loss, row by row."""
    means = []
    for task in TASKS:
        total, count = 0.0, 0
        for record in (record for record in dev_records if record.task == task):
            prompt = [2, *tokenizer(record.prompt + "\n", add_special_tokens=False)["input_ids"]]
            target = [*tokenizer(record.target, add_special_tokens=False)["input_ids"], 1]
            labels = torch.tensor([[-100] * len(prompt) + target])
            with torch.no_grad(), adapter.route([task]):
                loss = adapter.model(input_ids=torch.tensor([prompt + target]), labels=labels).loss
            total, count = total + float(loss) * len(target), count + len(target)
        means.append(total / count)
    return sum(means) / len(means)


def test_what_is_saved_are_the_weights_with_the_lowest_dev_loss(tmp_path: Path) -> None:
    backbone = make_backbone()
    adapter, manifest = run(tmp_path, backbone, dev_records=WRONG, epochs=5, evaluations=10)
    dev = dev_losses_of(tmp_path)
    facts = manifest["training"]
    assert min(dev) < dev[-1], "the run does not test what it should"
    assert facts["best_dev_loss"] == min(dev)
    assert facts["best_step"] == 3 * (dev.index(min(dev)) + 1)
    assert same(adapter.state_dict(), weights_of(tmp_path))
    by_hand = dev_loss_by_hand(adapter, backbone.tokenizer, WRONG)
    assert by_hand == pytest.approx(min(dev), rel=1e-5)


def test_the_log_has_the_loss_of_each_task_and_the_gates(whole: Path) -> None:
    log = log_of(whole)
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 10))
    for line in steps:
        assert line["steps"] == 9
        assert set(line["losses"]) <= set(TASKS)
        assert all(math.isfinite(loss) for loss in line["losses"].values())
        gates = torch.tensor(line["gates"])
        assert gates.shape == (len(TASKS), CONFIG.num_experts)
        torch.testing.assert_close(gates.sum(-1), torch.ones(len(TASKS)), atol=1e-3, rtol=0)
    assert torch.equal(torch.tensor(steps[0]["gates"]) > 0, torch.tensor(CONFIG.access()))
    dev = [line for line in log if "dev_loss" in line]
    assert [line["step"] for line in dev] == [3, 6, 9]
    for line in dev:
        assert list(line["dev_losses"]) == list(TASKS)
        assert line["dev_loss"] == pytest.approx(sum(line["dev_losses"].values()) / len(TASKS))


def test_the_manifest_says_where_the_adapter_comes_from(whole: Path) -> None:
    manifest, config = read_manifest(whole / "adapter")
    facts = manifest["training"]
    assert config == CONFIG
    assert facts["config"] == json.loads(json.dumps(CONFIG.to_dict()))
    assert facts["settings"].items() >= SETTINGS.items()
    assert facts["train_data"] == data_hash(TRAIN)
    assert facts["dev_data"] == data_hash(DEV)
    assert facts["records"] == {"train": len(TRAIN), "dev": len(DEV)}
    assert facts["steps"] == 9
    assert facts["resumed_at"] is None


def test_a_longer_first_dev_record_does_not_move_the_dev_loss(tmp_path: Path) -> None:
    run(tmp_path / "a", epochs=0.5, evaluations=1)
    run(tmp_path / "b", epochs=0.5, evaluations=1, dev_records=DEV[::-1])
    assert dev_losses_of(tmp_path / "a") == pytest.approx(dev_losses_of(tmp_path / "b"), rel=1e-6)


def test_two_runs_of_the_same_seed_are_the_same_and_of_another_are_not(
    whole: Path, tmp_path: Path
) -> None:
    run(tmp_path / "again")
    run(tmp_path / "other", seed=1)
    assert log_of(tmp_path / "again") == log_of(whole)
    assert same(weights_of(tmp_path / "again"), weights_of(whole))
    assert not same(weights_of(tmp_path / "other"), weights_of(whole))


@pytest.mark.parametrize(
    ("epochs", "evaluations", "steps"), [(1, 1, 6), (1, 8, 6), (0.5, 8, 3), (2, 5, 12), (3, 4, 18)]
)
def test_a_run_has_the_epochs_that_were_asked_for(
    tmp_path: Path, epochs: float, evaluations: int, steps: int
) -> None:
    _, manifest = run(tmp_path, epochs=epochs, evaluations=evaluations, dev_records=DEV[:3])
    dev = [line["step"] for line in log_of(tmp_path) if "dev_loss" in line]
    assert abs(manifest["training"]["steps"] - steps) <= steps / evaluations / 2
    assert dev[-1] == manifest["training"]["steps"]
    assert len(dev) <= evaluations


# Settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "expected"), [(None, 0.01), (0.5, 0.5), (1e-4, 1e-4)])
def test_the_gate_has_a_learning_rate_of_its_own_and_no_weight_decay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: float | None, expected: float
) -> None:
    seen: list[list[tuple[float, float, int]]] = []
    take_step = torch.optim.AdamW.step

    def step(optimizer: torch.optim.AdamW) -> None:
        seen.append(
            [
                (group["lr"], group["weight_decay"], sum(p.numel() for p in group["params"]))
                for group in optimizer.param_groups
            ]
        )
        take_step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    adapter, _ = run(
        tmp_path, epochs=1, evaluations=1, gate_learning_rate=wanted, weight_decay=0.1, warmup=0.0
    )
    gate = sum(parameter.numel() for parameter in adapter.gate.parameters())
    assert seen[0] == [(0.01, 0.1, adapter.num_parameters() - gate), (expected, 0.0, gate)]


def test_the_rates_follow_the_schedule_of_transformers(tmp_path: Path) -> None:
    run(tmp_path)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, 1, 9)
    expected = []
    for _ in range(9):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    rates = [line["learning_rate"] for line in log_of(tmp_path) if "loss" in line]
    assert rates == pytest.approx(expected)


def test_a_gate_learning_rate_of_zero_leaves_the_gate_alone(tmp_path: Path) -> None:
    adapter, _ = run(tmp_path, gate_learning_rate=0.0)
    fresh = Adapter.attach(make_backbone(), CONFIG)
    assert same(adapter.gate.state_dict(), fresh.gate.state_dict())


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("weighting", ["token", "record"])
def test_the_loss_of_a_step_is_the_mean_over_tokens_or_over_records(
    tmp_path: Path, weighting: str, accumulation: int
) -> None:
    backbone = make_backbone()
    losses: list[float] = []  # of each record by itself, before anything is learned
    lengths: list[int] = []
    with torch.no_grad():
        for record in TRAIN:
            [prompt] = encode_prompts([record.prompt], backbone.tokenizer, CONFIG.separator)
            target = backbone.tokenizer(record.target, add_special_tokens=False)["input_ids"]
            target = [*target, backbone.tokenizer.eos_token_id]
            ids, labels = [*prompt, *target], [-100] * len(prompt) + target
            output = backbone.model(torch.tensor([ids]), labels=torch.tensor([labels]))
            losses.append(output.loss.item())
            lengths.append(len(target))
    run(
        tmp_path,
        backbone,
        weighting=weighting,
        epochs=1,
        evaluations=1,
        batch_size=len(TRAIN) // accumulation,
        accumulation=accumulation,
    )
    weights = lengths if weighting == "token" else [1] * len(TRAIN)
    expected = sum(map(operator.mul, losses, weights)) / sum(weights)
    assert losses_of(tmp_path) == [pytest.approx(expected, rel=1e-4)]


def test_an_adapter_without_a_gate_to_learn_trains(tmp_path: Path) -> None:
    run(tmp_path, config=AdapterConfig.lora(TASKS, 4), epochs=10)
    losses = losses_of(tmp_path)
    assert min(losses[-5:]) < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", math.nan),
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("accumulation", 0),
        ("learning_rate", -1.0),
        ("gate_learning_rate", math.inf),
        ("gate_learning_rate", -1.0),
        ("weight_decay", math.nan),
        ("weight_decay", -0.1),
        ("warmup", 1.0),
        ("epochs", "2"),
        ("learning_rate", "1e-3"),
        ("weight_decay", None),
        ("warmup", "0.1"),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", 0.5),
        ("temperature", 0),
        ("temperature", 0.9),
        ("temperature", math.inf),
        ("sampling", "often"),
        ("weighting", "word"),
        ("max_length", 1),
        ("evaluations", 0),
        ("patience", -1),
        ("records_per_task", -1),
        ("records_of", {"mood": -1}),
    ],
)
def test_a_bad_setting_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        TrainingSettings(**{field: value})


def test_numbers_of_records_are_kept_task_by_task(tmp_path: Path) -> None:
    _, manifest = run(
        tmp_path,
        records_per_task=4,
        records_of={"mood": 2, "weather": 0},
        dev_records_per_task=1,
        evaluations=1,
    )
    assert manifest["training"]["records"] == {"train": 4 + 2 + 8, "dev": 3}
    with pytest.raises(ConfigError, match="music"):
        run(tmp_path / "other", records_of={"music": 1})


def test_too_long_records_are_counted_on_the_screen_and_in_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [Record(f"long-{n}", "mood", "x" * 200, "好") for n in range(3)]
    _, manifest = run(tmp_path, train_records=TRAIN + long, max_length=100, evaluations=1)
    assert manifest["training"]["too_long"] == {"mood": 3}
    assert manifest["training"]["records"]["train"] == len(TRAIN)
    assert "{'mood': 3}" in capsys.readouterr().err


def test_records_beyond_the_positions_of_the_backbone_count_as_too_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [Record(f"long-{n}", "mood", "x" * 253, "好") for n in range(2)]
    _, manifest = run(tmp_path, train_records=TRAIN + long, max_length=1024, evaluations=1)
    assert manifest["training"]["too_long"] == {"mood": 2}  # the backbone has 256 positions
    assert "longer than 256 tokens" in capsys.readouterr().err


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    backbone = make_backbone()
    backbone.tokenizer.eos_token = None
    with pytest.raises(DataError, match="end token"):
        run(tmp_path, backbone)


def test_the_commit_is_asked_for_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provenance.commit.cache_clear()
    known: list[int] = []

    def encode(*arguments: Any, **options: Any) -> Any:
        known.append(provenance.commit.cache_info().currsize)
        return cgclora.data.records.encode(*arguments, **options)

    monkeypatch.setattr(cgclora.training.train, "encode", encode)
    run(tmp_path, epochs=0.5, evaluations=1)
    assert known == [1, 1]


def test_a_task_without_records_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    some = [record for record in TRAIN if record.task != "mood"]
    for changes in ({"train_records": some}, {"dev_records": []}):
        with pytest.raises(DataError, match="mood"):
            run(tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "run.json").exists()


# Same steps, another way ------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of three steps of eight records, without dropout."""
    folder = tmp_path_factory.mktemp("plain")
    run(folder, config=PLAIN, epochs=2, batch_size=8, evaluations=3)
    return folder


def test_gradient_checkpointing_changes_no_loss(plain: Path, tmp_path: Path) -> None:
    backbone = make_backbone()
    run(
        tmp_path / "new",
        backbone,
        config=PLAIN,
        epochs=2,
        batch_size=8,
        evaluations=3,
        gradient_checkpointing=True,
    )
    close(tmp_path / "new", plain)
    # The next run may not want it.
    assert not any(getattr(m, "gradient_checkpointing", False) for m in backbone.model.modules())


def test_two_half_batches_make_one_step(plain: Path, tmp_path: Path) -> None:
    run(tmp_path, config=PLAIN, epochs=2, batch_size=4, accumulation=2, evaluations=3)
    close(tmp_path, plain)


def test_patience_stops_a_run_that_gets_no_better(tmp_path: Path) -> None:
    _, manifest = run(tmp_path, dev_records=WRONG, epochs=5, evaluations=10, patience=2)
    dev = dev_losses_of(tmp_path)
    assert manifest["training"]["steps"] == 3 * len(dev) < 30
    assert min(dev) == min(dev[:-2]) == manifest["training"]["best_dev_loss"]


# Losses that are not finite ---------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step [23].*learning rate"):
        run(tmp_path, learning_rate=1e30, warmup=0.0)
    assert not (tmp_path / "adapter").exists()


def test_a_dev_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    # One step: the loss before it is fine, the weights after it are not.
    for _ in range(2):  # nor does a second call take it for done
        with pytest.raises(TrainingError, match=r"dev loss.*step 1"):
            run(tmp_path, learning_rate=1e30, warmup=0.0, epochs=0.01, evaluations=1)
        assert not (tmp_path / "adapter").exists()


def test_after_an_error_the_backbone_is_fit_for_answers(tmp_path: Path) -> None:
    backbone = make_backbone()
    with pytest.raises(TrainingError):
        run(tmp_path, backbone, learning_rate=1e30, warmup=0.0)
    assert not backbone.model.training
