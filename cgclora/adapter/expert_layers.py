"""The expert layers of a model: put in, found, counted, and unfolded again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cgclora.layer import ExpertLinear, Routing
from cgclora.models.backbone import Backbone

GATES = "task_gates"
"""The name of the module that holds the gates of a model's adapters."""


def initial_A(  # noqa: N802 - the matrix of the formula
    ranks: int, inner: int, generator: torch.Generator
) -> Tensor:
    """A as it starts, [ranks, in]: uniform as in LoRA's code."""
    A = torch.empty(ranks, inner)
    return nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator) if ranks else A


def frozen_parameters(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """The backbone's own parameters: all but those of adapters that are attached already."""
    for name, parameter in model.named_parameters():
        if not any(f"{table}." in name for table in (*ExpertLinear.adapter_parameter_names, GATES)):
            yield parameter


def backbone_parameters(model: PreTrainedModel) -> int:
    """Number of the backbone's own parameters, adapters aside."""
    return sum(parameter.numel() for parameter in frozen_parameters(model))


def folded_in(model: PreTrainedModel) -> tuple[str, str] | None:
    """Name of the adapter and of its task that are folded into a backbone, if any."""
    if not hasattr(model, GATES):  # asked at every token: no walk through a bare backbone
        return None
    return routing_of(model).folded


def unfold_all(model: PreTrainedModel, routing: Routing) -> None:
    """Put all frozen weights back, whichever adapter folded a task into them."""
    for module in model.modules():
        if isinstance(module, ExpertLinear):
            module.unfold()
    routing.folded = None


def routing_of(model: PreTrainedModel) -> Routing:
    """What the expert layers of a model share; new where it has none."""
    for module in model.modules():
        if isinstance(module, ExpertLinear):
            return module.routing
    return Routing()


def wrapped(model: PreTrainedModel, path: str, routing: Routing) -> ExpertLinear:
    """The expert layer at a path, put there if no earlier adapter did."""
    module = model.get_submodule(path)
    if not isinstance(module, ExpertLinear):
        module = ExpertLinear(cast(nn.Linear, module), routing).train(module.training)
        model.set_submodule(path, module)
    return module


def model_and_lock(
    backbone: Backbone | PreTrainedModel,
) -> tuple[PreTrainedModel, AbstractContextManager[Any]]:
    """A backbone's model, and what is held while it runs."""
    if isinstance(backbone, Backbone):
        return backbone.model, backbone.lock
    return backbone, nullcontext()
