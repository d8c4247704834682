"""The benchmark's part on training N adapters in shared passes or one after another."""

from __future__ import annotations

import contextlib
import functools
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from torch import nn

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.data.records import Encoded
from cgclora.data.sampling import Collator
from cgclora.models.backbone import Backbone
from cgclora.training.distributed import Processes
from cgclora.training.runs.member import Member
from cgclora.training.settings import TrainingRun, TrainingSettings
from cgclora.training.side_by_side import SideBySide
from evals.speed.harness import Bar, Part
from evals.speed.workloads import TARGETS, TASKS, twin

MEMBERS = (1, 2, 4, 8, 24)

SIZES = {"cuda": (16, 160)}
"""Records of a member in a step and tokens of each, by the device's type; otherwise 4 and 128."""


@contextlib.contextmanager
def members(backbone: Backbone) -> Iterator[Part]:
    """A step of N members together, and N steps of one member each."""
    methods: dict[str, Callable[[], None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in MEMBERS:
            steps = _Steps(backbone, count, Path(folder))
            methods[f"{count} side by side"] = steps.together
            if count > 1:
                methods[f"{count} one after another"] = steps.one_by_one
        if backbone.model.device.type == "cuda":
            time = Bar("24 side by side", 8, "24 one after another")
        else:
            time = Bar("4 side by side", 1 / 1.05, "4 one after another")
        yield Part(methods, [time, Bar("4 side by side", 1 / 1.3, "1 side by side", "memory")])


class _Steps:
    """Training steps of some members on a backbone, created at the first step."""

    def __init__(self, backbone: Backbone, count: int, folder: Path) -> None:
        self.backbone = backbone
        self.count = count
        self.folder = folder

    def together(self) -> None:
        self._training.take_round(self._training.members)

    def one_by_one(self) -> None:
        for member in self._training.members:
            self._training.take_round([member])

    @functools.cached_property
    def _training(self) -> SideBySide:
        model = twin(self.backbone.model)
        config = AdapterConfig(TASKS, common=4, specific=1, expert_rank=2)
        rows, tokens = SIZES.get(model.device.type, (4, 128))
        processes = Processes(model.device)
        generator = random.Random(0)  # noqa: S311 - a reproducible draw, not a secret
        vocabulary = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
        data = [
            Encoded(
                [generator.randrange(3, vocabulary) for _ in range(tokens)],
                tokens - TARGETS,
                place % len(TASKS),
            )
            for place in range(64)
        ]
        settings = TrainingSettings(epochs=1000, batch_size=rows, evaluations=1)
        collator = Collator(self.backbone.pad_id)
        members = []
        for place in range(self.count):
            adapter = Adapter.attach(model, config, name=f"member{place}", seed=place)
            run = TrainingRun(adapter, [], [], settings, self.folder)
            member = Member(run, {"train": data, "dev": data[:1]}, collator, processes)
            member.restore(None)
            members.append(member)
        return SideBySide(
            members,
            model,
            processes,
            name="",
            reached=0,
            tokens=None,
            finish=lambda _: None,
            report=lambda *_: None,
        )
