"""Training runs on a tiny backbone, and what to ask of their folders."""

import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.data.records import Record
from cgclora.models.backbone import Backbone
from cgclora.storage.adapter_dir import read_manifest
from cgclora.training.settings import Judge, TrainingSettings
from cgclora.training.train import train
from tests.helpers.tiny import make_backbone

TASKS = ("mood", "weather", "last letter")
CONFIG = AdapterConfig(TASKS, common=2, specific=1, dropout=0.1)

PLAIN = AdapterConfig(TASKS, common=2, specific=1)
"""Without dropout, which depends on the batches' shapes."""


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
    judge: Judge | None = None,
    report_to: Sequence[str] = (),
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
        judge=judge,
        report_to=report_to,
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


def assert_same_run(folder: Path, whole: Path) -> None:
    """The same weights bit for bit, the same log, the same facts."""
    assert same(weights_of(folder), weights_of(whole))
    assert log_of(folder) == log_of(whole)
    ours, theirs = (read_manifest(path / "adapter")[0]["training"] for path in (folder, whole))
    for fact in ("steps", "best_step", "best_dev_loss"):
        assert ours[fact] == theirs[fact]


def close(ours: Path, theirs: Path) -> None:
    assert losses_of(ours) == pytest.approx(losses_of(theirs), rel=1e-4)
    assert dev_losses_of(ours) == pytest.approx(dev_losses_of(theirs), rel=1e-4)
    for ours_line, theirs_line in zip(log_of(ours), log_of(theirs), strict=True):
        for name in ("losses", "dev_losses"):
            assert ours_line.get(name, {}) == pytest.approx(theirs_line.get(name, {}), rel=1e-3)
