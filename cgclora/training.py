"""Train an adapter on many tasks at once, on `transformers.Trainer`.

The trainer's own loop, optimizer, schedule and distributed code are used as they are. What is
ours: which records make a batch (`TaskSampler`), the loss (`TargetLoss`), the route of a batch, a
learning rate of the gate's own, a log of loss per task and gates, and checkpoints that hold the
adapter alone and count only when they are complete (`run_folder`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import rotate_checkpoints

from cgclora import files, provenance
from cgclora.adapter import Adapter
from cgclora.batching import Collator, TaskSampler
from cgclora.checkpoint import fingerprint
from cgclora.config import ConfigError
from cgclora.data import Encoded, Record, data_hash, encode, sample_per_task
from cgclora.loss import TargetLoss
from cgclora.run_folder import (
    Stopwatch,
    TrainingDiverged,
    TrainingStopped,
    best_checkpoint,
    claim,
    cut_log,
    hold,
    last_checkpoint,
    mark_complete,
    seconds_spent,
    state_at_the_end,
    step_of,
)
from cgclora.settings import TrainingSettings, trainer_arguments
from cgclora.shapes import WEIGHTS_FILE


class _TaskLosses:
    """Sums of loss and of target tokens a task, on the device, without waiting for it."""

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        self.tasks = tasks
        dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.sums = torch.zeros(2, len(tasks), dtype=dtype, device=device)

    def add(self, losses: Tensor, tasks: Tensor) -> None:
        values = torch.stack([losses.detach(), torch.ones_like(losses)]).to(self.sums.dtype)
        self.sums.index_add_(1, tasks, values)

    def take(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean loss in nats a token of each task seen since the last call, over all processes."""
        loss, count = reduce(self.sums).tolist()
        self.sums.zero_()
        return {task: loss[i] / count[i] for i, task in enumerate(self.tasks) if count[i]}


class AdapterTrainer(Trainer):
    """`transformers.Trainer` for one adapter; made and run by `train`."""

    def __init__(
        self,
        adapter: Adapter,
        settings: TrainingSettings,
        *,
        arguments: TrainingArguments,
        train_data: Sequence[Encoded],
        dev_data: Sequence[Encoded],
        log_file: Path,
        collator: Collator,
        callbacks: list[TrainerCallback],
    ) -> None:
        # Declared first: Trainer's own constructor already asks for a sampler's settings.
        self.adapter = adapter
        self.settings = settings
        self.log_file = log_file
        self.stopwatch: Stopwatch
        super().__init__(
            model=TargetLoss(adapter.model),
            args=arguments,
            data_collator=collator,
            train_dataset=cast(Any, train_data),
            eval_dataset=cast(Any, sorted(dev_data, key=lambda item: len(item.ids))),
            callbacks=callbacks,
        )
        # The loss is divided by the target weights of the whole step, across processes and
        # accumulated batches, so the trainer must not average once more.
        self.model_accepts_loss_kwargs = True
        self.losses = _TaskLosses(adapter.config.tasks, self.args.device)

    # Batches and loss ---------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        records_in_a_step = (
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size
        )
        self.sampler = TaskSampler(
            cast(Sequence[Encoded], train_dataset or self.train_dataset),
            records_in_a_step,
            self.settings.sampling,
            self.settings.temperature,
            self.settings.seed,
        )
        return self.sampler

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        total = torch.stack([batch["weights"].sum() for batch in batch_samples]).sum()
        return self._sum(total.to(device))

    def _sum(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.accelerator.reduce(value, reduction="sum"))

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One forward and backward pass within the route of the batch's tasks."""
        with self.adapter.route(inputs["tasks"]):
            loss = super().training_step(model, inputs, num_items_in_batch)
        # On a GPU this look would make it wait, so there it is left to the logging steps.
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            raise self._not_finite("loss", float(loss), self.state.global_step + 1)
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The batch's share of the weighted mean over the target tokens of the whole step."""
        tasks = inputs["target_tasks"]
        losses = model(**{name: inputs[name] for name in _MODEL_INPUTS})
        self.losses.add(losses, tasks)
        # DDP averages gradients over processes; the mean over all of them wants their sum.
        loss = (
            (losses * inputs["weights"]).sum() * self.accelerator.num_processes / num_items_in_batch
        )
        return (loss, losses) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The trainer's optimizer with a group for the experts and one for the gate."""
        if self.optimizer is None:
            gate = list(self.adapter.gate.parameters())
            inside = {id(parameter) for parameter in gate}
            experts = [p for _, p in self.adapter.named_parameters() if id(p) not in inside]
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            rate = self.settings.gate_learning_rate
            if rate is None:
                rate = self.settings.learning_rate
            groups: list[dict[str, Any]] = [
                {"params": experts, "weight_decay": self.settings.weight_decay}
            ]
            if gate:
                groups.append({"params": gate, "weight_decay": 0.0, "lr": rate})
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Dev loss of each task in nats a target token, and their mean as `eval_loss`."""
        model = cast(TargetLoss, self.model).eval()
        losses = _TaskLosses(self.adapter.config.tasks, self.args.device)
        with torch.no_grad():
            for inputs in self._dev_batches():
                with self.adapter.route(inputs["tasks"]):
                    values = model(**{name: inputs[name] for name in _MODEL_INPUTS})
                losses.add(values, inputs["target_tasks"])
        per_task = losses.take(self._sum)
        if not all(map(math.isfinite, per_task.values())):
            raise self._not_finite("dev loss", math.nan, self.state.global_step)
        metrics = {f"{metric_key_prefix}_loss": sum(per_task.values()) / len(per_task)}
        self.log(dict(metrics))
        self._write_log({"dev_loss": metrics[f"{metric_key_prefix}_loss"], "dev_losses": per_task})
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _dev_batches(self) -> Iterator[dict[str, Tensor]]:
        """This process's share of the dev records, each exactly once.

        The trainer's loader would repeat some to give every process as many batches.
        """
        data = cast(list[Any], self.eval_dataset)
        mine = data[self.args.process_index :: self.args.world_size]
        for start in range(0, len(mine), self.args.eval_batch_size):
            batch = self.data_collator(mine[start : start + self.args.eval_batch_size])
            yield cast(dict[str, Tensor], self._prepare_inputs(batch))

    # Log ----------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the losses per task and the gates to what the trainer logs."""
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise self._not_finite("loss", logs["loss"], self.state.global_step)
            gates = self.adapter.gates().mean(dim=0)
            self._write_log(
                {
                    "loss": logs["loss"],
                    "losses": self.losses.take(self._sum),
                    "gates": [[round(weight, 4) for weight in row] for row in gates.tolist()],
                    "learning_rate": logs["learning_rate"],
                    "grad_norm": logs.get("grad_norm"),
                }
            )
        super().log(logs, start_time)

    def _write_log(self, facts: Mapping[str, Any]) -> None:
        if not self.is_world_process_zero():
            return
        line = {
            "step": self.state.global_step,
            "steps": self.state.max_steps,
            "time": round(time.time(), 3),
            **facts,
        }
        with self.log_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _not_finite(self, name: str, value: float, step: int) -> TrainingDiverged:
        return TrainingDiverged(
            f"the {name} became {value} at step {step}: lower the learning rate (the last "
            "checkpoint is from before) or look for broken records."
        )

    # Checkpoints --------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or cast(str, self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.adapter.state_dict(), folder / WEIGHTS_FILE)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            folder = Path(cast(str, self.args.output_dir))
            self.stopwatch.note()
            mark_complete(folder / f"checkpoint-{self.state.global_step}")
            # Not sooner: until the new one counts, all depends on the old ones.
            best = folder / f"checkpoint-{self.state.best_global_step}"
            rotate_checkpoints(str(folder), save_total_limit=2, best_model_checkpoint=str(best))
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.adapter.load_state_dict(load_file(Path(resume_from_checkpoint) / WEIGHTS_FILE))

    def load_best(self) -> None:
        """Give the adapter the weights with the lowest dev loss.

        Raises:
            TrainingError: See `best_checkpoint`.
        """
        folder = Path(cast(str, self.args.output_dir))
        self._load_from_checkpoint(str(best_checkpoint(folder, self.state.best_global_step)))

    def _load_best_model(self) -> None:
        """Left to `train`: the trainer would pass over a missing checkpoint in silence."""


_MODEL_INPUTS = ("input_ids", "attention_mask", "positions", "targets")


class _Rhythm(TrainerCallback):
    """What the trainer's own rhythm leaves out.

    That is the last step's dev loss, a line of the log at each checkpoint, and each epoch's order.

    The trainer tells a sampler its epoch in one process, but not where several share the batches.
    """

    def __init__(self, trainer: AdapterTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A resumed epoch is a fraction; a whole one may fall short by a rounding error.
        self.trainer.sampler.set_epoch(int((state.epoch or 0) + 1e-6))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
        # What was summed since the last line of the log is not in a checkpoint: leave nothing.
        control.should_log = control.should_log or control.should_save


class _Stop(TrainerCallback):
    """Ends a run between two steps, after a checkpoint, when it is told to."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.wanted = wanted
        self.stopping = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step < state.max_steps and self.wanted():
            self.stopping = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.stopping:
            raise TrainingStopped(
                f"stopped at step {state.global_step} of {state.max_steps}: the same call goes on."
            )


class _Progress(TrainerCallback):
    """Tells a listener where the run is, on logging steps and evaluations."""

    def __init__(self, listener: Callable[[dict[str, Any]], None]) -> None:
        self.listener = listener
        self.started: tuple[float, int] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.started is None:
            self.started = (time.monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or self.started is None:
            return
        seconds, first = time.monotonic() - self.started[0], self.started[1]
        done = state.global_step - first
        left = seconds / done * (state.max_steps - state.global_step) if done else None
        self.listener(
            {"step": state.global_step, "steps": state.max_steps, "seconds_left": left, **logs}
        )


def print_progress(facts: Mapping[str, Any]) -> None:
    """Write a line of progress to standard error."""
    left = facts["seconds_left"]
    parts = [f"step {facts['step']}/{facts['steps']}"]
    parts += [f"{key} {facts[key]:.4f}" for key in ("loss", "eval_loss") if key in facts]
    parts += [] if left is None else [f"{left / 60:.1f} min left"]
    print(" · ".join(parts), file=sys.stderr, flush=True)


def train(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    train_records: Sequence[Record],
    dev_records: Sequence[Record],
    settings: TrainingSettings,
    run_folder: str | Path,
    *,
    facts: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[dict[str, Any]], None] = print_progress,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train an attached adapter, or go on with a run that was interrupted in this folder.

    Afterwards the adapter holds the weights with the lowest dev loss. Under `accelerate launch` the
    processes share each step's batch, and process 0 writes.

    Args:
        adapter: A fresh adapter, just attached.
        tokenizer: The backbone's.
        train_records: What to learn from; every task needs some.
        dev_records: What the dev loss is taken on; every task needs some.
        settings: How.
        run_folder: Where the run lives.
        facts: More for the adapter's manifest.
        dtype: Of the saved weights; None keeps fp32.
        progress: Called with step, steps, seconds_left and losses.
        stop: Asked after each step; once it says yes a checkpoint is written and the run ends, to
            be gone on with later. For a single process.

    Returns:
        The manifest of the saved adapter.

    Raises:
        DataError: A task has no usable record.
        TrainingError: The folder holds another run or one that is under way, its best checkpoint
            is gone, or the backbone is on another GPU than the trainer's.
        TrainingDiverged: The loss is not finite.
        TrainingStopped: `stop` said so.
    """
    provenance.commit()  # kept from here on: a commit made during the run is not the run's code
    folder = Path(run_folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tasks = adapter.config.tasks
    if unknown := sorted(settings.records_of.keys() - set(tasks)):
        raise ConfigError(f"records_of names tasks that the adapter does not know: {unknown}.")
    wanted = {
        "train": [settings.records_of.get(task, settings.records_per_task) for task in tasks],
        "dev": [settings.dev_records_per_task for _ in tasks],
    }
    positions = _positions(adapter.model)
    max_length = min(settings.max_length, positions)
    data, too_long = {}, Counter[str]()
    for split, records in (("train", train_records), ("dev", dev_records)):
        encoded, skipped = encode(
            records,
            tokenizer,
            tasks,
            separator=adapter.config.separator,
            max_length=max_length,
        )
        data[split] = sample_per_task(encoded, wanted[split], settings.seed)
        too_long += skipped
    if too_long:
        print(f"left out as longer than {max_length} tokens: {dict(too_long)}", file=sys.stderr)
    identity = {
        "config": adapter.config.to_dict(),
        "settings": dataclasses.asdict(settings),
        "backbone": fingerprint(adapter.model),
        "train_data": data_hash(train_records),
        "dev_data": data_hash(dev_records),
    }
    trainer = AdapterTrainer(
        adapter,
        settings,
        arguments=trainer_arguments(
            settings, len(data["train"]), folder / "checkpoints", adapter.gate.own.device
        ),
        train_data=data["train"],
        dev_data=data["dev"],
        log_file=folder / files.LOG_FILE,
        collator=Collator(cast(int, tokenizer.pad_token_id), settings.weighting, positions),
        callbacks=[_Progress(progress)],
    )
    if stop is not None:  # before the rhythm, which lets a log follow each checkpoint
        trainer.add_callback(_Stop(stop))
    trainer.add_callback(_Rhythm(trainer))
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    if settings.patience:
        trainer.add_callback(transformers.EarlyStoppingCallback(settings.patience))
    counts = {
        "records": {split: len(items) for split, items in data.items()},
        "too_long": dict(too_long),
    }
    if not trainer.is_world_process_zero():
        trainer.accelerator.wait_for_everyone()  # until process 0 has the folder
        _run(trainer, folder)
        return {}
    with hold(folder):
        claim(folder, identity)
        trainer.accelerator.wait_for_everyone()
        outcome = _run(trainer, folder)
        return adapter.save(
            folder / "adapter",
            dtype=dtype,
            facts={"training": {**identity, **counts, **outcome}, **(facts or {})},
        )


def _positions(model: PreTrainedModel) -> int:
    """How many tokens a backbone can tell the places of."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return known if known and known > 0 else sys.maxsize


def _run(trainer: AdapterTrainer, folder: Path) -> dict[str, Any]:
    """Train, or go on, until the adapter has the weights with the lowest dev loss."""
    checkpoint = last_checkpoint(folder / "checkpoints")
    if trainer.is_world_process_zero():
        cut_log(trainer.log_file, checkpoint)
    state = state_at_the_end(checkpoint)
    if state is not None:  # only the adapter was not saved yet
        trainer.state = state
    else:
        trainer.stopwatch = Stopwatch(folder)
        _take_steps(trainer, checkpoint)
    trainer.load_best()
    return {
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "best_dev_loss": trainer.state.best_metric,
        "resumed_at": step_of(checkpoint) if checkpoint else None,
        "seconds": seconds_spent(folder),
    }


def _take_steps(trainer: AdapterTrainer, checkpoint: Path | None) -> None:
    """Train from the checkpoint on, and leave the backbone as it was but for the adapter."""
    model = trainer.adapter.model
    if trainer.settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        if trainer.settings.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        model.eval()
