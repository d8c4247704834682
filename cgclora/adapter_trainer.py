"""`transformers.Trainer` for one adapter: batches, loss, log, checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from cgclora import distributed
from cgclora.adapter import Adapter
from cgclora.batching import Collator, TaskSampler
from cgclora.checkpoint import in_short
from cgclora.data import Encoded
from cgclora.loss import TargetLoss
from cgclora.run_folder import (
    Stopwatch,
    TrainingDiverged,
    TrainingError,
    best_checkpoint,
    mark_complete,
)
from cgclora.settings import TrainingSettings
from cgclora.shapes import WEIGHTS_FILE
from cgclora.storage import write_tensors


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
        model = TargetLoss(adapter.model)
        if distributed.wants_fsdp():
            distributed.shard(model, arguments.device)
        with distributed.without_fsdp_of_accelerate():
            super().__init__(
                model=model,
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
            for inputs, counts in self._dev_batches():
                with self.adapter.route(inputs["tasks"]):
                    values = model(**{name: inputs[name] for name in _MODEL_INPUTS})
                if counts:
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

    def _dev_batches(self) -> Iterator[tuple[dict[str, Tensor], bool]]:
        """This process's share of the dev records, each exactly once, and whether a batch counts.

        Every process gets as many batches, since all take part in gathering sharded weights; one
        that has nothing left gets a record that does not count.
        """
        data = cast(list[Any], self.eval_dataset)
        processes, size = self.args.world_size, self.args.eval_batch_size
        mine = data[self.args.process_index :: processes]
        for start in range(0, math.ceil(len(data) / processes), size):
            records = mine[start : start + size]
            batch = self._prepare_inputs(self.data_collator(records or data[:1]))
            yield cast(dict[str, Tensor], batch), bool(records)

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
        if not self.args.should_save:  # not every version of the trainer asks
            return
        folder = Path(output_dir or cast(str, self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS_FILE, self.adapter.state_dict())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError) as error:  # the latter is how torch says the former
            raise TrainingError(
                f"no checkpoint could be written to {self.args.output_dir}: free room there and "
                "give the command again, it goes on from the one before. "
                f"({in_short(error)})"
            ) from error
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
