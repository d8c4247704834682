"""Inter-task affinity: how much a step on one task helps another, measured while all are trained.

    Z[i, j] = 1 - L_j(theta + delta_i) / L_j(theta)

is the share of task j's loss that a step delta_i on task i alone takes away (TAG, arXiv 2109.04617,
eq. 1). theta are the parameters that all tasks share: a plain LoRA, or the common experts of other
adapters. Two forms are measured, of the same steps on the same records:

    lookahead     takes the step and computes the loss again, for every pair of tasks
    first order   -<delta_i, grad L_j> / L_j, from the gradients alone

The loss is taken on other records than the step, or a task would seem to help itself by learning
its own records by heart. Rows of a matrix are tasks that take the step, columns those that feel it.
"""

from __future__ import annotations

import dataclasses
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cgclora.adapter import Adapter
from cgclora.analysis.affinity_settings import AffinitySettings
from cgclora.analysis.affinity_state import SMALLEST_LOSS, AffinityState, with_means
from cgclora.analysis.shared_parameters import SharedParameters
from cgclora.data.records import DataError, Encoded, Record, data_hash, encode
from cgclora.data.sampling import Collator, TaskSampler
from cgclora.models.backbone import fingerprint
from cgclora.models.vocabulary import end_ids, pad_id, readable
from cgclora.storage import provenance
from cgclora.storage.run_dir import TrainingDiverged, TrainingStopped, claim, hold
from cgclora.training.loss import TargetLoss

_LOSS_TOKENS = {"cpu": 2048, "other": 1 << 14}  # padded, of a batch without gradients


def print_progress(facts: Mapping[str, Any]) -> None:
    """Write a line of progress to standard error."""
    parts = (
        f"measurement {facts['done']}/{facts['measurements']}",
        f"loss {facts['loss']:.4f}",
        f"{facts['seconds_left'] / 60:.1f} min left",
    )
    print(" · ".join(parts), file=sys.stderr, flush=True)


def measure(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    settings: AffinitySettings,
    run_folder: str | Path,
    *,
    progress: Callable[[dict[str, Any]], None] = print_progress,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train a fresh adapter jointly and measure affinities, or resume such a run.

    A resumed run ends as any other: on CPU with the same numbers, bit for bit. Dropout is not
    applied. After each measurement `progress` gets `done`, `measurements`, `loss` (the tasks' mean,
    in nats) and `seconds_left`, and `stop` may end the run, to be resumed later.

    Returns:
        JSON values: `first_order` and `lookahead` (null if not taken), each with `mean` and
        `standard_error` [T, T], see `affinity_state.pooled`; `measurements`, each with `step`,
        `losses` [T] and its own matrices; and where they come from, see `AffinityState`.

    Raises:
        ConfigError: No parameter of the adapter is shared by all tasks.
        DataError: A task has too few records that fit.
        TrainingError: The folder holds another run, or one that is under way.
        TrainingDiverged, TrainingStopped: A loss is not finite; `stop` ended the run.
    """
    provenance.commit()  # cached from here on: a commit made during the run is not the run's code
    folder = Path(run_folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(adapter, tokenizer, records, settings)
    values = dataclasses.asdict(settings)
    identity = {
        "kind": "affinity",
        "adapter": adapter.config.to_dict(),
        # A later call may ask for more measurements.
        "settings": {name: value for name, value in values.items() if name != "measurements"},
        "backbone": fingerprint(adapter.model),
        "data": data_hash(records),
    }
    with hold(folder):
        claim(folder, identity)
        state = AffinityState.read(folder, run.tensors())
        if state.measurements:
            run.restore(state.tensors)
        _take_measurements(run, state, folder, progress, stop)
    return {
        "tasks": list(adapter.config.tasks),
        **with_means(state.measurements[: settings.measurements]),
        "settings": values,
        "adapter": identity["adapter"],
        "backbone": {"name": adapter.backbone_name, "fingerprint": identity["backbone"]},
        "data": {"hash": identity["data"], **run.record_counts()},
        "seconds": round(state.seconds, 1),
        "origins": state.origins,
    }


def _take_measurements(
    run: _Run,
    state: AffinityState,
    folder: Path,
    progress: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool] | None,
) -> None:
    """Take the measurements that are missing."""
    total = run.settings.measurements
    first, started, before = len(state.measurements), time.monotonic(), state.seconds
    if first < total:
        stamp = provenance.stamp(run.adapter.model)
        state.origins.append({"first_measurement": first + 1, **stamp})
    for index in range(first, total):
        run.train(index)
        state.measurements.append(run.measurement(index))
        seconds = time.monotonic() - started
        state.seconds = before + seconds
        state.tensors = run.tensors()
        state.write(folder)
        progress(
            {
                "done": index + 1,
                "measurements": total,
                "loss": sum(state.measurements[-1]["losses"]) / len(run.groups),
                "seconds_left": seconds / (index + 1 - first) * (total - index - 1),
            }
        )
        if index + 1 < total and stop is not None and stop():
            raise TrainingStopped(
                f"stopped after measurement {index + 1} of {total}: the same call goes on."
            )


class _Run:
    """The joint training and what is measured of it."""

    def __init__(
        self,
        adapter: Adapter,
        tokenizer: PreTrainedTokenizerBase,
        records: Sequence[Record],
        settings: AffinitySettings,
    ) -> None:
        self.adapter = adapter
        self.settings = settings
        self.device = adapter.device
        self.data, self.too_long = encode(
            records,
            tokenizer,
            adapter.config.tasks,
            prompt_format=adapter.config.prompt_format,
            max_length=settings.max_length,
            readable_ids=readable(adapter.model),
            ends=end_ids(adapter.model.generation_config, tokenizer),
        )
        self.groups: list[list[Encoded]] = [[] for _ in adapter.config.tasks]
        for item in self.data:
            self.groups[item.task].append(item)
        needed = settings.records + settings.loss_records
        for task, group in zip(adapter.config.tasks, self.groups, strict=True):
            if len(group) < needed:
                raise DataError(
                    f"task {task!r} has {len(group)} records that fit, a measurement needs "
                    f"{needed}: give it more, raise max_length, or measure on fewer."
                )
        self.collator = Collator(pad_id(adapter.model, tokenizer), settings.weighting)
        self.loss = TargetLoss(adapter.model).eval()
        self.shared = SharedParameters(adapter)
        self.parameters = dict(adapter.named_parameters())
        self.optimizer = torch.optim.Adam(self.parameters.values(), settings.learning_rate)

    def record_counts(self) -> dict[str, dict[str, int]]:
        """By task, how many records there are and how many were too long."""
        pairs = [*zip(self.adapter.config.tasks, self.groups, strict=True)]
        return {
            "records": {task: len(group) for task, group in pairs},
            "too_long": {task: self.too_long[task] for task, _ in pairs},
        }

    # What a resumed run needs -------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments by name; moments are zeros before the first step."""
        tensors = {}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state.get(parameter, {})
            tensors[name] = parameter.detach().cpu()
            for moment in ("exp_avg", "exp_avg_sq"):
                value = moments.get(moment, torch.zeros_like(parameter))
                tensors[f"{name}.{moment}"] = value.cpu()
            tensors[f"{name}.step"] = moments.get("step", torch.zeros(()))
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[name])
            self.optimizer.state[parameter] = {
                "step": tensors[f"{name}.step"].clone(),
                "exp_avg": tensors[f"{name}.exp_avg"].to(parameter, copy=True),
                "exp_avg_sq": tensors[f"{name}.exp_avg_sq"].to(parameter, copy=True),
            }

    # Joint training -----------------------------------------------------------------------

    def train(self, measurement: int) -> None:
        """The steps before a measurement."""
        every = self.settings.every
        batches = islice(self._batches(), measurement * every, (measurement + 1) * every)
        for step, batch in enumerate(batches, start=measurement * every):
            rate = self.settings.learning_rate * min(1.0, (step + 1) / every)
            self.optimizer.param_groups[0]["lr"] = rate
            self.optimizer.zero_grad()
            inputs = self._inputs(batch)
            with self.adapter.route(inputs["tasks"]):
                loss = self._mean_loss(inputs)
                loss.backward()
            _check_finite([loss.item()], f"step {step + 1}")
            self.optimizer.step()

    def _batches(self) -> Iterator[list[Encoded]]:
        """The batches of the joint training, without an end."""
        settings, size = self.settings, self.settings.batch_size
        sampling = (settings.sampling, settings.temperature, settings.seed)
        sampler = TaskSampler(self.data, size, *sampling)
        for epoch in count():
            order = sampler.order(epoch)
            for start in range(0, len(order), size):
                yield [self.data[index] for index in order[start : start + size]]

    def _inputs(self, items: Sequence[Encoded]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in self.collator(items).items()}

    def _losses(self, inputs: Mapping[str, Tensor]) -> Tensor:
        names = ("input_ids", "positions", "targets")
        return cast(Tensor, self.loss(**{name: inputs[name] for name in names}))

    def _mean_loss(self, inputs: Mapping[str, Tensor]) -> Tensor:
        weights = inputs["weights"]
        return (self._losses(inputs) * weights).sum() / weights.sum()

    # Measuring ----------------------------------------------------------------------------

    def measurement(self, index: int) -> dict[str, Any]:
        """Affinities here and now, [T, T] each."""
        for_step, for_loss = self._draw(index)
        steps = self._steps(for_step)
        slopes, losses = [], []
        for items in for_loss:
            loss, gradient = self._gradient(items)
            losses.append(loss)
            slopes.append(-(steps @ gradient))
        where = f"measurement {index + 1}"
        _check_finite(losses, where)
        measured: dict[str, Any] = {"step": (index + 1) * self.settings.every, "losses": losses}
        floor = torch.tensor(losses, device=steps.device).clamp_min(SMALLEST_LOSS)
        measured["first_order"] = (torch.stack(slopes, dim=1) / floor).tolist()
        every = self.settings.lookahead_every
        if every and index % every == 0:
            measured["lookahead"] = self._lookahead(steps, for_loss).tolist()
            _check_finite([x for row in measured["lookahead"] for x in row], where)
        return measured

    def _draw(self, index: int) -> tuple[list[list[Encoded]], list[list[Encoded]]]:
        """Each task's records for its step and, other ones, for its loss."""
        settings = self.settings
        generator = random.Random(f"{settings.seed}/measurement {index}")  # noqa: S311
        for_step, for_loss = [], []
        for group in self.groups:
            first, second = records_for(group, settings)
            drawn = generator.sample(group, first + second)
            for_step.append(drawn[:first])
            for_loss.append(drawn[first:])
        return for_step, for_loss

    def _gradient(self, items: Sequence[Encoded]) -> tuple[float, Tensor]:
        """One task's loss on these records and its gradient by the shared parameters, [P]."""
        inputs = self._inputs(items)
        with self.adapter.route(inputs["tasks"]):
            loss = self._mean_loss(inputs)
            gradient = self.shared.gradient(loss)
        return loss.item(), gradient

    def _steps(self, for_step: Sequence[Sequence[Encoded]]) -> Tensor:
        """Each task's step delta_i, [T, P]."""
        rate = self.settings.step_rate
        if rate is None:
            rate = self.settings.learning_rate / len(for_step)
        if self.settings.step == "adam":
            scale = -rate * self.shared.preconditioner(self.optimizer)
        else:
            scale = torch.tensor(-rate, device=self.device)
        return torch.stack([self._gradient(items)[1].mul_(scale) for items in for_step])

    @torch.no_grad()
    def _lookahead(self, steps: Tensor, for_loss: Sequence[Sequence[Encoded]]) -> Tensor:
        """The affinities by taking each step and going back again, [T, T]."""
        items = sorted((item for task in for_loss for item in task), key=lambda x: len(x.ids))
        tokens = _LOSS_TOKENS.get(self.device.type, _LOSS_TOKENS["other"])
        batches = [self._inputs(batch) for batch in _batches_of(items, tokens)]
        before = self._task_losses(batches)
        here = self.shared.values()
        rows = []
        try:
            for step in steps:
                self.shared.write(here + step)
                change = before - self._task_losses(batches)
                rows.append(change / before.clamp_min(SMALLEST_LOSS))
        finally:
            self.shared.write(here)
        return torch.stack(rows)

    def _task_losses(self, batches: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Each task's loss over all batches, [T]."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64  # MPS: no float64
        sums = torch.zeros(2, len(self.groups), dtype=dtype, device=self.device)
        for inputs in batches:
            with self.adapter.route(inputs["tasks"]):
                losses = self._losses(inputs)
            weights = inputs["weights"]
            values = torch.stack([losses * weights, weights]).to(dtype)
            sums.index_add_(1, inputs["target_tasks"], values)
        return sums[0] / sums[1]


def records_for(group: Sequence[Encoded], settings: AffinitySettings) -> tuple[int, int]:
    """How many records of a task make its step and how many its loss."""
    own, other = settings.records, settings.loss_records
    mean = sum(len(item.ids) for item in group) / len(group)
    available = min(len(group) // 2, len(group) - own, len(group) - other)
    by_tokens = min(int(settings.tokens / mean), available)
    return max(own, by_tokens), max(other, by_tokens)


def _batches_of(items: Sequence[Encoded], tokens: int) -> Iterator[list[Encoded]]:
    """Neighbours together, as long as the longest times their number stays within `tokens`."""
    batch: list[Encoded] = []
    longest = 0
    for item in items:
        longest = max(longest, len(item.ids))
        if batch and longest * (len(batch) + 1) > tokens:
            yield batch
            batch, longest = [], len(item.ids)
        batch.append(item)
    if batch:
        yield batch


def _check_finite(values: Sequence[float], where: str) -> None:
    """Stop a run whose losses are no finite numbers."""
    if not all(map(math.isfinite, values)):
        raise TrainingDiverged(
            f"the loss became infinite or no number at {where}: lower the learning rate or the "
            "step rate, or look for broken records."
        )
