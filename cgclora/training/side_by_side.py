"""Train any number of adapters on one backbone in the same passes.

    members   round 1           round 2           ...
    LoRA      rows 0-15  ┐      rows 0-15  ┐
    MOE-LoRA  rows 16-31 ├ pass rows 16-31 ├ pass
    CGC-LoRA  rows 32-47 ┘      rows 32-47 ┘

The frozen backbone is the same function for all, each member's rows pass its own experts alone, and
no parameter belongs to two members. So the gradient of the sum of the losses holds each member's
own gradient, and each trains as if it were alone. In a round every member takes one step, in as few
passes as lengths and memory allow, and then updates its own schedule, log and dev loss.

Checkpoints of a round are a cut through all members. The same members resume from it bit for bit;
with other members, or alone, a member resumes from its own newest checkpoint.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, zip_longest
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cgclora.adapter import follow
from cgclora.layer import ExpertLinear, LayerExperts, Route
from cgclora.models.hardware import free_memory
from cgclora.storage.run_dir import (
    TrainingDiverged,
    TrainingError,
    TrainingStopped,
    checkpoints,
    read_state,
)
from cgclora.training.distributed import Processes, shard, wants_fsdp
from cgclora.training.expert_bank import ExpertBank, banks
from cgclora.training.loss import TargetLoss
from cgclora.training.runs.member import Member, Share

PASS_TOKENS = 512
"""Padded tokens of a pass that members share on a processor: twice as many make it a tenth faster,
and need half as much memory again."""

SLACK = {"cuda": 4 / 3}
"""How much longer than they are a member's records may be padded to join a pass; elsewhere 1."""

CHEAP_TOKENS = {"cuda": 1 << 14}
"""Padded tokens of a pass that takes no less time with fewer, since launches are its time."""

_CUT_SHARE = 0.05
"""Most of the time that may go into checkpoints between those which a run writes anyway."""


class SideBySide:
    """Members trained together on one backbone.

    Args:
        members: Those that have not ended; restored, not prepared.
        model: The backbone that carries all of them.
        processes: The processes that share each pass.
        name: Of this set of members, the same whenever they are trained together.
        reached: The round at which their checkpoints were written, see `resume`.
        tokens: Largest number of padded tokens of a shared pass; None takes the device's.
        finish: Called with a member that took its last step.
        report: Called with a member and what it logged.
    """

    def __init__(
        self,
        members: Sequence[Member],
        model: PreTrainedModel,
        processes: Processes,
        name: str,
        reached: int,
        tokens: int | None,
        finish: Callable[[Member], None],
        report: Callable[[Member, dict[str, Any]], None],
    ) -> None:
        self.members = members
        self.model = model
        self.processes = processes
        self.name = name
        self.round = reached
        self.finish = finish
        self.report = report
        self.loss = TargetLoss(model)
        if wants_fsdp():
            shard(self.loss, processes.device)
        self.tokens = tokens or _tokens(model, processes.device)
        kind = processes.device.type
        self.slack, self.cheap = SLACK.get(kind, 1.0), CHEAP_TOKENS.get(kind, 0)
        self.banks: list[ExpertBank] = []
        for bank, places in banks([member.adapter for member in members]):
            self.banks.append(bank)
            for row, place in enumerate(places):
                members[place].prepare(bank, row)
        # Sums a member and task, on the device, without waiting for it; MPS has no float64.
        dtype = torch.float32 if processes.device.type == "mps" else torch.float64
        tasks = [len(member.adapter.config.tasks) for member in members]
        self._sums, self._dev_sums = (
            torch.zeros(2, sum(tasks), dtype=dtype, device=processes.device) for _ in range(2)
        )
        self._step_losses = torch.zeros(len(members), dtype=dtype, device=processes.device)
        for place, (member, end) in enumerate(zip(members, accumulate(tasks), strict=True)):
            member.place, member.slots = place, slice(end - tasks[place], end)
            member.losses = self._sums[:, member.slots]
            member.step_loss = self._step_losses[place]
            member.restore_optimizer()
        self._cut_seconds, self._last_cut = 0.0, time.monotonic()
        self._scoring = 0.0  # seconds of the round that went into dev scores

    def run(self, stop: Callable[[], bool] | None) -> None:
        """Take rounds until all members have ended.

        `stop` is called after each round; true ends the training after a checkpoint of all.

        Raises:
            TrainingStopped: `stop` returned true.
            TrainingError: A checkpoint cannot be written, or a pass has no room in memory.
        """
        active = [*self.members]
        while active:
            self.take_round(active)
            evaluated = [member for member in active if member.evaluates and not member.error]
            ended = [member for member in active if member.ended and not member.error]
            active = [member for member in active if not member.ended and not member.error]
            stopping = bool(active) and stop is not None and stop()
            if stopping or (evaluated and self._cut_is_due(evaluated, active)):
                self._write_checkpoints([*ended, *active])
            else:
                self._write_checkpoints(ended)
            active = [member for member in active if not member.error]
            for member in ended:
                if not member.error:
                    self.finish(member)
            if stopping:
                where = ", ".join(f"step {m.step} of {m.steps}" for m in active[:3])
                more = f" and {len(active) - 3} more" if len(active) > 3 else ""
                raise TrainingStopped(f"stopped at {where}{more}: the same call goes on.")

    # A round ------------------------------------------------------------------------------

    def take_round(self, active: Sequence[Member]) -> None:
        """A step of each member, and what follows it."""
        started, self._scoring = time.monotonic(), 0.0
        self.model.train()
        shares = [member.shares() for member in active]
        spent = dict.fromkeys(active, 0)
        for together in zip_longest(*shares):
            step = [share for share in together if share is not None]
            self._take(step, learning=True)
            for share in step:
                spent[share.member] += share.width * share.rows
        for member in active:
            self._guarded(member, self._step)
        if evaluating := [one for one in active if one.evaluates and not one.error]:
            self._evaluate(evaluating)
        elapsed, tokens = time.monotonic() - started - self._scoring, sum(spent.values())
        for member in active:
            member.seconds += elapsed * spent[member] / tokens
        self.round += 1

    def _guarded(self, member: Member, work: Callable[[Member], None]) -> None:
        """Work for a member; one that diverges ends, and the others go on."""
        try:
            work(member)
        except TrainingDiverged as error:
            member.error = error

    def _step(self, member: Member) -> None:
        # On a GPU this look would make it wait, so there it is left to the logging steps.
        if self.processes.device.type == "cpu" and self.processes.count == 1:
            member.check_loss()
        member.take_step()
        if member.logs:
            self.report(member, member.note_losses())

    @torch.no_grad()
    def _evaluate(self, members: Sequence[Member]) -> None:
        """The dev losses of some members, and the dev scores of those that have them."""
        self.model.eval()
        self._dev_sums.zero_()
        for together in zip_longest(*(member.dev_shares() for member in members)):
            self._take([share for share in together if share is not None], learning=False)

        def note(member: Member) -> None:
            sums = self.processes.sum(self._dev_sums[:, member.slots].clone())
            started = time.monotonic()
            facts = member.evaluate(sums)
            if member.scores is not None:
                self._scoring += time.monotonic() - started
            self.report(member, facts)

        for member in members:
            self._guarded(member, note)

    # Passes -------------------------------------------------------------------------------

    def _take(self, shares: Sequence[Share], *, learning: bool) -> None:
        """Some members' records, in as few passes as lengths and memory allow."""
        for group in self._groups(shares):
            self._pass_or_halves(group, learning)

    def _groups(self, shares: Sequence[Share]) -> Iterator[list[Share]]:
        """The shares of a pass each, the longest records first."""
        group: list[Share] = []
        rows = width = 0
        for share in sorted(shares, key=lambda share: -share.width):
            more = rows + share.rows
            near = share.width * self.slack >= width or more * width <= self.cheap
            if group and not (near and more * width <= self.tokens):
                yield group
                group, more = [], share.rows
            if not group:
                width = share.width
            rows = more
            group.append(replace(share, width=width))
        if group:
            yield group

    def _pass_or_halves(self, shares: list[Share], learning: bool) -> None:
        """A pass, or two of half its members where it finds no memory."""
        try:
            self._pass(shares, learning)
        except torch.OutOfMemoryError as error:
            for share in shares:
                share.member.adapter.gate.zero_grad()  # what the pass may have left
            if len(shares) == 1:
                raise TrainingError(
                    "there is not enough memory for one batch: lower batch_size (and raise "
                    "accumulation), or take gradient_checkpointing."
                ) from error
            self.tokens = max(1, sum(share.rows for share in shares) * shares[0].width // 2)
            middle = len(shares) // 2
            self._pass_or_halves(shares[:middle], learning)
            self._pass_or_halves(shares[middle:], learning)

    def _pass(self, shares: Sequence[Share], learning: bool) -> None:
        shares = sorted(shares, key=lambda one: (self.banks.index(one.member.bank), one.member.row))
        batch = self._batch(shares)
        first = shares[0].member
        torch.manual_seed(first.settings.seed + first.step)  # of dropout in the backbone itself
        with follow(first.adapter.routing, self._route(shares, batch)):
            losses = self.loss(batch["input_ids"], batch["positions"], batch["targets"])
            weighted = losses * batch["weights"]
            if learning:
                weighted.sum().backward()
        values = torch.stack([losses.detach(), torch.ones_like(losses)]).to(self._sums.dtype)
        (self._sums if learning else self._dev_sums).index_add_(1, batch["slots"], values)
        if learning:
            # Not sooner: a pass that finds no memory is taken again, and must leave nothing.
            own = weighted.detach().to(self._step_losses.dtype)
            self._step_losses.index_add_(0, batch["members"], own)
            for share in shares:
                share.member.collect()

    def _batch(self, shares: Sequence[Share]) -> dict[str, Tensor]:
        """The rows of all shares, one after another, on the device."""
        columns: dict[str, list[Tensor]] = {}
        rows = 0
        for share in shares:
            # A process without a record of its own takes part, since all gather the weights.
            items = share.items or share.member.train[:1]
            own = share.member.collator(items, share.width)
            targets = slice(None) if share.items else slice(0)
            first = torch.arange(share.first, share.first + len(items))
            settings = share.member.settings
            pieces = {
                "input_ids": own["input_ids"],
                "tasks": own["tasks"],
                "seeds": (settings.seed * 0x9E3779B1 + share.member.step * 0x85EBCA6B + first)
                & 0x7FFFFFFF,
                "positions": own["positions"][targets] + rows * share.width,
                "targets": own["targets"][targets],
                "slots": own["target_tasks"][targets] + share.member.slots.start,
                "members": torch.full_like(own["targets"][targets], share.member.place),
                "weights": own["weights"][targets] / share.weight,
            }
            for name, piece in pieces.items():
                columns.setdefault(name, []).append(piece)
            rows += len(items)
        device = self.processes.device
        joined = {name: torch.cat(pieces) for name, pieces in columns.items()}
        if device.type == "cuda":
            joined = {name: piece.pin_memory() for name, piece in joined.items()}
        return {name: piece.to(device, non_blocking=True) for name, piece in joined.items()}

    def _route(self, shares: Sequence[Share], batch: dict[str, Tensor]) -> Route:
        """What each layer does: members that stand one after another in a bank share a product."""
        experts: dict[ExpertLinear, list[LayerExperts]] = {}
        row = start = 0
        while start < len(shares):
            first, count = shares[start].member, shares[start].rows
            end = start + 1
            while (
                end < len(shares)
                and shares[end].member.bank is first.bank
                and shares[end].member.row == first.row + end - start
                and shares[end].rows == count
            ):
                end += 1
            adapters = slice(first.row, first.row + end - start)
            rows = slice(row, row + count * (end - start))
            tasks = batch["tasks"][rows].split(count)
            for layer, one in first.bank.parts(adapters, row, tasks, batch["seeds"][rows]):
                experts.setdefault(layer, []).append(one)
            row, start = rows.stop, end
        whole = slice(0, row)
        return Route(
            {
                layer: tuple(replace(one, rows=None) if one.rows == whole else one for one in some)
                for layer, some in experts.items()
            }
        )

    # Checkpoints --------------------------------------------------------------------------

    def _cut_is_due(self, evaluated: Sequence[Member], active: Sequence[Member]) -> bool:
        """Whether all write a checkpoint: a run writes one after each dev loss.

        Where the dev losses of many fall on different rounds, all would write all the time.
        """
        if all(member in evaluated for member in active):
            return True
        return self._cut_seconds <= _CUT_SHARE * (time.monotonic() - self._last_cut)

    def _write_checkpoints(self, members: Sequence[Member]) -> None:
        started = time.monotonic()
        for member in members:
            self._guarded(member, lambda one: one.write_checkpoint((self.name, self.round)))
        self._last_cut = time.monotonic()
        self._cut_seconds = self._last_cut - started


def resume(members: Sequence[Member], name: str) -> int:
    """Restore members from their checkpoints; returns the round at which these were written.

    The newest ones that were written in one round count, if these members wrote them together: what
    one of them did since, up to its end, is done again with the same members. Else each member's
    newest counts. What was logged after its checkpoint is dropped.
    """
    stored = [
        [(path, read_state(path)) for path in checkpoints(member.run.folder / "checkpoints")]
        for member in members
    ]
    written = [{s["cut"][1] for _, s in own if s["cut"][0] == name} for own in stored]
    for cuts, own in zip(written, stored, strict=True):
        if len(own) == len(cuts) < 2:  # no checkpoint was removed yet: the start counts, too
            cuts.add(0)
    # At any round after its end a member has nothing to do.
    ends = [own[0][1]["cut"][1] if own and own[0][1]["ended"] else math.inf for own in stored]
    common = max(
        (
            cut
            for cut in set().union(*written)
            if all(cut in own or cut >= end for own, end in zip(written, ends, strict=True))
        ),
        default=None,
    )
    latest = 0
    for member, own, end in zip(members, stored, ends, strict=True):
        chosen = next(iter(own), None)
        if common is not None and common < end:
            chosen = next((one for one in own if one[1]["cut"] == [name, common]), None)
        member.restore(chosen and chosen[0])
        latest = max(latest, chosen[1]["cut"][1] if chosen else 0)
    return latest


def _tokens(model: PreTrainedModel, device: torch.device) -> int:
    """Padded tokens of a pass that memory has room for, by what a layer keeps for its gradient."""
    free = free_memory(device)
    if device.type != "cuda" or free is None:
        return PASS_TOKENS
    config = model.config.get_text_config()
    kept = 16 * config.hidden_size + 6 * getattr(config, "intermediate_size", config.hidden_size)
    return max(PASS_TOKENS, int(0.6 * free / (kept * config.num_hidden_layers * 2)))
