"""The method: an expert layer beside every adapted linear layer, and a gate that reads the task.

CGC-LoRA (arXiv 2402.01684) adds to a frozen linear layer W0 a sum of low-rank experts:

    h = W0 x + s * sum_e g[t, e] * B_e (A_e x)

`g[t]` is a softmax over the experts that task t may use (the common ones and its own) and zero for
all others. It depends on the task alone, never on the token. Two things follow:

* All A_e lie in one matrix A [E*k, in], all B_e in one matrix B [out, E*k], so a batch of any tasks
  costs two products and one row-wise scaling, however many experts there are:

      z = A x                        [batch, tokens, E*k]
      h = W0 x + B (z * w)           w = s * g[t], each weight repeated k times

* For one task, B diag(w) A is an ordinary matrix: it folds into W0, or leaves as a plain LoRA.

LoRA is one expert for all tasks with weight 1, MOE-LoRA has only common experts, C-Poly another
gate: other values of `AdapterConfig`, the same layer. In MTL-LoRA (arXiv 2410.09437) all experts
read one A [k, in], which each task turns by a matrix M_t [k, k] of its own:

    h = W0 x + s * sum_e g[t, e] * B_e M_t A x

The weights w of a row are then a matrix: z @ w with w = s * [g[t, 1] M_t^T, ..., g[t, E] M_t^T].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgclora.config import AdapterConfig

EPSILON = 1e-12
"""Added to the sum of a task's skills, as in PEFT."""


class TaskGate(nn.Module):
    """Task ids in, expert weights out, for all L adapted layers at once.

    The logits of layer l for task t are `projection[l] @ embedding[t]`, without bias, as in MOELoRA
    (arXiv 2310.18339). `projection` starts at zero, so that every gate starts uniform; at random
    where A is shared, since experts of equal weights would get equal gradients (our choices).
    The gate `skills` learns the logits [L, T, C] themselves, from zero, as Poly (arXiv 2202.13914).
    With `uniform` or `none` there is nothing to learn and the weights are constant.
    """

    usable: Tensor

    def __init__(
        self, config: AdapterConfig, num_layers: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.num_layers = num_layers
        experts = torch.tensor(config.access()).nonzero()[:, 1]  # [T * (C+S)], task after task
        self.register_buffer("usable", experts.view(len(config.tasks), -1), persistent=False)
        gates = num_layers if config.gate_scope == "layer" else 1
        if config.gate == "task":
            size = config.embedding_size
            self.embedding = nn.Parameter(torch.randn(len(config.tasks), size, generator=generator))
            start = torch.zeros(gates, config.num_experts, size)
            if config.shared_A:
                start.normal_(std=size**-0.5, generator=generator)
            self.projection = nn.Parameter(start)
        if config.gate == "skills":
            self.logits = nn.Parameter(torch.zeros(gates, len(config.tasks), config.common))
        if config.shared_A:  # M_t, at first the identity (our choice)
            same = torch.eye(config.expert_rank)
            self.turns = nn.Parameter(same.repeat(num_layers, len(config.tasks), 1, 1))

    def forward(self, tasks: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """The gates of all layers, [L, N, E]; rows sum to 1, of `skills` common and specific each.

        A task's weights come from sums over its own experts, so that other tasks which are added
        or removed leave them unchanged, bit for bit. `tasks` are ids [N]; None takes all. `noise`
        [L or 1, N, C] is added to the logits of `skills` while training.
        """
        usable = select(self.usable, tasks)
        if self.config.gate == "task":
            embedding = select(self.embedding, tasks).unsqueeze(1)
            projection = self.projection.index_select(1, usable.flatten())
            logits = (projection.unflatten(1, usable.shape) * embedding).sum(-1)
            weights = logits.softmax(dim=-1)  # [gates, N, C+S]
        elif self.config.gate == "skills":
            logits = select(self.logits, tasks, dim=1)
            skills = (logits if noise is None else logits + noise).sigmoid()
            skills = skills / (skills.sum(dim=-1, keepdim=True) + EPSILON)
            own = self.config.specific
            weights = torch.cat([skills, skills.new_ones(*skills.shape[:2], own) / max(own, 1)], -1)
        else:
            weights = torch.ones(1, *usable.shape, device=usable.device)
            if self.config.gate == "uniform":
                weights = weights / usable.shape[1]
        none = weights.new_zeros(*weights.shape[:2], self.config.num_experts)
        gates = none.scatter(-1, usable.expand_as(weights), weights)
        return cast(Tensor, gates.expand(self.num_layers, -1, -1))

    def rank_weights(self, gates: Tensor, tasks: Tensor | None = None) -> Tensor:
        """What `LayerExperts` takes as weights for gates [L, N, experts] of tasks [N].

        [L, N, 1, R], scale times gate; or [L, N, k, R], with the tasks' matrices.
        """
        weights = gates.repeat_interleave(self.config.expert_rank, dim=-1).unsqueeze(-2)
        if self.config.shared_A:
            turns = select(self.turns, tasks, dim=1).mT
            weights = weights * turns.repeat(1, 1, 1, gates.shape[-1])
        return self.config.scale * weights


@dataclass(frozen=True)
class LayerExperts:
    """The experts that a layer applies to the rows of a batch: it adds B (A x * weights)."""

    A: Tensor  # [r, in]; or [M, r, in] of M adapters with equal shares of consecutive rows
    B: Tensor  # [R, out], or [M, R, out]
    weights: Tensor  # of ranks: [batch, 1, R] where each has its own A, r = R; else [batch, r, R]
    rows: slice | None = None  # of the batch; None is all
    dropout: Callable[[Tensor], Tensor] | None = None  # factor of x, while training

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the experts' output for x [batch, ..., in] to y [batch, ..., out], in place.

        Raises:
            ValueError: The numbers of rows of the batch and of the route differ.
        """
        if self.rows is not None:
            x, y = x[self.rows], y[self.rows]
        elif len(x) != len(self.weights):
            raise ValueError(row_count(len(x), len(self.weights)))
        # Master weights may be fp32 beside a bf16 backbone: cheaper to cast than x.
        A, B, weights = self.A.to(x.dtype), self.B.to(y.dtype), self.weights.to(x.dtype)
        if self.dropout is not None:
            x = x * self.dropout(x)
        z = weighted(by_adapter(x, A) @ A.mT, weights)
        add_product(y, z.to(y.dtype), B)


@dataclass(frozen=True)
class Route:
    """How a batch uses the experts of one or several adapters, which may be detached meanwhile.

    Attributes:
        experts: The experts of each layer, or a weight [out, in] with a folded task that replaces
            the frozen one. Other layers are unchanged.
    """

    experts: Mapping[ExpertLinear, tuple[LayerExperts, ...] | Tensor]


@dataclass
class Routing:
    """The state that all expert layers of a backbone share."""

    route: Route | None = None  # of the current batch
    folded: tuple[str, str] | None = None  # adapter and task that are folded into the weights
    trainable: list[nn.Parameter] = field(default_factory=list)  # before any adapter was attached


class ExpertLinear(nn.Module):
    """A frozen linear layer with the experts of any number of adapters beside it.

    The linear layer is neither copied nor changed; without a route its output is unchanged.
    """

    adapter_parameter_names = ("expert_A", "expert_B")
    frozen_weight: nn.Parameter | None

    def __init__(self, base_layer: nn.Linear, routing: Routing) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.routing = routing
        self.expert_A = nn.ParameterDict()  # [E*k, in] by the adapter's name
        self.expert_B = nn.ParameterDict()  # [out, E*k]
        self.register_parameter("frozen_weight", None)  # while a folded one replaces it

    @property
    def weight(self) -> Tensor:
        """The frozen or folded weight: code of backbones reads its dtype and device."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias, for the same reason."""
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output [batch, ..., out] for x [batch, ..., in]; raises as `LayerExperts`."""
        route = self.routing.route
        experts = () if route is None else route.experts.get(self, ())
        if isinstance(experts, Tensor):
            return F.linear(x, experts, self.base_layer.bias)
        y = cast(Tensor, self.base_layer(x))
        if experts:
            y = y.clone(memory_format=torch.contiguous_format)  # hooks may keep the frozen output
        for one in experts:
            one.add(x, y)
        return y

    def update(self, name: str, weights: Tensor) -> Tensor:
        """What an adapter's experts add to the frozen weight, in fp32, [out, in].

        The weights are those of one task, see `TaskGate.rank_weights`, [1 or k, E*k].
        """
        A, B = self.expert_A[name].float(), self.expert_B[name].float()
        return cast(Tensor, folded_B(B, weights.float(), len(A)) @ A)


def is_diagonal(weights: Tensor, rank: int) -> bool:
    """Whether `LayerExperts.weights` are one of each rank, beside an A of this many rows."""
    return weights.shape[-2:] == (1, rank)


def weighted(z: Tensor, weights: Tensor) -> Tensor:
    """Products A x [..., r] of a batch's tokens under `LayerExperts.weights`, [..., R]."""
    rows = by_row(z, weights)
    mixed = rows * weights if is_diagonal(weights, z.shape[-1]) else rows @ weights
    return mixed.view(*z.shape[:-1], weights.shape[-1])


def by_row(z: Tensor, weights: Tensor) -> Tensor:
    """View z [..., n] of a batch's tokens as [batch, tokens, n]; a batch may be empty."""
    return z.view(len(weights), z.shape[:-1].numel() // max(len(weights), 1), z.shape[-1])


def folded_B(B: Tensor, weights: Tensor, rank: int) -> Tensor:  # noqa: N802 - the matrix
    """B [out, R] times one row's weights [1 or r, R], [out, r], beside an A of r rows."""
    return B * weights if is_diagonal(weights, rank) else B @ weights.mT


def row_count(rows: int, tasks: int) -> str:
    """Error message for a batch whose number of rows differs from its route's."""
    return f"the batch has {rows} rows but the route names {tasks} tasks: one task per row."


def select(table: Tensor, rows: Tensor | None, dim: int = 0) -> Tensor:
    """Rows of a table; unlike with `[...]`, the gradient is summed in a fixed order."""
    return table if rows is None else table.index_select(dim, rows)


def by_adapter(x: Tensor, table: Tensor) -> Tensor:
    """View x [batch, ..., n] for a table: [rows, n], or [M, rows, n] for M adapters."""
    return x.reshape(*table.shape[:-2], -1, x.shape[-1])


def add_product(y: Tensor, z: Tensor, table: Tensor) -> None:
    """Add z [rows, R] times a table [R, n] to y, in place, which is faster than a separate sum."""
    rows = by_adapter(y, table)
    (rows.addmm_ if table.dim() == 2 else rows.baddbmm_)(z, table)
