"""The remaining work of a comparison, how long it takes on this device, and what fits a time."""

from __future__ import annotations

import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from cgclora.data.chat import encode_prompts
from cgclora.data.sampling import LENGTHS
from cgclora.inference.engine import answers_of
from cgclora.models.hardware import PeakMemory
from cgclora.storage.run_dir import TrainingStopped
from cgclora.training.train import train_side_by_side
from evals.experiments.comparison_dir import Cell, Training, is_trained
from evals.experiments.grid import Grid
from evals.runs.evaluate import request_of

ROUNDS = 20
"""Measured steps of each member."""

_WARM_UP = 3
"""First rounds that are not measured: they prepare new shapes."""

_FORWARD = 1 / 3
"""The time of a token without its gradient, relative to a token that is trained on."""


@dataclass(frozen=True)
class Stage:
    """A part of the work, in the order of work."""

    seed: int  # of training
    work: str  # `rates`, `training` with the chosen rate, `search` of LoRAHub, or `answers`
    members: int  # number of adapters to train or compose, or of cells to answer
    tokens: int  # padded tokens to train on, or tokens of answers
    seconds: float  # on this device


@dataclass(frozen=True)
class GridPlan:
    """See the module's text."""

    stages: tuple[Stage, ...]  # the remaining work
    training_rate: float  # measured tokens a second, the members of a group side by side
    answering_rate: float  # measured tokens of answers a second
    members: int  # adapters that train side by side
    peak_memory: int  # of the measurement, in bytes

    @property
    def seconds(self) -> float:
        """Of all remaining work."""
        return sum(stage.seconds for stage in self.stages)

    def complete_seeds(self, seconds: float) -> list[int]:
        """The seeds whose cells are all answered within a time."""
        done = []
        for seed in dict.fromkeys(stage.seed for stage in self.stages):
            seconds -= sum(stage.seconds for stage in self.stages if stage.seed == seed)
            if seconds < 0:
                break
            done.append(seed)
        return done

    def text(self, minutes: float) -> str:
        """A table of the stages with their times, and whether each ends within some minutes."""
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
    """Measure this device and list the remaining work of a comparison, without doing any of it."""
    costs = _Costs(grid)
    memory = PeakMemory(grid.backbone.model.device)
    remaining = [(seed, *_remaining(grid, seed)) for seed in grid.recipe.seeds]
    trainings = [one for _, rates, chosen, _ in remaining for one in (*rates, *chosen)]
    training_rate, members = _training_rate(grid, costs, trainings)
    answering_rate = _answering_rate(grid)
    stages = []
    for seed, rates, chosen, cells in remaining:
        searched = [cell for cell in cells if cell.method.adapters == "composed"]
        scoring = {"rates": rates, "training": chosen}
        for work, count, tokens, rate in (
            ("rates", len(rates), sum(map(costs.training, rates)), training_rate),
            ("training", len(chosen), sum(map(costs.training, chosen)), training_rate),
            ("search", len(searched), sum(map(costs.search, searched)), training_rate),
            ("answers", len(cells), sum(map(costs.answers, cells)), answering_rate),
        ):
            if count:
                scored = sum(costs.scoring(one) for one in scoring.get(work, ()))
                seconds = tokens / rate + scored / answering_rate
                stages.append(Stage(seed, work, count, tokens, seconds))
    return GridPlan(tuple(stages), training_rate, answering_rate, members, memory.bytes())


def _remaining(grid: Grid, seed: int) -> tuple[list[Training], list[Training], list[Cell]]:
    """The trainings that tune a seed's rates, those with the chosen rates, the cells to answer."""
    cells = [cell for cell in grid.missing() if cell.seed == seed]
    tuning = grid.trainer.rates_to_try(cells)
    rates = [one for one in tuning if not grid.trainer.is_known(one)]
    tuned = {one.cell for one in tuning}
    chosen = [
        one
        for cell in cells
        if cell.method.config is not None and cell not in tuned
        for one in grid.recipe.trainings(cell, grid.recipe.learning_rates[0])  # each takes as long
        if not any(
            is_trained(grid.folder.training(Training(cell, rate, one.tasks)))
            for rate in grid.recipe.learning_rates
        )
    ]
    return rates if seed == grid.recipe.seeds[0] else [], chosen, cells


class _Costs:
    """Tokens of trainings, searches and answers."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        tokenizer = grid.backbone.tokenizer
        self.lengths: dict[str, dict[str, list[int]]] = {}  # padded, by split and task
        self.targets: dict[str, Counter[str]] = defaultdict(Counter)  # by split and task
        for split, dataset in grid.splits.items():
            lengths = self.lengths[split] = defaultdict(list)
            questions = [one.question for one in dataset.records]
            prompts = encode_prompts(questions, tokenizer, grid.trainer.prompt_format)
            targets = tokenizer(
                [one.target for one in dataset.records] or [""], add_special_tokens=False
            )["input_ids"]
            for record, prompt, target in zip(dataset.records, prompts, targets, strict=False):
                length = len(prompt) + len(target) + 1
                padded = next((one for one in LENGTHS if one >= length), length)
                lengths[record.task].append(padded)
                self.targets[split][record.task] += len(target) + 1

    def training(self, training: Training) -> int:
        """Padded tokens of a training; those of the dev loss weighted by their time."""
        settings = self.grid.recipe.training
        train, dev = (
            sum(sum(self.lengths[split].get(task, ())) for task in training.tasks)
            for split in ("train", "dev")
        )
        return int(settings.epochs * train + settings.evaluations * dev * _FORWARD)

    def steps(self, training: Training) -> int:
        """Number of steps of a training."""
        records = sum(len(self.lengths["train"].get(task, ())) for task in training.tasks)
        return self.grid.recipe.training.steps(records)

    def search(self, cell: Cell) -> int:
        """Tokens of the search for LoRAHub's weights, weighted by their time."""
        search = self.grid.recipe.search
        examples = sum(
            sum(self.lengths["train"].get(task, ())[: search.examples])
            for task in self.grid.recipe.clusters[cell.cluster]
        )
        return int(examples * search.evaluations * _FORWARD)

    def answers(self, cell: Cell) -> int:
        """Tokens of a cell's answers, if they are as long as the references."""
        return sum(self.targets["test"][task] for task in self.grid.recipe.clusters[cell.cluster])

    def scoring(self, training: Training) -> float:
        """Tokens of the answers that a training's dev scores take, estimated likewise."""
        settings = self.grid.recipe.training
        if settings.best_by == "loss":
            return 0.0
        tokens = 0.0
        for task in training.tasks:
            records = len(self.lengths["dev"].get(task, ()))
            answered = min(settings.score_records or records, records)
            tokens += self.targets["dev"][task] * answered / max(1, records)
        return settings.evaluations * tokens


def _training_rate(grid: Grid, costs: _Costs, trainings: Sequence[Training]) -> tuple[float, int]:
    """Measured padded tokens a second of a group side by side, and its number of members.

    The group trains for `ROUNDS` steps in a temporary folder.
    """
    group = next(grid.trainer.groups(trainings), [])
    if not group:
        return 1.0, 0
    clock: list[float] = []

    def is_measured() -> bool:
        clock.append(time.monotonic())
        return len(clock) > ROUNDS

    with tempfile.TemporaryDirectory() as folder, ExitStack() as attached:
        runs = []
        for place, training in enumerate(group):
            runs.append(grid.trainer.run(training, f"measured{place}", Path(folder, str(place))))
            attached.callback(runs[-1].adapter.detach)
        started = time.monotonic()
        with suppress(TrainingStopped):
            train_side_by_side(
                runs, grid.backbone.tokenizer, progress=lambda _: None, stop=is_measured
            )
        ended = time.monotonic()
    if len(clock) > 2 * _WARM_UP:
        tokens = sum(costs.training(one) / costs.steps(one) for one in group)
        gaps = [after - before for before, after in pairwise(clock)]
        return tokens / median(gaps[_WARM_UP - 1 :]), len(group)
    # There were few steps, and all of them were taken.
    return sum(map(costs.training, group)) / (ended - started), len(group)


def _answering_rate(grid: Grid) -> float:
    """Measured tokens a second of the bare backbone's answers to a few records of each task."""
    max_records = 16 if grid.backbone.model.device.type == "cpu" else 512
    of_task = defaultdict(list)
    test = grid.splits["test"]
    for record in test.records:
        of_task[record.task].append(record)
    turns = [record for turn in zip(*of_task.values(), strict=False) for record in turn]
    requests = [
        request_of(record, task=test.descriptions[record.task]) for record in turns[:max_records]
    ]
    adapters = [None] * len(requests)
    started = time.monotonic()
    answers = answers_of(
        grid.backbone,
        requests,
        adapters,
        batch_size=grid.batch_size,
        bare_format=grid.trainer.prompt_format,
    )
    tokens = sum(answer.tokens for _, answer in answers)
    return tokens / (time.monotonic() - started)
