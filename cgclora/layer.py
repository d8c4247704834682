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

LoRA is one expert for all tasks with weight 1, MOE-LoRA has only common experts: other values of
`AdapterConfig`, the same layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgclora.config import AdapterConfig
from cgclora.models.dropout import kept_features


class TaskGate(nn.Module):
    """Task ids in, expert weights out, for all adapted layers at once.

    The logits of layer l for task t are `projection[l] @ embedding[t]`, without bias, as in MOELoRA
    (arXiv 2310.18339). `projection` starts at zero, so that every gate starts uniform (our choice).
    With `config.gate` `uniform` or `none` there is nothing to learn and the weights are constant.

    Args:
        config: Tasks, experts, gate kind and scope.
        num_layers: Number of adapted layers (L); with `gate_scope` `model` they share one gate.
    """

    own: Tensor

    def __init__(self, config: AdapterConfig, num_layers: int) -> None:
        super().__init__()
        self.kind = config.gate
        self.num_layers = num_layers
        self.common = config.common
        self.specific = config.specific
        self.register_buffer("own", torch.eye(len(config.tasks)), persistent=False)
        if self.kind == "task":
            gates = num_layers if config.gate_scope == "layer" else 1
            self.embedding = nn.Parameter(torch.randn(len(config.tasks), config.embedding_size))
            self.projection = nn.Parameter(
                torch.zeros(gates, config.num_experts, config.embedding_size)
            )

    def forward(self, tasks: Tensor | None = None) -> Tensor:
        """The gates of all layers, [L, T, E]; rows sum to 1 unless the kind is `none`.

        A task's weights come from sums of its own: more tasks or fewer leave them as they are, bit
        for bit.

        Args:
            tasks: Ids [N] of the wanted tasks, for [L, N, E]; None takes all.
        """
        own = _some(self.own, tasks, 0)
        if self.kind == "task":
            weights = self._logits(tasks).softmax(dim=-1)
        else:
            usable = self.common + self.specific
            weights = own.new_ones(1, len(own), usable)
            if self.kind == "uniform":
                weights = weights / usable
        common, specific = weights.split([self.common, self.specific], dim=-1)
        apart = specific.unsqueeze(2) * own.unsqueeze(-1)  # zero for other tasks' experts
        weights = torch.cat([common, apart.flatten(-2)], dim=-1)
        return weights.expand(self.num_layers, -1, -1)

    def _logits(self, tasks: Tensor | None) -> Tensor:
        """One for each expert that a task may use, [L, N, C+S]: common ones first, then its own."""
        embedding = _some(self.embedding, tasks, 0).unsqueeze(1)
        common = self.projection[:, None, : self.common]
        specific = self.projection[:, self.common :].unflatten(1, (len(self.own), self.specific))
        tables = (common, _some(specific, tasks, 1))
        return torch.cat([(table * embedding).sum(-1) for table in tables], dim=-1)


def _some(table: Tensor, rows: Tensor | None, dim: int) -> Tensor:
    """The wanted rows of a table; unlike `[...]`, its gradient is summed up in a fixed order."""
    return table if rows is None else table.index_select(dim, rows)


def initial_A(  # noqa: N802 - the matrix of the formula
    ranks: int, inner: int, generator: torch.Generator | None = None
) -> Tensor:
    """A as it starts, [ranks, in]: uniform as in LoRA's code."""
    A = torch.empty(ranks, inner)
    return nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator) if ranks else A


@dataclass(frozen=True)
class Part:
    """What an expert layer does for a batch: it adds (A x * weights) B to its output.

    Attributes:
        A: [R, in]; or of all layers that read the same x, one above the other; or [M, R, in] of M
            adapters, each with an equal share of consecutive rows.
        B: [R, out], or [M, R, out].
        weights: Scale times gate, a value a rank, [batch, 1, R].
        columns: Where in the shared A x this layer's R values stand; None if A is its own.
        rows: Which rows of the batch these are; None is all.
        dropout: Probability of dropping an input feature while training.
        seeds: Of what is dropped, a number a row, int32 [batch]; None where nothing is.
    """

    A: Tensor
    B: Tensor
    weights: Tensor
    columns: slice | None = None
    rows: slice | None = None
    dropout: float = 0.0
    seeds: Tensor | None = None

    def keep(self, rows: Tensor) -> Part:
        """The same for some rows of the batch."""
        return replace(self, weights=self.weights[rows])

    def add(self, x: Tensor, y: Tensor, routing: Routing) -> None:
        """Add to y [batch, ..., out] what the experts make of x [batch, ..., in].

        Whatever lies between batch and features, tokens or tokens and heads, shares a row's
        weights.
        """
        if self.rows is not None:
            x, y = x[self.rows], y[self.rows]
        # Master weights may be fp32 beside a bf16 backbone: cheaper to cast than x.
        A, B = self.A.to(x.dtype), self.B.to(y.dtype)
        batch, _, ranks = self.weights.shape
        weights = self.weights.view(batch, *[1] * (x.dim() - 2), ranks)
        if self.columns is not None:
            z = routing.product(x, A)[..., self.columns]
        else:
            if self.seeds is not None:
                x = x * kept_features(self.seeds, x, self.dropout)
            A = A.unsqueeze(0) if A.dim() == 2 else A
            z = torch.bmm(x.reshape(len(A), -1, x.shape[-1]), A.mT).view(*x.shape[:-1], -1)
        z = (z * weights.to(z.dtype)).to(y.dtype)
        # In place: y is nobody else's yet, and a sum of its own would move more than the products.
        B = B.unsqueeze(0) if B.dim() == 2 else B
        members, rank, outer = B.shape
        z = z.reshape(members, -1, rank)
        if y.is_contiguous():
            y.view(members, -1, outer).baddbmm_(z, B)
        else:
            y.add_(torch.bmm(z, B).view(y.shape))


@dataclass(frozen=True)
class Route:
    """How a batch uses one adapter's experts where they are: the route to train on.

    Attributes:
        adapter: The adapter's name.
        weights: For each adapted layer a [batch, 1, R] tensor: scale times gate, a value a rank.
        ranks: Which of the adapter's E*k ranks these are, [R]; None is all of them in order.
    """

    adapter: str
    weights: tuple[Tensor, ...]
    ranks: Tensor | None = None

    def part(self, layer: ExpertLinear) -> Part | None:
        """What a layer does; None if it has no experts of this adapter."""
        name = self.adapter
        row = layer.gate_row.get(name)
        if row is None:
            return None
        A = _some(layer.expert_A[name], self.ranks, 0)
        B = _some(layer.expert_B[name], self.ranks, 1).t()
        weights, dropout, seeds = self.weights[row], layer.dropout[name], None
        if dropout and layer.training:
            seeds = torch.randint(2**31, (len(weights),), dtype=torch.int32, device=weights.device)
        return Part(A, B, weights, dropout=dropout, seeds=seeds)

    def keep(self, rows: Tensor) -> Route:
        """The route of some rows of the batch."""
        return replace(self, weights=tuple(weights[rows] for weights in self.weights))


@dataclass(frozen=True)
class SharedRoute:
    """How a training batch uses the experts of several adapters, each on rows of its own.

    Attributes:
        parts: What each layer does, a part for each run of adapters of one shape.
    """

    parts: Mapping[ExpertLinear, tuple[Part, ...]]

    def part(self, layer: ExpertLinear) -> tuple[Part, ...]:
        """What a layer does."""
        return self.parts.get(layer, ())


@dataclass(frozen=True)
class GatheredRoute:
    """How a batch uses the experts that were gathered for it, of one adapter or of several.

    It holds all that it needs: adapters may come and go while a batch is on its way.

    Attributes:
        parts: What each layer does; a weight [out, in] instead of the frozen one is a folded task.
    """

    parts: Mapping[ExpertLinear, Part | Tensor]

    def part(self, layer: ExpertLinear) -> Part | Tensor | None:
        """What a layer does; None leaves it as it is."""
        return self.parts.get(layer)

    def keep(self, rows: Tensor) -> GatheredRoute:
        """The route of some rows of the batch."""
        return GatheredRoute(
            {
                layer: part if isinstance(part, Tensor) else part.keep(rows)
                for layer, part in self.parts.items()
            }
        )


class Routing:
    """What all expert layers of a backbone share.

    Attributes:
        route: The current batch's route; None outside of one.
        folded: Name of the adapter and of its task that are folded into the weights, if any.
    """

    def __init__(self) -> None:
        self.route: Route | SharedRoute | GatheredRoute | None = None
        self.folded: tuple[str, str] | None = None
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def product(self, x: Tensor, A: Tensor) -> Tensor:
        """A x for layers that read the same x one after another: computed for the first of them."""
        if self._last is None or self._last[0] is not x or self._last[1] is not A:
            self._last = (x, A, F.linear(x, A))
        return self._last[2]

    @contextmanager
    def within(self, route: Route | SharedRoute | GatheredRoute) -> Iterator[None]:
        """Within this context the layers follow a route."""
        previous = self.route
        self.route = route
        try:
            yield
        finally:
            self.route = previous
            self._last = None


class ExpertLinear(nn.Module):
    """A frozen linear layer with the experts of any number of adapters beside it.

    Args:
        base_layer: The linear layer to adapt; neither copied nor changed.
        routing: Shared by all expert layers of the backbone. Without a route the layer is the
            frozen one.

    Attributes:
        frozen_weight: The weight that a folded one stands in for; None while nothing is folded.
    """

    adapter_parameter_names = ("expert_A", "expert_B")
    frozen_weight: nn.Parameter | None

    def __init__(self, base_layer: nn.Linear, routing: Routing) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.routing = routing
        self.expert_A = nn.ParameterDict()
        self.expert_B = nn.ParameterDict()
        self.dropout: dict[str, float] = {}
        self.gate_row: dict[str, int] = {}
        self.register_parameter("frozen_weight", None)

    @property
    def weight(self) -> Tensor:
        """The frozen weight, or the folded one: code of backbones looks up its dtype or device."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias, for the same reason."""
        return self.base_layer.bias

    def add(self, name: str, config: AdapterConfig, gate_row: int) -> None:
        """Add an adapter's experts: A uniform as in LoRA's code, B zero, so nothing changes yet.

        Args:
            name: The adapter's name.
            config: Its sizes.
            gate_row: This layer's place among the adapter's layers.
        """
        inner, outer = self.base_layer.in_features, self.base_layer.out_features
        device = self.base_layer.weight.device
        self.expert_A[name] = nn.Parameter(initial_A(config.total_rank, inner).to(device))
        self.expert_B[name] = nn.Parameter(torch.zeros(outer, config.total_rank, device=device))
        self.dropout[name] = config.dropout
        self.gate_row[name] = gate_row

    def remove(self, name: str) -> None:
        """Forget an adapter's experts."""
        for table in (self.expert_A, self.expert_B, self.dropout, self.gate_row):
            del table[name]

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for x [batch, ..., in]: [batch, ..., out].

        Raises:
            ValueError: The batch has another number of rows than the current route has tasks.
        """
        route = self.routing.route
        found = None if route is None else route.part(self)
        if isinstance(found, Tensor):
            return F.linear(x, found, self.base_layer.bias)
        y = cast(Tensor, self.base_layer(x))
        for part in found if isinstance(found, tuple) else (found,):
            if part is None:
                continue
            if part.rows is None and len(x) != len(part.weights):
                raise ValueError(
                    f"the batch has {len(x)} rows but the route names {len(part.weights)} tasks: "
                    "give one task a row, batch first."
                )
            part.add(x, y, self.routing)
        return y

    def update(self, name: str, weights: Tensor) -> Tensor:
        """B diag(weights) A in fp32, [out, in]: what the experts add to the frozen weight.

        Args:
            name: The adapter's name.
            weights: Scale times gate, a value a rank, [E*k].
        """
        A, B = self.expert_A[name].float(), self.expert_B[name].float()
        return cast(Tensor, (B * weights.float()) @ A)

    @torch.no_grad()
    def folded(self, name: str, weights: Tensor) -> Tensor:
        """Frozen weight plus update, [out, in], in the frozen one's dtype; weights as `update`."""
        frozen = self.base_layer.weight
        return (frozen.float() + self.update(name, weights)).to(frozen.dtype)

    def fold(self, name: str, weights: Tensor) -> None:
        """Put frozen weight plus update in the frozen weight's place, and keep the frozen one.

        The frozen tensor is set aside, not written to, so that `unfold` is exact.
        """
        self.unfold()
        folded = self.folded(name, weights)
        self.frozen_weight = cast(nn.Parameter, self.base_layer.weight)
        self.base_layer.weight = nn.Parameter(folded, requires_grad=False)

    def unfold(self) -> None:
        """Put the frozen weight back, bit for bit."""
        if self.frozen_weight is not None:
            self.base_layer.weight = self.frozen_weight
            self.frozen_weight = None
