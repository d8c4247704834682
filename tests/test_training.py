"""Training: what it learns, what it leaves alone, and that an interrupted run ends as any other."""

import dataclasses
import json
import math
import multiprocessing
import operator
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

import cgclora.data
import cgclora.settings
import cgclora.training
from cgclora import provenance
from cgclora.adapter import Adapter
from cgclora.backbone import Backbone
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data import DataError, Record, data_hash, encode_prompts
from cgclora.run_folder import (
    TrainingError,
    TrainingStopped,
    hold,
    last_checkpoint,
    seconds_spent,
)
from cgclora.settings import TrainingSettings, trainer_arguments
from cgclora.storage import read_manifest
from cgclora.training import train
from tests.tiny import make_backbone, save_backbone

TASKS = ("mood", "weather", "last letter")
CONFIG = AdapterConfig(TASKS, common=2, specific=1, dropout=0.1)


def records(per_task: int, seed: int) -> list[Record]:
    """Prompts of random letters and lengths; the task, or the last letter, gives the answer."""
    generator = random.Random(seed)
    made = []
    for index in range(per_task * len(TASKS)):
        task = TASKS[index % len(TASKS)]
        prompt = "".join(generator.choices("abcdefgh", k=generator.randint(3, 60)))
        target = {"mood": "好", "weather": "Is it", "last letter": prompt[-1]}[task]
        made.append(Record(f"{seed}-{index}", task, prompt, target))
    return made


TRAIN, DEV = records(8, seed=1), records(3, seed=2)
# Learning TRAIN makes these likelier for a while, as any answer, and then less and less likely.
WRONG = [dataclasses.replace(record, target="坏") for record in DEV]
# 6 steps an epoch, 9 in all: checkpoints at 3 (within an epoch), 6 (at its end), 9 (within).
SETTINGS: dict[str, Any] = {
    "epochs": 1.5,
    "batch_size": 4,
    "learning_rate": 0.01,
    "evaluations": 3,
    "warmup": 0.1,
}


def run(
    folder: Path,
    backbone: Backbone | None = None,
    *,
    config: AdapterConfig = CONFIG,
    train_records: Sequence[Record] = TRAIN,
    dev_records: Sequence[Record] = DEV,
    stop: Callable[[], bool] | None = None,
    **changes: Any,
) -> tuple[Adapter, dict[str, Any]]:
    """Train on a tiny backbone in this process, without progress on the screen."""
    backbone = backbone or make_backbone()
    adapter = Adapter.attach(backbone, config)
    manifest = train(
        adapter,
        backbone.tokenizer,
        train_records,
        dev_records,
        TrainingSettings(**{**SETTINGS, **changes}),
        folder,
        progress=lambda facts: None,
        stop=stop,
    )
    return adapter, manifest


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The log without times."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def losses_of(folder: Path) -> list[float]:
    return [line["loss"] for line in log_of(folder) if "loss" in line]


def dev_losses_of(folder: Path) -> list[float]:
    return [line["dev_loss"] for line in log_of(folder) if "dev_loss" in line]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter.safetensors")


def same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


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


class Spy:
    """Notes what a method of the trainer was called with and what it returned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.results: list[Any] = []
        original = getattr(cgclora.training.AdapterTrainer, name)

        def spied(trainer: Any, *arguments: Any, **options: Any) -> Any:
            self.results.append(original(trainer, *arguments, **options))
            return self.results[-1]

        monkeypatch.setattr(cgclora.training.AdapterTrainer, name, spied)


@pytest.mark.parametrize(("wanted", "expected"), [(None, 0.01), (0.5, 0.5), (1e-4, 1e-4)])
def test_the_gate_has_a_learning_rate_of_its_own_and_no_weight_decay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: float | None, expected: float
) -> None:
    spy = Spy(monkeypatch, "create_optimizer")
    adapter, _ = run(
        tmp_path, epochs=0.5, evaluations=1, gate_learning_rate=wanted, weight_decay=0.1
    )
    experts, gate = spy.results[0].param_groups
    assert [group["initial_lr"] for group in (experts, gate)] == [0.01, expected]
    assert [group["weight_decay"] for group in (experts, gate)] == [0.1, 0.0]
    assert {id(p) for p in gate["params"]} == {id(p) for p in adapter.gate.parameters()}
    trained = {id(p) for group in (experts, gate) for p in group["params"]}
    assert trained == {id(p) for _, p in adapter.named_parameters()}


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
        return cgclora.data.encode(*arguments, **options)

    monkeypatch.setattr(cgclora.training, "encode", encode)
    run(tmp_path, epochs=0.5, evaluations=1)
    assert known == [1, 1]


def test_of_several_gpus_one_is_trained_on_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnTwoGPUs(TrainingArguments):
        @property
        def device(self) -> torch.device:
            self._n_gpu = 2
            return torch.device("cuda:0")

    monkeypatch.setattr(cgclora.settings, "TrainingArguments", OnTwoGPUs)
    settings = TrainingSettings(**SETTINGS)
    arguments = trainer_arguments(settings, len(TRAIN), tmp_path, torch.device("cuda:0"))
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == SETTINGS["batch_size"]
    with pytest.raises(TrainingError, match="CUDA_VISIBLE_DEVICES=1"):
        trainer_arguments(settings, len(TRAIN), tmp_path, torch.device("cuda:1"))


def test_a_task_without_records_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    some = [record for record in TRAIN if record.task != "mood"]
    for changes in ({"train_records": some}, {"dev_records": []}):
        with pytest.raises(DataError, match="mood"):
            run(tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "run.json").exists()


# Same steps, another way ------------------------------------------------------------------

PLAIN = AdapterConfig(
    TASKS, common=2, specific=1
)  # no dropout: that depends on the batches' shapes


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of three steps of eight records, without dropout."""
    folder = tmp_path_factory.mktemp("plain")
    run(folder, config=PLAIN, epochs=2, batch_size=8, evaluations=3)
    return folder


def close(ours: Path, theirs: Path) -> None:
    assert losses_of(ours) == pytest.approx(losses_of(theirs), rel=1e-4)
    assert dev_losses_of(ours) == pytest.approx(dev_losses_of(theirs), rel=1e-4)
    for ours_line, theirs_line in zip(log_of(ours), log_of(theirs), strict=True):
        for name in ("losses", "dev_losses"):
            assert ours_line.get(name, {}) == pytest.approx(theirs_line.get(name, {}), rel=1e-3)


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
    with pytest.raises(TrainingError, match=r"dev loss.*step 1"):
        run(tmp_path, learning_rate=1e30, warmup=0.0, epochs=0.01, evaluations=1)
    assert not (tmp_path / "adapter").exists()


def test_after_an_error_the_backbone_is_fit_for_answers(tmp_path: Path) -> None:
    backbone = make_backbone()
    with pytest.raises(TrainingError):
        run(tmp_path, backbone, learning_rate=1e30, warmup=0.0)
    assert not backbone.model.training


# Interrupted runs -------------------------------------------------------------------------

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["cgclora.training", "tests.tiny"])


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until(folder: Path, moment: str, changes: Mapping[str, Any]) -> None:
    """Train, and be killed at a moment; runs in a process of its own."""
    torch.set_num_threads(1)
    training: Any = cgclora.training
    where, _, number = moment.partition(" ")
    calls = 0

    def die_at_call(original: Any, before: Any = die) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == int(number or 1):
                before(*arguments, **options)
                die()
            return original(*arguments, **options)

        return call

    def write_half(_: Any, path: Any, **__: Any) -> None:
        Path(path).write_bytes(b"half a fi")

    if where == "step":
        owner = training.AdapterTrainer
        owner.training_step = die_at_call(owner.training_step)
    elif where == "log":
        owner = training.AdapterTrainer
        owner._write_log = die_at_call(
            owner._write_log,
            lambda trainer, _: trainer.log_file.open("a").write('{"step": 3, "lo'),
        )
    elif where == "weights":
        training.save_file = die_at_call(training.save_file, write_half)
    elif where == "optimizer":
        torch.save = die_at_call(torch.save, write_half)
    elif where == "complete":
        training.mark_complete = die_at_call(training.mark_complete)
    elif where == "removal":
        shutil.rmtree = die_at_call(
            shutil.rmtree, lambda path, **__: (Path(path) / "optimizer.pt").unlink()
        )
    elif where == "adapter":
        Adapter.save = die_at_call(Adapter.save)
    elif where == "pause":
        owner = training.AdapterTrainer
        owner.training_step = die_at_call(
            owner.training_step, lambda *_: os.kill(os.getpid(), signal.SIGSTOP)
        )
    run(folder, **changes)


def killed(folder: Path, moment: str, **changes: Any) -> bool:
    """Run in a process until a moment; returns whether it was killed."""
    process = PROCESSES.Process(target=run_until, args=(folder, moment, changes))
    process.start()
    process.join(timeout=120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def assert_same_run(folder: Path, whole: Path) -> None:
    """The same weights bit for bit, the same log, the same facts."""
    assert same(weights_of(folder), weights_of(whole))
    assert log_of(folder) == log_of(whole)
    ours, theirs = (read_manifest(path / "adapter")[0]["training"] for path in (folder, whole))
    for fact in ("steps", "best_step", "best_dev_loss"):
        assert ours[fact] == theirs[fact]


MOMENTS = [
    "step 2",  # before there is any checkpoint
    "step 5",
    "step 9",  # the last
    "log 5",  # in the middle of a line
    "weights 2",  # in the middle of a checkpoint's files
    "optimizer 4",
    "complete 1",  # all files written, but not called complete
    "complete 3",
    "removal 1",  # the oldest checkpoint half removed
    "adapter",  # trained, but the result not saved
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_a_moment_ends_as_if_it_had_not_been(
    tmp_path: Path, whole: Path, moment: str
) -> None:
    assert killed(tmp_path, moment)
    run(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_run_killed_again_and_again_at_random_ends_as_if_it_had_not_been(
    tmp_path: Path, whole: Path
) -> None:
    generator = random.Random()
    for _ in range(4):
        process = PROCESSES.Process(target=run_until, args=(tmp_path, "", {}))
        process.start()
        before = last_checkpoint(tmp_path / "checkpoints")
        while process.is_alive() and last_checkpoint(tmp_path / "checkpoints") == before:
            time.sleep(0.01)
        process.join(timeout=generator.random() / 3)
        process.kill()
        process.join()
    run(tmp_path)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_run_told_to_stop_goes_on_to_the_same_weights(
    tmp_path: Path, whole: Path, after: int
) -> None:
    asked = iter(range(1, 100))
    with pytest.raises(TrainingStopped, match=f"step {after} of 9"):
        run(tmp_path, stop=lambda: next(asked) >= after)
    before = seconds_spent(tmp_path)
    assert before > 0
    _, manifest = run(tmp_path, stop=lambda: False)
    assert manifest["training"]["resumed_at"] == after
    assert manifest["training"]["seconds"] > before
    assert same(weights_of(tmp_path), weights_of(whole))


@pytest.mark.parametrize("file", ["optimizer.pt", "adapter.safetensors", "rng_state.pth"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, whole: Path, file: str
) -> None:
    assert killed(tmp_path, "step 8")
    newest = last_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "checkpoint-6"
    content = (newest / file).read_bytes()
    (newest / file).write_bytes(content[: len(content) // 2])
    earlier = last_checkpoint(tmp_path / "checkpoints")
    assert earlier is not None
    assert earlier.name == "checkpoint-3"
    run(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_finished_run_given_again_changes_nothing(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "again")
    run(tmp_path / "again")
    assert_same_run(tmp_path / "again", whole)


def test_a_run_may_move_to_another_folder_between_two_starts(tmp_path: Path, whole: Path) -> None:
    assert killed(tmp_path / "here", "step 8")
    (tmp_path / "here").rename(tmp_path / "there")
    run(tmp_path / "there")
    assert_same_run(tmp_path / "there", whole)
    assert not (tmp_path / "here").exists()


def other_weights(checkpoints: Path) -> None:
    """Overwrite the weights in all checkpoints with valid ones of another seed."""
    fresh = Adapter.attach(make_backbone(), CONFIG, seed=7).state_dict()
    for checkpoint in checkpoints.iterdir():
        save_file(fresh, checkpoint / "adapter.safetensors")


def test_a_copy_of_a_finished_run_takes_nothing_from_where_it_was_copied(
    tmp_path: Path, whole: Path
) -> None:
    run(tmp_path / "original")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    other_weights(tmp_path / "original" / "checkpoints")
    run(tmp_path / "copy")
    assert_same_run(tmp_path / "copy", whole)


def test_a_finished_run_without_its_adapter_may_move(tmp_path: Path, whole: Path) -> None:
    run(tmp_path / "here")
    shutil.rmtree(tmp_path / "here" / "adapter")
    (tmp_path / "here").rename(tmp_path / "there")
    run(tmp_path / "there")
    assert_same_run(tmp_path / "there", whole)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("moment", ["step 13", "adapter"])
def test_without_its_best_checkpoint_a_run_says_how_to_go_on(tmp_path: Path, moment: str) -> None:
    changes = {"dev_records": WRONG, "epochs": 5, "evaluations": 10, "patience": 3}
    run(tmp_path / "whole", **changes)
    assert dev_losses_of(tmp_path / "whole").index(min(dev_losses_of(tmp_path / "whole"))) < 3
    folder = tmp_path / "run"
    assert killed(folder, moment, **changes)
    newest = last_checkpoint(folder / "checkpoints")
    [best] = [path for path in (folder / "checkpoints").iterdir() if path != newest]
    (best / "adapter.safetensors").write_bytes(b"half a fi")
    with pytest.raises(TrainingError, match=rf"{best.name}.*missing or damaged.*remove"):
        run(folder, **changes)
    shutil.rmtree(best)
    with pytest.raises(TrainingError, match=rf"{best.name}.*missing or damaged.*remove"):
        run(folder, **changes)
    shutil.rmtree(folder / "checkpoints")
    run(folder, **changes)
    assert_same_run(folder, tmp_path / "whole")


def test_older_checkpoints_stay_until_the_new_one_counts(tmp_path: Path) -> None:
    assert killed(tmp_path, "complete 3")
    names = {path.parent.name for path in tmp_path.glob("checkpoints/*/complete.json")}
    assert names == {"checkpoint-3", "checkpoint-6"}


def test_no_more_checkpoints_stay_than_the_best_and_the_newest(tmp_path: Path) -> None:
    _, manifest = run(tmp_path, dev_records=WRONG, epochs=5, evaluations=10)
    best = manifest["training"]["best_step"]
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {f"checkpoint-{best}", "checkpoint-30"}


def test_a_folder_in_which_a_run_is_under_way_is_refused(tmp_path: Path, whole: Path) -> None:
    process = PROCESSES.Process(target=run_until, args=(tmp_path, "pause 5", {}))
    process.start()
    log = tmp_path / "log.jsonl"
    try:
        while not (log.exists() and '"step": 4' in log.read_text(encoding="utf-8")):
            assert process.is_alive()
            time.sleep(0.01)
        before = log.read_bytes()
        with pytest.raises(TrainingError, match="another process"):
            run(tmp_path)
        assert log.read_bytes() == before
    finally:
        process.kill()
        process.join()
    run(tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_resumed_log_is_the_same_where_checkpoints_fall_between_its_lines(
    tmp_path: Path,
) -> None:
    # 42 steps: a line every 2 of them, a checkpoint every 7.
    changes = {"batch_size": 2, "epochs": 3.5, "evaluations": 6}
    run(tmp_path / "whole", **changes)
    steps = [line["step"] for line in log_of(tmp_path / "whole") if "loss" in line]
    assert steps == [step for step in range(1, 43) if step % 2 == 0 or step % 7 == 0]
    assert killed(tmp_path / "run", "step 9", **changes)
    run(tmp_path / "run", **changes)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_patience_is_counted_across_an_interruption(tmp_path: Path) -> None:
    changes = {"dev_records": WRONG, "epochs": 5, "evaluations": 10, "patience": 2}
    run(tmp_path / "whole", **changes)
    steps = log_of(tmp_path / "whole")[-1]["step"]
    assert steps < 30
    for moment in (f"step {steps - 1}", "adapter"):
        folder = tmp_path / moment
        assert killed(folder, moment, **changes)
        run(folder, **changes)
        assert_same_run(folder, tmp_path / "whole")


def test_the_checkpoints_are_read_without_running_code_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert killed(tmp_path, "step 5")
    original, seen = torch.load, []

    def load(file: Any, *arguments: Any, **options: Any) -> Any:
        seen.append((Path(file), options.get("weights_only")))
        return original(file, *arguments, **options)

    monkeypatch.setattr(torch, "load", load)
    run(tmp_path)
    assert {path.name for path, _ in seen} == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert all(only is True for _, only in seen)
    assert {path.parent for path, _ in seen} == {tmp_path / "checkpoints" / "checkpoint-3"}


@pytest.mark.parametrize(
    ("differing", "changes"),
    [
        ("settings", {"learning_rate": 0.02}),
        ("config", {"config": AdapterConfig(TASKS, common=3, specific=1, dropout=0.1)}),
        ("train_data", {"train_records": TRAIN[1:]}),
        ("dev_data", {"dev_records": DEV[::-1]}),
        ("backbone", {"backbone": 1}),
    ],
)
def test_the_folder_of_another_run_is_refused(
    tmp_path: Path, whole: Path, differing: str, changes: dict[str, Any]
) -> None:
    if "backbone" in changes:
        changes = {"backbone": make_backbone(seed=1)}
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(TrainingError, match=rf"differs in {differing}:.*another folder"):
        run(tmp_path / "run", **changes)
    assert_same_run(tmp_path / "run", whole)


# Two processes ----------------------------------------------------------------------------


def launch(folder: Path) -> subprocess.CompletedProcess[str]:
    """The run of `plain` by two processes of half the batch size, as a user would start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # With --cpu accelerate starts a single process; --multi_gpu stands for several, on CPUs too.
    words = f"""
        -m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1
        --mixed_precision no --dynamo_backend no --main_process_port {port}
        -m cgclora train --backbone {folder / "backbone"} --device cpu --dtype float32
        --data {folder / "train.jsonl"} --dev {folder / "dev.jsonl"} --run {folder / "run"}
        --common 2 --specific 1 --epochs 2 --batch-size 4 --learning-rate 0.01 --evaluations 3
        --warmup 0.1
    """.split()
    return subprocess.run(
        [sys.executable, *words, *(word for task in TASKS for word in ("--task", task))],
        cwd=Path(cgclora.training.__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with backbone, data, and a run by two processes."""
    folder = tmp_path_factory.mktemp("two")
    save_backbone(folder / "backbone")
    for name, split in (("train", TRAIN), ("dev", DEV)):
        lines = [{"task": r.task, "input": r.prompt, "target": r.target} for r in split]
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    done = launch(folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_two_processes_take_the_steps_of_one_with_twice_the_batch(
    two_processes: Path, plain: Path
) -> None:
    run_folder = two_processes / "run"
    assert len(losses_of(run_folder)) == len(losses_of(plain)) == 6
    close(run_folder, plain)
    ours, theirs = weights_of(run_folder), weights_of(plain)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-4)


def test_two_processes_resume_within_an_epoch(two_processes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    shutil.copytree(two_processes, folder)
    shutil.rmtree(folder / "run" / "adapter")
    shutil.rmtree(folder / "run" / "checkpoints" / "checkpoint-6")
    resumed_at = last_checkpoint(folder / "run" / "checkpoints")
    assert resumed_at is not None
    assert resumed_at.name == "checkpoint-4"  # the second of three steps of the second epoch
    done = launch(folder)
    assert done.returncode == 0, done.stderr[-4000:]
    assert_same_run(folder / "run", two_processes / "run")


def test_two_processes_end_where_another_trains(two_processes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    shutil.copytree(two_processes, folder)
    shutil.rmtree(folder / "run" / "adapter")
    with hold(folder / "run"):
        done = launch(folder)
    assert done.returncode != 0
    assert "another process trains in this folder" in done.stderr
    assert not (folder / "run" / "adapter").exists()
