"""The model's side of a batch of answers: token ids in, hidden states or logits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from cgclora.adapter import folded_in, follow
from cgclora.inference.fast_decoder import FastDecoder
from cgclora.inference.multi_adapter import Adapters, Resident
from cgclora.inference.request import DecodingError, Request
from cgclora.inference.runtime import Runtime
from cgclora.layer import Route
from cgclora.models.backbone import Backbone, BackboneError
from cgclora.models.families import is_known
from cgclora.models.lm_head import alike, text_decoder
from cgclora.models.quantized import FEW_ROWS
from cgclora.storage.atomic_io import in_short


class Batch:
    """The model's side of a batch: token ids in, hidden states or logits of the next token out.

    Args:
        backbone: Who answers.
        adapters: Whose experts the requests' tasks use.
        requests: Their tasks and gates.
        prompts: Their token ids.
        reference: Take the path of `transformers` where there is a faster one, too.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: Adapters,
        requests: Sequence[Request],
        prompts: Sequence[Sequence[int]],
        *,
        reference: bool = False,
    ) -> None:
        self.backbone = backbone
        self.requests = [*requests]
        self.folded = folded_in(backbone.model)
        self.adapters = Resident.of(adapters) if self.folded is None else None
        self.device = backbone.model.device
        with backbone.lock:  # the head's first use runs the backbone, which no route may touch
            runtime = Runtime.of(backbone)
            self.head = runtime.head
            decoder = None if reference else runtime.decoder
            if decoder is not None and self.folded is not None and decoder.int8:
                decoder = FastDecoder(backbone.model)  # no 8-bit copy has the folded weights
        with torch.inference_mode():
            route = self.adapters.plan_rows(requests) if self.adapters else None
            if decoder is None:
                if len(set(map(len, prompts))) > 1 and not may_pad(backbone):
                    raise DecodingError(
                        "this backbone takes no padding: give a batch prompts of one length."
                    )
                self._pass: _FastPass | _ReferencePass = _ReferencePass(
                    backbone.model, prompts, backbone.pad_id, route
                )
            else:
                most = max(
                    len(prompt) + request.max_new_tokens
                    for prompt, request in zip(prompts, requests, strict=True)
                )
                self._pass = _FastPass(self, decoder, route, prompts, most)

    def prefill(self) -> Tensor:
        """Logits [batch, V] after the prompts."""
        return self.logits(self.prefill_hidden())

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits [batch, V] after one more token a row."""
        return self.logits(self.step_hidden(tokens))

    def prefill_hidden(self) -> Tensor:
        """Hidden states [batch, H] after the prompts."""
        return self._in_turn(self._pass.prefill)

    def step_hidden(self, tokens: Sequence[int]) -> Tensor:
        """Hidden states [batch, H] after one more token a row."""
        return self.read(torch.tensor(tokens, device=self.device).unsqueeze(1))[:, -1]

    def read(self, ids: Tensor) -> Tensor:
        """Hidden states [batch, N, H] at N more tokens a row, [batch, N]."""
        return self._in_turn(lambda: self._pass.read(ids))

    @property
    def most_drafts(self) -> int:
        """How many tokens to read on trust besides the one that is sure.

        0 where sums of several tokens are rounded otherwise than those of one: a draft must not
        change what is said.
        """
        return FEW_ROWS - 1 if isinstance(self._pass, _FastPass) and self._pass.keeps_apart else 0

    def forget(self, tokens: int) -> None:
        """Take back the last tokens of every row."""
        cast(_FastPass, self._pass).cache.forget(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, V] for hidden states [N, H]."""
        with self.backbone.lock, torch.inference_mode():  # two products at once slow each other
            return self.head(hidden)

    def argmax(self, hidden: Tensor) -> list[int]:
        """The likeliest next token after each hidden state of [N, H]."""
        with self.backbone.lock, torch.inference_mode():
            return self.head.argmax(hidden)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these rows only; one that is named several times becomes several."""
        self.requests = [self.requests[place] for place in places]
        self._pass.keep(torch.tensor(places, device=self.device))

    @property
    def joins(self) -> bool:
        """Whether others can join it, and tokens that it read can be taken back."""
        return isinstance(self._pass, _FastPass)

    def join(self, other: Batch) -> None:
        """Take in the rows of another batch of the same adapters, after the own ones."""
        self.requests += other.requests
        with torch.inference_mode():
            route = self.adapters.plan_rows(self.requests) if self.adapters else None
            cast(_FastPass, self._pass).join(cast(_FastPass, other._pass), route)

    @torch.inference_mode()
    def _in_turn(self, run: Callable[[], Tensor]) -> Tensor:
        with self.backbone.lock:
            if folded_in(self.backbone.model) != self.folded:
                raise DecodingError("a task was folded in or out while the answer ran: ask again.")
            return run()


class _FastPass:
    """By `cgclora.inference.fast_decoder`."""

    def __init__(
        self,
        batch: Batch,
        decoder: FastDecoder,
        route: Route | None,
        prompts: Sequence[Sequence[int]],
        most: int,
    ) -> None:
        self.decoder = decoder
        self.experts = decoder.experts(route)
        self.cache = decoder.new_cache(len(prompts), most)
        width = max(map(len, prompts))
        pad = batch.backbone.pad_id
        padded = [[*p, *[pad] * (width - len(p))] for p in prompts]
        self.ids = torch.tensor(padded, device=batch.device)
        self.counts = torch.tensor([len(prompt) for prompt in prompts], device=batch.device)

    def prefill(self) -> Tensor:
        hidden = self.decoder(self.ids, self.cache, self.experts, self.counts)
        return hidden[torch.arange(len(hidden), device=hidden.device), self.counts - 1]

    @property
    def keeps_apart(self) -> bool:
        """See `FastDecoder.keeps_apart`; a folded task's weights have no 8-bit copies."""
        return self.experts.beside and self.decoder.keeps_apart

    def read(self, ids: Tensor) -> Tensor:
        return self.decoder(ids, self.cache, self.experts)

    def keep(self, index: Tensor) -> None:
        self.cache.keep(index)
        self.experts = self.experts.keep(index)

    def join(self, other: _FastPass, route: Route | None) -> None:
        self.cache.join(other.cache)
        self.experts = self.decoder.experts(route)


class _ReferencePass:
    """By the backbone's own modules and the cache of `transformers`."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        pad: int,
        route: Route | None = None,
    ) -> None:
        self.route = route
        self.model = model
        self.cache = DynamicCache(config=model.config)
        width = max(len(prompt) for prompt in prompts)
        self.ids = torch.tensor(
            [[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device
        )
        self.mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device
        )

    def prefill(self) -> Tensor:
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        return self._forward(self.ids, positions)[:, -1]

    def read(self, ids: Tensor) -> Tensor:
        first = self.mask.sum(-1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        return self._forward(ids, first + torch.arange(ids.shape[1], device=ids.device))

    def keep(self, index: Tensor) -> None:
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]
        if self.route is not None:
            self.route = _kept(self.route, index)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": self.mask,
            "position_ids": positions,
            "past_key_values": self.cache,
            "use_cache": True,
        }
        with follow_route(self.route):
            output = text_decoder(self.model)(**inputs)
            return cast(Tensor, output.last_hidden_state)


def follow_route(route: Route | None) -> AbstractContextManager[None]:
    """Within this context the backbone's layers follow a route; None leaves them frozen."""
    layer = None if route is None else next(iter(route.experts), None)
    if route is None or layer is None:
        return nullcontext()
    return follow(layer.routing, route)  # any layer's: they share it


def _kept(route: Route, rows: Tensor) -> Route:
    """The route of some rows of the batch."""
    return Route(
        {
            layer: experts
            if isinstance(experts, Tensor)
            else tuple(replace(one, weights=one.weights[rows]) for one in experts)
            for layer, experts in route.experts.items()
        }
    )


_MAY_PAD: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def may_pad(backbone: Backbone) -> bool:
    """Whether rows of unequal length may be decoded in one batch, padded on the left.

    Not where a place is counted from the first column, whatever the mask says. Models that
    `cgclora.inference.fast_decoder` does not know are tried once, on a few tokens.

    Raises:
        BackboneError: The backbone does not go on from what it has read as if it read it anew.
    """
    model = backbone.model
    if is_known(model):
        return True
    with backbone.lock:
        if model not in _MAY_PAD:
            _MAY_PAD[model] = _try_padding(model)
        return _MAY_PAD[model]


@torch.inference_mode()
def _try_padding(model: PreTrainedModel) -> bool:
    """Compare one step after padded prompts and after a single one with all read at once."""
    short, long = [*range(3, 8)], [*range(3, 19)]
    following = torch.tensor([[9]], device=model.device)

    def step(prompts: Sequence[Sequence[int]]) -> Tensor:
        run = _ReferencePass(model, prompts, 0)
        run.prefill()
        return run.read(following.expand(len(prompts), 1))[0, -1]

    try:
        together, alone = step([short, long]), step([short])
        expected = _ReferencePass(model, [[*short, 9]], 0).prefill()[0]
    except Exception as error:
        raise _undecodable(model, f" ({in_short(error)})") from error
    if not alike(alone, expected):
        raise _undecodable(model)
    return alike(together, expected)


def _undecodable(model: PreTrainedModel, why: str = "") -> BackboneError:
    return BackboneError(
        f"{type(model).__name__} cannot go on from a cache of keys and values, so it cannot be "
        f"decoded here: export a task as merged and use `generate` of transformers.{why}"
    )
