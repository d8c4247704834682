"""Which layers of a backbone an adapter stands beside, and whether it can.

Experts are weighted by row of the batch, so row i of a layer's input must be row i of the batch in
every pass. That holds in the layers of a text decoder but for a few kinds, which are left out by
type and not by what a pass shows, since the choice must be the same wherever an adapter is loaded,
and on a skeleton without weights. A small pass then checks the choice.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cgclora.layer import ExpertLinear
from cgclora.models.checkpoint import evaluating
from cgclora.models.families import is_known
from cgclora.models.lm_head import alike, text_decoder
from cgclora.storage.adapter_dir import AdapterError
from cgclora.storage.atomic_io import in_short

_READ_BY_KERNELS = ("x_proj", "dt_proj", "out_proj")
"""Layers of a Mamba mixer whose weights its fused kernels read, so that the layers never run."""

_FIRST = (5, 6, 5, 7, 8)
"""The first token of each row of a small pass; the rest count on."""


def linear_paths(model: PreTrainedModel, names: Sequence[str] | None = None) -> list[str]:
    """Paths of the linear layers to adapt; without names all of the text decoder that can be.

    Left out are the output head; whatever stands outside of the text decoder, or in it reads
    images, sound or an encoder's states; mixture-of-experts blocks with their routers and shared
    experts, which see tokens regrouped, without their rows; layers of a Mamba mixer that its
    kernels pass by; and layers that are applied in groups.

    Raises:
        AdapterError: A name fits no such layer, or there is none at all.
    """
    linear = [path for path, _ in _adaptable(model)]
    if names is None:
        if not linear:
            raise AdapterError(f"{type(model).__name__} has no linear layer to adapt.")
        return linear
    for name in names:
        if not any(_fits(path, name) for path in linear):
            present = sorted({path.rpartition(".")[2] for path in linear})
            left_out = any(_fits(path, name) for path in _linear(model))
            raise AdapterError(
                f"no linear layer is named {name!r}; there are {present}."
                if not left_out
                else f"layers named {name!r} cannot be adapted in {type(model).__name__}, since "
                f"they do not see the rows of a batch; there are {present}."
            )
    return [path for path in linear if any(_fits(path, name) for name in names)]


def saved_paths(
    model: PreTrainedModel, names: Sequence[str] | None, tensors: Mapping[str, Tensor]
) -> list[str]:
    """Paths of the layers of a saved adapter, in gate order.

    Those of `linear_paths`, and any others in its file that earlier versions adapted, such as the
    vision tower of a multimodal backbone.

    Raises:
        AdapterError: As `linear_paths`.
    """
    stored = {name.removesuffix(".expert_A") for name in tensors if name.endswith(".expert_A")}
    named = [path for path in _linear(model) if names is None or any(_fits(path, n) for n in names)]
    kept = {path for path, _ in _adaptable(model)}.intersection(named)
    if kept < stored <= set(named):
        return [path for path in named if path in stored]
    return linear_paths(model, names)


def _fits(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _linear(model: PreTrainedModel) -> dict[str, nn.Module]:
    """All linear layers but the output head, by path, whether adapted already or not."""
    head = model.get_output_embeddings()
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | ExpertLinear)
        and module is not head
        and not path.endswith(".base_layer")
    }


def _adaptable(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Those of `_linear` that `linear_paths` keeps."""
    modules = dict(model.named_modules())
    decoder = text_decoder(model)
    inside = next((f"{path}." for path, one in modules.items() if one is decoder and path), "")
    apart = tuple(
        f"{path}."
        for path, module in modules.items()
        if path.startswith(inside)
        and f"{path}." != inside
        and (path.endswith(".encoder_attn") or _stands_apart(module, decoder))
    )
    for path, module in _linear(model).items():
        parent, _, name = path.rpartition(".")
        mixer = modules[parent]
        passed_by = name in _READ_BY_KERNELS and hasattr(mixer, "A_log") and hasattr(mixer, "D")
        grouped = hasattr(getattr(module, "base_layer", module), "n_groups")
        if path.startswith(inside) and not path.startswith(apart) and not (passed_by or grouped):
            yield path, module


def _stands_apart(module: nn.Module, decoder: Any) -> bool:
    """Whether a module of a decoder is a mixture of experts, or reads something other than text."""
    is_model = isinstance(module, PreTrainedModel) and module is not decoder
    return (
        hasattr(module, "experts")
        or hasattr(module, "router")
        or "CrossAttention" in type(module).__name__
        or (is_model and type(module.config) is not type(getattr(decoder, "config", None)))
    )


@torch.no_grad()
def check_rows(model: PreTrainedModel, paths: Sequence[str]) -> None:
    """Refuse layers that do not see the rows of a batch, as one pass over 15 tokens shows.

    Of its five rows the first and the third are alike, so that they must be in what a layer reads;
    what it makes of the last may not change if that is padded on the right, as in training.
    Families of `fast_decoder`, and skeletons without weights, are not checked.

    Raises:
        AdapterError: There are such layers, or the backbone cannot read token ids alone, or no
            padded rows.
    """
    if is_known(model) or model.device.type == "meta":
        return
    layers = {path: cast(nn.Linear, model.get_submodule(path)) for path in paths}
    faults: dict[str, str | None] = dict.fromkeys(paths, "is not called where text is read")

    def check(path: str, module: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        if path not in seen:
            seen.add(path)
            faults[path] = _fault(module, inputs[0])

    seen: set[str] = set()
    ids = torch.tensor([range(first, first + 3) for first in _FIRST], device=model.device)
    decoder = text_decoder(model)
    with ExitStack() as held:
        held.enter_context(evaluating(model))
        for path, module in layers.items():
            held.callback(module.register_forward_pre_hook(partial(check, path)).remove)
        try:
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
            alone = decoder(input_ids=ids[-1:, :2], use_cache=False).last_hidden_state
        except Exception as error:
            raise AdapterError(
                f"{type(model).__name__} cannot be adapted, since it cannot read the token ids of "
                f"a batch alone: choose another backbone. ({in_short(error)})"
            ) from error
    if bad := {path: fault for path, fault in faults.items() if fault is not None}:
        names = {path.rpartition(".")[2] for path in bad}
        good = sorted({path.rpartition(".")[2] for path in paths} - names)
        path, fault = next(iter(bad.items()))
        raise AdapterError(
            f"{len(bad)} layers of {type(model).__name__} cannot be adapted ({sorted(names)}), "
            f"such as {path}, which {fault}: "
            + (f"name the others, target_modules={good}." if good else "choose another backbone.")
        )
    if not alike(hidden[-1, :2], alone[0]):
        raise AdapterError(
            f"{type(model).__name__} cannot be adapted, since what it makes of a row of a batch "
            "depends on how far that is padded: choose another backbone."
        )


def _fault(module: nn.Linear, x: Tensor) -> str | None:
    """What keeps a layer that reads x in the pass of `check_rows` from being adapted."""
    features = getattr(module, "base_layer", module).in_features
    shape = list(x.shape)
    if x.dim() < 2 or shape[-1] != features:
        return f"reads {shape}, not [batch, ..., {features}]"
    if shape[0] != len(_FIRST):
        return f"reads {shape} where the batch has 5 rows of 3 tokens: tokens without their rows"
    if not alike(x[0], x[2]):
        return "reads the rows of a batch in another order"
    return None
