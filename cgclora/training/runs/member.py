"""One training run among those that share passes: its data, optimizer, log and checkpoints.

Nothing here knows of other runs; gradients come from `cgclora.training.side_by_side`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cgclora.data.records import Encoded
from cgclora.data.sampling import Collator, TaskSampler
from cgclora.storage import atomic_io
from cgclora.storage.layer_shapes import WEIGHTS_FILE
from cgclora.storage.run_dir import (
    BEST_FILE,
    OPTIMIZER_FILE,
    TrainingDiverged,
    cut_log,
    read_state,
    write_checkpoint,
)
from cgclora.training.distributed import Processes
from cgclora.training.expert_bank import ExpertBank
from cgclora.training.runs.scoring import DevScores
from cgclora.training.settings import TrainingRun

MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Share:
    """What a member has in a pass."""

    member: Member
    items: Sequence[Encoded]  # this process's records; may be none
    width: int  # what they are padded to at least
    first: int = 0  # place of the first of them among the records of the step
    weight: float = 1.0  # the target weights of the whole step, over passes and processes

    @property
    def rows(self) -> int:
        """Rows of the pass: a process without a record of its own takes part with another."""
        return max(1, len(self.items))


class Member:
    """A training run among those that share passes; `data` is its encoded records by split.

    Attributes:
        step: Steps that were taken.
        steps: How many there will be, if no patience ends them early.
        ended: Whether the last was taken.
        error: Why it ended without a result.
        seconds: Training time so far, its share of the passes; without that of `scores`.
        losses: Sum of loss and number of target tokens a task since the last log line, [2, T].
        step_loss: Sum of the losses of the steps since then, [].
        place: Number among the members trained together.
        slots: Places of its tasks among those of all members.
    """

    def __init__(
        self,
        run: TrainingRun,
        data: Mapping[str, Sequence[Encoded]],
        collator: Collator,
        processes: Processes,
        facts: Mapping[str, Any] = MappingProxyType({}),
        scores: DevScores | None = None,
    ) -> None:
        self.run = run
        self.facts = facts
        self.scores = scores
        self.adapter = run.adapter
        self.settings = settings = run.settings
        self.collator = collator
        self.processes = processes
        self.train = data["train"]
        # Alike in length within a batch; the order is the data's own otherwise.
        self.dev = sorted(data["dev"], key=lambda item: len(item.ids))
        self.records_a_step = settings.batch_size * settings.accumulation * processes.count
        sampling = (settings.sampling, settings.temperature, settings.seed)
        self.sampler = TaskSampler(self.train, self.records_a_step, *sampling)
        self.steps = settings.steps(len(self.train), processes.count)
        self.interval = math.ceil(self.steps / settings.evaluations)
        self.log_interval = max(1, min(10, self.steps // 20))
        self.step = self.logged = self.misses = 0
        self.best_step: int | None = None
        self.best_loss = math.inf
        self.best_score: float | None = None  # of the same weights
        self.best: Mapping[str, Tensor] = {}
        self.ended = False
        self.error: TrainingDiverged | None = None
        self.seconds = 0.0
        self.resumed_at: int | None = None
        self._order: tuple[int, list[int]] = (-1, [])
        self.losses: Tensor
        self.step_loss: Tensor
        self.place: int
        self.slots: slice
        self._gate = list(self.adapter.gate.parameters())

    # Records ------------------------------------------------------------------------------

    def shares(self) -> list[Share]:
        """The next step's passes."""
        size, processes = self.settings.batch_size, self.processes
        offset, stride = processes.index * size, processes.count * size
        epoch, place = divmod(self.step, math.ceil(len(self.train) / self.records_a_step))
        if epoch != self._order[0]:
            self._order = (epoch, self.sampler.order(epoch))
        start = place * self.records_a_step
        indices = self._order[1][start : start + self.records_a_step]
        records = [self.train[index] for index in indices]
        weight = sum(self.collator.weight(item) * item.target_tokens for item in records)
        return [
            Share(
                self,
                records[first + offset : first + offset + size],
                # The same in all processes, which take the same passes.
                self.collator.width(records[first : first + stride]),
                first + offset,
                weight,
            )
            for first in range(0, len(records), stride)
        ]

    def dev_shares(self) -> list[Share]:
        """The passes of a dev loss: each record once, in one of the processes."""
        stride = self.settings.batch_size * self.processes.count
        steps = (self.dev[first : first + stride] for first in range(0, len(self.dev), stride))
        return [
            Share(
                self,
                records[self.processes.index :: self.processes.count],
                self.collator.width(records),
            )
            for records in steps
        ]

    # Steps --------------------------------------------------------------------------------

    def prepare(self, bank: ExpertBank, row: int) -> None:
        """Take a place in a bank, and make the optimizer."""
        self.bank, self.row = bank, row
        experts = nn.Parameter(bank.master[row])
        experts.grad = bank.gradient[row]
        rate, gate_rate = self.settings.learning_rate, self.settings.gate_learning_rate
        gate_rate = rate if gate_rate is None else gate_rate
        groups: list[dict[str, Any]] = [
            {"params": [experts], "weight_decay": self.settings.weight_decay, "peak": rate}
        ]
        learned = dict(self.adapter.gate.named_parameters())
        turns = [learned.pop("turns")] if "turns" in learned else []  # matrices of experts, rather
        for own, peak in (([*learned.values()], gate_rate), (turns, rate)):
            if own:
                groups.append({"params": own, "weight_decay": 0.0, "peak": peak})
        self.optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
        self._parameters = [experts, *self._gate]
        self.adapter.gate.zero_grad()
        self._gate_gradients = [torch.zeros_like(parameter) for parameter in self._gate]
        self._frozen: list[Tensor] = []
        if (learns := self.run.learns) is not None:
            frozen = torch.ones_like(bank.master[row], dtype=torch.bool)
            for name, view in bank.views(row, frozen).items():
                view.copy_(~learns[name])
            gate = self.adapter.gate.named_parameters()
            self._frozen = [frozen, *(~learns[f"gate.{name}"].to(p.device) for name, p in gate)]

    def collect(self) -> None:
        """Add what a backward pass left to the step's gradient."""
        for total, parameter in zip(self._gate_gradients, self._gate, strict=True):
            if parameter.grad is not None:
                total.add_(parameter.grad)
        self.adapter.gate.zero_grad()

    def take_step(self) -> None:
        """Move the weights by the gradient of the step's passes."""
        for parameter, total in zip(self._gate, self._gate_gradients, strict=True):
            parameter.grad = total
        gradients = [self.bank.gradient[self.row], *self._gate_gradients]
        for gradient in gradients:
            self.processes.sum(gradient)
        for gradient, frozen in zip(gradients, self._frozen, strict=False):
            # Not a product: what is no number in a frozen place must not stay one.
            gradient.masked_fill_(frozen, 0)
        self._norm = nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        factor = self.settings.rate(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimizer.step()
        self.bank.refresh(self.row)
        self.adapter.gate.zero_grad()
        for total in self._gate_gradients:
            total.zero_()
        self.step += 1
        self.ended = self.step >= self.steps

    @property
    def evaluates(self) -> bool:
        """Whether a dev loss follows the step that was taken."""
        return self.ended or self.step % self.interval == 0

    @property
    def logs(self) -> bool:
        """Whether a line of the log follows the step that was taken."""
        return self.evaluates or self.step % self.log_interval == 0

    def evaluate(self, sums: Tensor) -> dict[str, Any]:
        """Record a dev loss, and dev scores if the run has them; keep the weights if they are best.

        Ends the run if patience is used up. `sums` are of loss and target tokens a task, over all
        processes, [2, T]. Returns what the log records, and `scoring_seconds` so far.

        Raises:
            TrainingDiverged: It is no finite number.
        """
        losses = self._by_task(sums.tolist())
        if not all(map(math.isfinite, losses.values())):
            raise self._not_finite("dev loss", math.nan)
        loss, score = sum(losses.values()) / len(losses), None
        facts: dict[str, Any] = {"dev_loss": loss, "dev_losses": losses}
        if self.scores is not None:
            scores = self.scores()
            score = sum(scores.values()) / len(scores)
            facts |= {"dev_score": score, "dev_scores": scores}
        if (-(score or 0.0), loss) < (-(self.best_score or 0.0), self.best_loss):
            self.best_step, self.best_loss, self.best_score = self.step, loss, score
            self.misses = 0
            self.best = {name: t.clone() for name, t in self.adapter.state_dict().items()}
        else:
            self.misses += 1
        if self.settings.patience and self.misses >= self.settings.patience:
            self.ended = True
        self._write_log(facts)
        return facts | ({"scoring_seconds": self.scores.seconds} if self.scores else {})

    def _by_task(self, sums: Sequence[Sequence[float]]) -> dict[str, float]:
        """Nats a target token of each task that was seen."""
        tasks = self.adapter.config.tasks
        return {task: loss / count for task, loss, count in zip(tasks, *sums, strict=True) if count}

    # Log ----------------------------------------------------------------------------------

    def check_loss(self) -> None:
        """Check the step's loss before the weights move by its gradient.

        Raises:
            TrainingDiverged: It is no finite number.
        """
        value = float(self.step_loss)
        if not math.isfinite(value):
            raise self._not_finite("loss", value, self.step + 1)

    def note_losses(self) -> dict[str, Any]:
        """Log what was summed up since the last line; returns it.

        Raises:
            TrainingDiverged: The loss is no finite number.
        """
        loss = float(self.processes.sum(self.step_loss)) / (self.step - self.logged)
        if not math.isfinite(loss):
            raise self._not_finite("loss", loss)
        facts = {
            "loss": loss,
            "losses": self._by_task(self.processes.sum(self.losses).tolist()),
            "gates": [[round(g, 4) for g in row] for row in self.adapter.gates().mean(0).tolist()],
            "learning_rate": self.settings.learning_rate
            * self.settings.rate(self.step - 1, self.steps),
            "grad_norm": float(self._norm),
        }
        self.losses.zero_()
        self.step_loss.zero_()
        self.logged = self.step
        self._write_log(facts)
        return facts

    def _write_log(self, facts: Mapping[str, Any]) -> None:
        if not self.processes.writes:
            return
        line = {"step": self.step, "steps": self.steps, "time": round(time.time(), 3), **facts}
        with (self.run.folder / atomic_io.LOG_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _not_finite(self, name: str, value: float, step: int | None = None) -> TrainingDiverged:
        return TrainingDiverged(
            f"the {name} became {value} at step {step or self.step}: lower the learning rate (the "
            "last checkpoint is from before) or look for broken records."
        )

    # Checkpoints --------------------------------------------------------------------------

    def write_checkpoint(self, cut: tuple[str, int]) -> None:
        """Write what resuming needs; `cut` is the same for all members that write now.

        Raises:
            TrainingError: It cannot be written.
            TrainingDiverged: What was summed up since the last line of the log is no finite number.
        """
        losses: list[list[float]] = self.processes.sum(self.losses.clone()).tolist()
        step_loss = float(self.processes.sum(self.step_loss.clone()))
        if not math.isfinite(step_loss):
            raise self._not_finite("loss", step_loss)
        if self.processes.writes:
            moments = {name: one.cpu().contiguous() for name, one in self._moments().items()}
            tables = {WEIGHTS_FILE: self.adapter.state_dict(), OPTIMIZER_FILE: moments}
            if self.best_step not in (None, self.step):
                tables[BEST_FILE] = dict(self.best)
            state = {
                "step": self.step,
                "logged": self.logged,
                "ended": self.ended,
                "best_step": self.best_step,
                "best_dev_loss": None if self.best_step is None else self.best_loss,
                **self._scoring_state(),
                "evaluations_without_gain": self.misses,
                "seconds": round(self.seconds, 2),
                "cut": list(cut),
                "losses": losses,
                "step_loss": step_loss,
            }
            folder = self.run.folder / "checkpoints" / f"checkpoint-{self.step}"
            write_checkpoint(folder, tables, state)
        self.processes.wait()

    def _scoring_state(self) -> dict[str, float | None]:
        if self.scores is None:
            return {}
        seconds = round(self.scores.seconds, 2)
        return {"best_dev_score": self.best_score, "scoring_seconds": seconds}

    def _moments(self) -> dict[str, Tensor]:
        """Adam's moments by the parameters' names, as they are; zeros before the first step."""
        moments: dict[str, Tensor] = {}
        for moment in ("exp_avg", "exp_avg_sq"):
            views = self.bank.views(self.row, self._state(self._parameters[0])[moment])
            moments |= {f"{name}.{moment}": view for name, view in views.items()}
            for name, parameter in self.adapter.gate.named_parameters():
                moments[f"gate.{name}.{moment}"] = self._state(parameter)[moment]
        return moments

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

    def restore(self, checkpoint: Path | None) -> None:
        """Go back to a checkpoint, or to the start; see `restore_optimizer`."""
        if self.processes.writes:
            cut_log(self.run.folder / atomic_io.LOG_FILE, checkpoint)
        self._checkpoint = checkpoint
        if checkpoint is None:
            return
        state = read_state(checkpoint)
        self.step, self.logged = state["step"], state["logged"]
        self.ended, self.misses = state["ended"], state["evaluations_without_gain"]
        self.best_step = state["best_step"]
        if self.best_step is not None:
            self.best_loss = state["best_dev_loss"]
        if self.scores is not None:
            self.best_score = state["best_dev_score"]
            self.scores.seconds = state["scoring_seconds"]
        self.seconds = state["seconds"]
        self.resumed_at = self.step
        weights = load_file(checkpoint / WEIGHTS_FILE)
        self.adapter.load_state_dict(weights)
        other = checkpoint / BEST_FILE
        self.best = load_file(other) if other.exists() else weights

    def restore_optimizer(self) -> None:
        """The rest of `restore`, once there is an optimizer and somewhere to sum up losses."""
        if self._checkpoint is None:
            return
        moments = load_file(self._checkpoint / OPTIMIZER_FILE)
        for name, moment in self._moments().items():
            moment.copy_(moments[name])
        for parameter in self._parameters:
            self._state(parameter)["step"].fill_(self.step)
        state = read_state(self._checkpoint)
        if self.processes.writes:  # those of all processes are in the first one's from here on
            self.losses.copy_(torch.tensor(state["losses"]))
            self.step_loss.fill_(state["step_loss"])
