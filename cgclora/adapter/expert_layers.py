"""The expert layers of a model: insertion, lookup and folding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from cgclora.layer import ExpertLinear, LayerExperts, Route, Routing, is_diagonal
from cgclora.models.backbone import Backbone

GATES = "task_gates"
"""The name of the module that holds the gates of a model's adapters."""


def initial_A(  # noqa: N802 - the matrix of the formula
    ranks: int, inner: int, generator: torch.Generator
) -> Tensor:
    """The initial A [ranks, in], uniform as in the LoRA reference code."""
    A = torch.empty(ranks, inner)
    return nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator) if ranks else A


def frozen_parameters(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """The backbone's parameters without those of attached adapters."""
    for name, parameter in model.named_parameters():
        if not any(f"{table}." in name for table in (*ExpertLinear.adapter_parameter_names, GATES)):
            yield parameter


def backbone_parameters(model: PreTrainedModel) -> int:
    """Number of the backbone's parameters without those of attached adapters."""
    return sum(parameter.numel() for parameter in frozen_parameters(model))


def folded_in(model: PreTrainedModel) -> tuple[str, str] | None:
    """Names of the adapter and of the task that is folded into a backbone, if any."""
    if not hasattr(model, GATES):  # checked per token: avoid searching a bare backbone
        return None
    return routing_of(model).folded


def stacked(experts: Sequence[LayerExperts]) -> Tensor:
    """The weights [batch, 1 or r, R] of experts whose A and whose B are put one above the other."""
    diagonal = [is_diagonal(one.weights, one.A.shape[-2]) for one in experts]
    if all(diagonal):
        return torch.cat([one.weights for one in experts], dim=-1)
    blocks = [
        one.weights.diag_embed().squeeze(1) if alone else one.weights
        for one, alone in zip(experts, diagonal, strict=True)
    ]
    ends = [*accumulate(block.shape[-1] for block in blocks)]
    return torch.cat(
        [
            F.pad(block, (end - block.shape[-1], ends[-1] - end))
            for block, end in zip(blocks, ends, strict=True)
        ],
        dim=-2,
    )


@contextmanager
def follow(routing: Routing, route: Route) -> Iterator[None]:
    """Apply a route to the layers that share this routing, within this context."""
    previous, routing.route = routing.route, route
    try:
        yield
    finally:
        routing.route = previous


@torch.no_grad()
def folded_weight(layer: ExpertLinear, name: str, weights: Tensor) -> Tensor:
    """Frozen weight plus `ExpertLinear.update`, [out, in], in the frozen weight's dtype."""
    frozen = layer.base_layer.weight
    return (frozen.float() + layer.update(name, weights)).to(frozen.dtype)


def fold_layer(layer: ExpertLinear, name: str, weights: Tensor) -> None:
    """Replace the frozen weight, which is kept unchanged, by `folded_weight`."""
    unfold_layer(layer)
    folded = nn.Parameter(folded_weight(layer, name, weights), requires_grad=False)
    layer.frozen_weight = cast(nn.Parameter, layer.base_layer.weight)
    layer.base_layer.weight = folded


def unfold_layer(layer: ExpertLinear) -> None:
    """Restore the frozen weight, bit for bit."""
    if layer.frozen_weight is not None:
        layer.base_layer.weight = layer.frozen_weight
        layer.frozen_weight = None


def unfold_all(model: PreTrainedModel, routing: Routing) -> None:
    """Restore all frozen weights, whichever adapter folded a task into them."""
    for module in model.modules():
        if isinstance(module, ExpertLinear):
            unfold_layer(module)
    routing.folded = None


def routing_of(model: PreTrainedModel) -> Routing:
    """The routing that a model's expert layers share; a new one if it has none."""
    for module in model.modules():
        if isinstance(module, ExpertLinear):
            return module.routing
    return Routing()


def wrapped(model: PreTrainedModel, path: str, routing: Routing) -> ExpertLinear:
    """The expert layer at a path, inserted if there is none yet."""
    module = model.get_submodule(path)
    if not isinstance(module, ExpertLinear):
        module = ExpertLinear(cast(nn.Linear, module), routing).train(module.training)
        model.set_submodule(path, module)
    return module


def model_and_lock(
    backbone: Backbone | PreTrainedModel,
) -> tuple[PreTrainedModel, AbstractContextManager[Any]]:
    """A backbone's model, and the lock that is held while it runs."""
    if isinstance(backbone, Backbone):
        return backbone.model, backbone.lock
    return backbone, nullcontext()
