"""What is left of a comparison, how long it takes on this device, and what fits into a time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from cgclora.data.records import encode_prompts
from cgclora.data.sampling import LENGTHS
from cgclora.inference.engine import answers_of
from cgclora.models.hardware import PeakMemory
from cgclora.storage.run_dir import TrainingStopped
from cgclora.training.train import train_side_by_side
from evals.experiments.comparison_dir import Cell, Training, is_trained
from evals.experiments.grid import Grid
from evals.runs.evaluate import request_of

ROUNDS = 20
"""Steps of each member by which the time is measured."""

_WARM_UP = 3
"""Rounds that do not count: new shapes are prepared in them."""

_FORWARD = 1 / 3
"""The time of a token without its gradient, in that of a token that is trained on."""


@dataclass(frozen=True)
class Stage:
    """A part of the work, in the order in which it is done.

    Attributes:
        seed: Of training.
        work: `rates`, `training` with the chosen rate, `search` of LoRAHub, or `answers`.
        members: Adapters to train or compose, or cells to answer.
        tokens: Padded ones to train on, or those of answers.
        seconds: On this device.
    """

    seed: int
    work: str
    members: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class GridPlan:
    """See the module's text.

    Attributes:
        stages: What is left.
        training_rate: Measured tokens a second, the members of a group side by side.
        answering_rate: Measured tokens of answers a second.
        members: How many train side by side.
        peak_memory: Bytes that the measurement needed at most.
    """

    stages: tuple[Stage, ...]
    training_rate: float
    answering_rate: float
    members: int
    peak_memory: int

    @property
    def seconds(self) -> float:
        """Of all that is left."""
        return sum(stage.seconds for stage in self.stages)

    def complete_seeds(self, seconds: float) -> list[int]:
        """The seeds of which all cells are answered within a time."""
        done = []
        for seed in dict.fromkeys(stage.seed for stage in self.stages):
            seconds -= sum(stage.seconds for stage in self.stages if stage.seed == seed)
            if seconds < 0:
                break
            done.append(seed)
        return done

    def text(self, minutes: float) -> str:
        """A table: each stage with its time, and whether it ends within so many minutes."""
        lines = [f"{'seed':>4}  {'work':<9}{'members':>8}{'tokens':>14}{'minutes':>9}{'until':>9}"]
        until = 0.0
        for stage in self.stages:
            until += stage.seconds
            fits = "" if until <= 60 * minutes else "  not within the time"
            lines.append(
                f"{stage.seed:>4}  {stage.work:<9}{stage.members:>8}{stage.tokens:>14,}"
                f"{stage.seconds / 60:>9.1f}{until / 60:>9.1f}{fits}"
            )
        lines += [
            "",
            f"measured here: {self.training_rate:,.0f} tokens/s of training, {self.members} side "
            f"by side; {self.answering_rate:,.0f} tokens/s of answers; "
            f"{self.peak_memory / 1e9:.1f} GB of memory at most",
            f"all of it: {self.seconds / 60:,.1f} minutes; complete within the time: seeds "
            f"{', '.join(map(str, self.complete_seeds(60 * minutes))) or 'none'}",
        ]
        return "\n".join(lines) + "\n"


def plan(grid: Grid) -> GridPlan:
    """Measure this device, and say what is left to do; nothing of it is done.

    Args:
        grid: The comparison.
    """
    costs = _Costs(grid)
    memory = PeakMemory(grid.backbone.model.device)
    left = [(seed, *_left(grid, seed)) for seed in grid.recipe.seeds]
    wanted = [one for _, rates, training, _ in left for one in (*rates, *training)]
    training_rate, members = _training_rate(grid, costs, wanted)
    answering_rate = _answering_rate(grid)
    stages = []
    for seed, rates, training, cells in left:
        searched = [cell for cell in cells if cell.method.adapters == "composed"]
        for work, count, tokens, rate in (
            ("rates", len(rates), sum(map(costs.training, rates)), training_rate),
            ("training", len(training), sum(map(costs.training, training)), training_rate),
            ("search", len(searched), sum(map(costs.search, searched)), training_rate),
            ("answers", len(cells), sum(map(costs.answers, cells)), answering_rate),
        ):
            if count:
                stages.append(Stage(seed, work, count, tokens, tokens / rate))
    return GridPlan(tuple(stages), training_rate, answering_rate, members, memory.bytes())


def _left(grid: Grid, seed: int) -> tuple[list[Training], list[Training], list[Cell]]:
    """The trainings of a seed's rates, those with the chosen rates, and the cells to answer."""
    cells = [cell for cell in grid.missing() if cell.seed == seed]
    tries = grid.trainer.rates_to_try(cells)
    rates = [one for one in tries if not grid.trainer.is_known(one)]
    tried = {one.cell for one in tries}
    some = grid.recipe.learning_rates[0]  # whichever is chosen, it takes as long
    chosen = [
        one
        for cell in cells
        if cell.method.config is not None and cell not in tried
        for one in grid.trainer.needs(cell, some)
        if not any(_is_trained_at(grid, one, rate) for rate in grid.recipe.learning_rates)
    ]
    first = grid.recipe.seeds[0]
    return rates if seed == first else [], chosen, cells


def _is_trained_at(grid: Grid, training: Training, rate: float) -> bool:
    return is_trained(grid.folder.training(Training(training.cell, rate, training.tasks)))


class _Costs:
    """How many tokens things take."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        tokenizer = grid.backbone.tokenizer
        self.lengths: dict[str, dict[str, list[int]]] = {}
        self.targets: dict[str, int] = {}
        for split, dataset in grid.splits.items():
            found: dict[str, list[int]] = {}
            prompts = encode_prompts([one.prompt for one in dataset.records], tokenizer, "\n")
            targets = tokenizer(
                [one.target for one in dataset.records] or [""], add_special_tokens=False
            )["input_ids"]
            for record, prompt, target in zip(dataset.records, prompts, targets, strict=False):
                length = len(prompt) + len(target) + 1
                padded = next((one for one in LENGTHS if one >= length), length)
                found.setdefault(record.task, []).append(padded)
                if split == "test":
                    self.targets[record.task] = self.targets.get(record.task, 0) + len(target) + 1
            self.lengths[split] = found

    def training(self, training: Training) -> int:
        """Padded tokens of a training, dev losses as far as they take time."""
        settings = self.grid.recipe.training
        train, dev = (
            sum(sum(self.lengths[split].get(task, ())) for task in training.tasks)
            for split in ("train", "dev")
        )
        return int(settings.epochs * train + settings.evaluations * dev * _FORWARD)

    def steps(self, training: Training) -> int:
        """How many steps it has."""
        records = sum(len(self.lengths["train"].get(task, ())) for task in training.tasks)
        return self.grid.recipe.training.steps(records)

    def search(self, cell: Cell) -> int:
        """Tokens of the search for LoRAHub's weights, as far as they take time."""
        search = self.grid.recipe.search
        found = 0
        for task in self.grid.recipe.clusters[cell.cluster]:
            found += sum(self.lengths["train"].get(task, ())[: search.examples])
        return int(found * search.evaluations * _FORWARD)

    def answers(self, cell: Cell) -> int:
        """Tokens of a cell's answers, if they are as long as the references."""
        return sum(self.targets.get(task, 0) for task in self.grid.recipe.clusters[cell.cluster])


def _training_rate(grid: Grid, costs: _Costs, wanted: Sequence[Training]) -> tuple[float, int]:
    """Measured padded tokens a second of a group side by side, and its members.

    The group is trained for `ROUNDS` steps in a folder that does not stay.
    """
    group = next(grid.trainer.groups(wanted), [])
    if not group:
        return 1.0, 0
    clock: list[float] = []

    def enough() -> bool:
        clock.append(time.monotonic())
        return len(clock) > ROUNDS

    with tempfile.TemporaryDirectory() as folder, ExitStack() as attached:
        runs = []
        for place, training in enumerate(group):
            runs.append(grid.trainer.run(training, f"measured{place}", Path(folder, str(place))))
            attached.callback(runs[-1].adapter.detach)
        started = time.monotonic()
        with suppress(TrainingStopped):
            train_side_by_side(runs, grid.backbone.tokenizer, progress=lambda _: None, stop=enough)
        ended = time.monotonic()
    tokens = sum(costs.training(one) / costs.steps(one) for one in group)
    if len(clock) > 2 * _WARM_UP:
        gaps = [after - before for before, after in pairwise(clock)]
        return tokens / median(gaps[_WARM_UP - 1 :]), len(group)
    whole = sum(map(costs.training, group))  # few steps: all were taken
    return whole / (ended - started), len(group)


def _answering_rate(grid: Grid) -> float:
    """Measured tokens of answers a second, of the bare backbone to a few records of each task."""
    device = grid.backbone.model.device.type
    most = 16 if device == "cpu" else 512
    records = grid.splits["test"].records
    of_tasks = [
        [record for record in records if record.task == task]
        for task in dict.fromkeys(record.task for record in records)
    ]
    turns = [record for turn in zip(*of_tasks, strict=False) for record in turn]
    requests = [request_of(record) for record in turns[:most]]
    started, tokens = time.monotonic(), 0
    found = answers_of(grid.backbone, requests, [None] * len(requests), batch_size=grid.batch_size)
    for _, answer in found:
        tokens += answer.tokens
    return tokens / (time.monotonic() - started)
