"""The routes of a batch: which experts each row uses, with which weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self, cast

import torch
from torch import Tensor

from cgclora.config import AdapterConfig
from cgclora.layer import ExpertLinear, LayerExperts, Route, TaskGate, select
from cgclora.models.dropout import RowDropout, logistic_noise
from cgclora.storage.adapter_dir import AdapterError


class Row(Protocol):
    """A row of a batch.

    Attributes:
        task: Its experts answer; None is the bare backbone.
        gates: Weights that replace the gate's, [E] or [L, E].
    """

    @property
    def task(self) -> str | None: ...  # noqa: D102 - see above
    @property
    def gates(self) -> Tensor | None: ...  # noqa: D102


class TaskRow(NamedTuple):
    """A `Row` as plain values."""

    task: str | None
    gates: Tensor | None = None


class PlannedExperts:
    """An adapter's experts, and routes through them.

    Args:
        config: Of the adapter.
        name: Of the adapter.
        layers: The adapted layers by their path in the unadapted backbone, in gate order.
        gate: The task gate.
    """

    def __init__(
        self, config: AdapterConfig, name: str, layers: dict[str, ExpertLinear], gate: TaskGate
    ) -> None:
        self.config = config
        self.name = name
        self.layers = layers
        self.gate = gate
        self._detached: dict[ExpertLinear, tuple[Tensor, Tensor]] = {}

    def for_inference(self) -> Self:
        """Convert the experts, in place, to the backbone's dtype and a layout for fast selection.

        Answers stay the same. Do not train afterwards: bf16 loses small updates.
        """
        for layer in self.layers.values():
            A, B = layer.expert_A[self.name], layer.expert_B[self.name]
            dtype = layer.base_layer.weight.dtype
            if not dtype.is_floating_point:  # quantised
                dtype = A.dtype
            A.data = A.requires_grad_(False).to(dtype)
            B.data = B.requires_grad_(False).to(dtype).t().contiguous().t()
        return self

    @property
    def device(self) -> torch.device:
        """The gate's device."""
        return self.gate.usable.device

    def gates(self) -> Tensor:
        """The gate weights of all layers and tasks, [L, T, E], detached."""
        with torch.no_grad():
            return cast(Tensor, self.gate().clone())

    def gates_of(self, rows: Sequence[Row]) -> Tensor:
        """The gates of a batch's rows, [L, batch, E]; zero for a row without a task.

        Raises:
            ConfigError: A task is unknown.
            AdapterError: Gates have a wrong shape, or a value that is not finite.
        """
        weights = self.gate(self._ids(rows))
        layers, _, experts = weights.shape
        if any(row.task is None or row.gates is not None for row in rows):
            weights = weights.clone()  # a gate for all layers is an expanded view
        for i, row in enumerate(rows):
            if row.gates is not None:
                if row.gates.shape not in ((experts,), (layers, experts)):
                    raise AdapterError(
                        f"gates has shape {list(row.gates.shape)}, expected [{experts}] or "
                        f"[{layers}, {experts}] (layers, experts)."
                    )
                if not torch.isfinite(row.gates).all():
                    raise AdapterError("gates has a value that is not a finite number.")
                weights[:, i] = row.gates.to(weights)
            if row.task is None:
                weights[:, i] = 0
        return cast(Tensor, weights)

    def _ids(self, rows: Sequence[Row]) -> Tensor:
        """Task ids of rows, [batch]; 0 for a row without a task, whose gates are zero."""
        ids = [0 if row.task is None else self.config.task_index(row.task) for row in rows]
        return torch.tensor(ids, device=self.device)

    def plan(self, tasks: Sequence[str | None] | Tensor, *, gates: Tensor | None = None) -> Route:
        """The route of a batch, for any number of uses of `Adapter.route`.

        Args:
            tasks: One task name per row, None for the bare backbone; or a tensor of task ids
                [batch].
            gates: Weights that replace the gate's: [batch, E], or [L, batch, E].

        Raises:
            ConfigError: A task is unknown.
            AdapterError: `gates` has a wrong shape.
        """
        if isinstance(tasks, Tensor):
            if gates is None:
                return self._route(*self.weights_of_rows(tasks, self._seeds(len(tasks))))
            tasks = [self.config.tasks[task] for task in tasks.tolist()]
        row_gates: Sequence[Tensor | None] = [None] * len(tasks)
        if gates is not None:
            shape = (len(self.layers), len(tasks), self.config.num_experts)
            if gates.shape not in (shape, shape[1:]):
                raise AdapterError(
                    f"gates has shape {list(gates.shape)}, expected {list(shape[1:])} or "
                    f"{list(shape)} (layers, batch, experts)."
                )
            row_gates = gates.expand(shape).unbind(1)
        return self.plan_rows([TaskRow(*row) for row in zip(tasks, row_gates, strict=True)])

    def plan_rows(self, rows: Sequence[Row]) -> Route:
        """The route of a batch, through the experts that any row uses.

        Raises:
            ConfigError: A task is unknown.
            AdapterError: Gates have a wrong shape.
        """
        gates, ids = self.gates_of(rows), self._ids(rows)
        used = gates.ne(0).flatten(0, 1).any(dim=0).nonzero().squeeze(1)
        if len(used) == gates.shape[-1]:
            return self._route(self.gate.rank_weights(gates, ids), None)
        weights = self.gate.rank_weights(gates[..., used], ids)
        return self._route(weights, self._ranks_of(used))

    def _route(self, weights: Tensor, ranks: Tensor | None) -> Route:
        """The route through ranks [R] with weights [L, batch, 1 or k, R], see `weights_of_rows`."""
        if not weights.shape[-1]:
            return Route({})
        ranks_of_A = None if self.config.shared_A else ranks
        experts: dict[ExpertLinear, tuple[LayerExperts, ...]] = {}
        for layer, row in zip(self.layers.values(), weights, strict=True):
            A, B = self._tables(layer)
            probability = self.config.dropout if layer.training else 0.0
            dropout = RowDropout.draw(probability, len(row), row.device)
            experts[layer] = (
                LayerExperts(select(A, ranks_of_A), select(B.t(), ranks), row, dropout=dropout),
            )
        return Route(experts)

    def _seeds(self, rows: int) -> Tensor | None:
        """Seeds of the gate's noise from torch's generator; None unless layers are training."""
        if not next(iter(self.layers.values())).training or self.config.gate != "skills":
            return None
        return torch.randint(2**31, (rows,), dtype=torch.int32, device=self.device)

    def _tables(self, layer: ExpertLinear) -> tuple[Tensor, Tensor]:
        """A [E*k or k, in], B [out, E*k]; running batches keep those of a detached adapter."""
        if layer in self._detached:
            return self._detached[layer]
        return layer.expert_A[self.name], layer.expert_B[self.name]

    def rank_weights(self, task: str) -> Tensor:
        """The weights of a task in fp32, [L, 1 or k, E*k], see `TaskGate.rank_weights`.

        Raises:
            ConfigError: The task is unknown.
        """
        rows = [TaskRow(task)]
        with torch.no_grad():
            return self.gate.rank_weights(self.gates_of(rows), self._ids(rows))[:, 0].float()

    def _ranks_of(self, experts: Tensor) -> Tensor:
        """Indices of the ranks of experts [N], [N*k]."""
        rank = self.config.expert_rank
        return (experts[:, None] * rank + torch.arange(rank, device=experts.device)).flatten()

    def selects_experts(self, rows: int) -> bool:
        """Whether a training batch of this many rows uses its own tasks' experts only."""
        return 2 * (self.config.common + rows * self.config.specific) <= self.config.num_experts

    def weights_of_rows(
        self, tasks: Tensor, seeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The weights of a training batch and the ranks' indices.

        If rows are few compared with tasks, only their experts are used. Each row then adds its
        task's experts, repeated where rows share a task, so that their number does not depend on
        the ids: reading these would synchronise with a GPU.

        Args:
            tasks: Ids [batch].
            seeds: Of the noise that Poly samples skills with, int32 [batch]; None adds none.

        Returns:
            [L, batch, 1 or k, R], see `TaskGate.rank_weights`, and the indices of these ranks, [R];
            None is all E*k of them in order.
        """
        tasks = tasks.to(self.device)
        noise = None
        if seeds is not None and self.config.gate == "skills":
            noise = logistic_noise(seeds, *self.gate.logits.shape[::2])
        gates = cast(Tensor, self.gate(tasks, noise))
        if not self.selects_experts(len(tasks)):
            return self.gate.rank_weights(gates, tasks), None
        common = self.config.common
        specific = self.gate.usable[tasks, common:]  # [batch, S]
        row_gates = gates.gather(-1, specific.expand(len(gates), -1, -1)).unsqueeze(2)
        diagonal = torch.eye(len(tasks), device=tasks.device).unsqueeze(-1)
        gates = torch.cat([gates[..., :common], (row_gates * diagonal).flatten(2)], dim=-1)
        experts = torch.cat([torch.arange(common, device=tasks.device), specific.flatten()])
        return self.gate.rank_weights(gates, tasks), self._ranks_of(experts)
