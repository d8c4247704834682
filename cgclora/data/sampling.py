"""Which records make a batch, and how they become tensors."""

from __future__ import annotations

import math
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cgclora.data.records import Encoded

if TYPE_CHECKING:
    from torch import Tensor

LENGTHS = tuple(step << octave for octave in range(3, 11) for step in (4, 5, 6, 7))
"""Padded lengths, 32 to 7168, four an octave: few, since bf16 on CPU compiles each new shape."""

Sampling = Literal["proportional", "uniform", "temperature"]
Weighting = Literal["token", "record"]


class TaskSampler:
    """The order of the records in each epoch: within a batch tasks are mixed and lengths alike.

    Tasks are drawn in the shares of `sampling` and `temperature` (see `TrainingSettings`), each
    going through its own records in a shuffled order again and again. Blocks of 32 batches, of the
    records in a step of all processes, are then sorted by length and their batches shuffled. The
    order is a function of seed and epoch alone, so that a resumed run has the same batches.
    """

    def __init__(
        self,
        data: Sequence[Encoded],
        batch_size: int,
        sampling: Sampling = "proportional",
        temperature: float = 2.0,
        seed: int = 0,
    ) -> None:
        self.lengths = [len(item.ids) for item in data]
        self.batch_size = batch_size
        self.seed = seed
        groups = defaultdict(list)
        for index, item in enumerate(data):
            groups[item.task].append(index)
        self.groups = [groups[task] for task in sorted(groups)]
        power = {"proportional": 1.0, "uniform": 0.0, "temperature": 1 / temperature}[sampling]
        shares = [len(group) ** power for group in self.groups]
        self.draws = _whole_shares(shares, len(data))

    def order(self, epoch: int) -> list[int]:
        """All records' indices as an epoch takes them."""
        generator = random.Random(f"{self.seed}/{epoch}")  # noqa: S311 - reproducible order
        order: list[int] = []
        for group, draws in zip(self.groups, self.draws, strict=True):
            for drawn in range(0, draws, len(group)):
                order += generator.sample(group, min(draws - drawn, len(group)))
        generator.shuffle(order)
        block = 32 * self.batch_size
        ordered: list[int] = []
        for start in range(0, len(order), block):
            piece = sorted(order[start : start + block], key=self.lengths.__getitem__)
            batches = [
                piece[i : i + self.batch_size] for i in range(0, len(piece), self.batch_size)
            ]
            short = [batches.pop()] if len(batches[-1]) < self.batch_size else []
            generator.shuffle(batches)
            # A batch that is not full must come last, or it would shift all that follow.
            ordered += [index for batch in batches + short for index in batch]
        return ordered


def _whole_shares(shares: Sequence[float], total: int) -> list[int]:
    """Whole numbers in the given proportions that add up to `total` (largest remainder)."""
    exact = [share * total / sum(shares) for share in shares]
    whole = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for index in by_remainder[: total - sum(whole)]:
        whole[index] += 1
    return whole


@dataclass(frozen=True)
class Collator:
    """Encoded records to a batch, padded on the right to one of a few lengths.

    The batch has `input_ids` [batch, tokens], `tasks` [batch], and for each target token its place
    in the flattened batch, its id, its task and its weight in the loss: `positions`, `targets`,
    `target_tasks`, `weights` [N].
    """

    pad_id: int
    weighting: Weighting = "token"  # see `TrainingSettings`
    positions: int = sys.maxsize  # how many the backbone has: padding goes no further

    def width(self, items: Sequence[Encoded]) -> int:
        """The length that these records are padded to."""
        longest = max(len(item.ids) for item in items)
        width = next((length for length in LENGTHS if length >= longest), longest)
        return min(width, max(longest, self.positions))

    def weight(self, item: Encoded) -> float:
        """The weight of each target token of a record."""
        return 1.0 if self.weighting == "token" else 1 / item.target_tokens

    def __call__(self, items: Sequence[Encoded], width: int | None = None) -> dict[str, Tensor]:
        """Make a batch of these records, padded to their own width or to a larger one."""
        import torch  # noqa: PLC0415 - settings, which this module has types for, need none

        width = width or self.width(items)
        ids = torch.full((len(items), width), self.pad_id)
        positions: list[int] = []
        targets: list[int] = []
        tasks: list[int] = []
        weights: list[float] = []
        for row, item in enumerate(items):
            ids[row, : len(item.ids)] = torch.tensor(item.ids)
            for places in item.targets:
                before = row * width - 1  # a token is told by the state at the one before it
                positions += range(before + places.start, before + places.stop)
                targets += item.ids[places.start : places.stop]
            tasks += [item.task] * item.target_tokens
            weights += [self.weight(item)] * item.target_tokens
        return {
            "input_ids": ids,
            "tasks": torch.tensor([item.task for item in items]),
            "positions": torch.tensor(positions),
            "targets": torch.tensor(targets),
            "target_tasks": torch.tensor(tasks),
            "weights": torch.tensor(weights),
        }
