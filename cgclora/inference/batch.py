"""The forward passes of a batch of answers: token ids in, hidden states or logits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from cgclora.adapter import folded_in, follow
from cgclora.inference.continuous import dynamic_cache
from cgclora.inference.fast_decoder import BatchExperts, FastDecoder
from cgclora.inference.multi_adapter import Adapters, Resident
from cgclora.inference.request import DecodingError, Request, TokenLogprob
from cgclora.inference.runtime import Runtime
from cgclora.layer import Route
from cgclora.models.backbone import Backbone, BackboneError
from cgclora.models.families import is_known, picks_may_tie
from cgclora.models.lm_head import alike, text_decoder
from cgclora.models.quantized import FEW_ROWS
from cgclora.storage.atomic_io import in_short

_SCORED_STATES = 64  # whose logits over a large vocabulary fit in memory at once


class Batch:
    """The forward passes of a batch: token ids in, hidden states or logits of the next token out.

    Args:
        backbone: The model.
        adapters: Their experts answer.
        requests: They name task and gates of each row.
        prompts: Token ids of each row.
        reference: Use the forward pass of `transformers` even if `FastDecoder` supports the model.
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
        with backbone.lock:  # the head's first use runs the backbone, which must have no route
            runtime = Runtime.of(backbone)
            self.head = runtime.head
            decoder = None if reference else runtime.decoder
            if decoder is not None and self.folded is not None and decoder.int8:
                decoder = FastDecoder(backbone.model)  # 8-bit copies lack the folded task
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
                capacity = max(
                    len(prompt) + request.max_new_tokens
                    for prompt, request in zip(prompts, requests, strict=True)
                )
                experts = decoder.experts(route)
                self._pass = _FastPass(decoder, experts, prompts, backbone.pad_id, capacity)

    def prefill(self) -> Tensor:
        """Logits [batch, V] after the prompts."""
        return self.logits(self.prefill_hidden())

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits [batch, V] after one more token per row."""
        return self.logits(self.step_hidden(tokens))

    def prefill_hidden(self) -> Tensor:
        """Hidden states [batch, H] after the prompts."""
        return torch.stack([states[-1] for states in self.prefill_states()])

    def prefill_states(self) -> list[Tensor]:
        """Hidden states [tokens, H] after each token of each prompt."""
        hidden = self._locked(self._pass.prefill)
        return [row[where] for row, where in zip(hidden, self._pass.columns, strict=True)]

    def step_hidden(self, tokens: Sequence[int]) -> Tensor:
        """Hidden states [batch, H] after one more token per row."""
        return self.read(torch.tensor(tokens, device=self.device).unsqueeze(1))[:, -1]

    def read(self, ids: Tensor) -> Tensor:
        """Hidden states [batch, N, H] of N more tokens per row, [batch, N]."""
        return self._locked(lambda: self._pass.read(ids))

    @property
    def max_drafts(self) -> int:
        """Largest number of draft tokens to verify in one pass.

        0 where products of several tokens round differently: drafts must not change the answer.
        """
        is_invariant = isinstance(self._pass, _FastPass) and self._pass.is_batch_invariant
        return FEW_ROWS - 1 if is_invariant else 0

    def drop_last(self, tokens: int) -> None:
        """Remove the last tokens of every row, such as rejected drafts."""
        cast(_FastPass, self._pass).cache.drop_last(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, V] for hidden states [N, H]."""
        with self.backbone.lock, torch.inference_mode():  # concurrent products slow each other
            return self.head(hidden)

    def argmax(self, hidden: Tensor) -> list[int]:
        """The most likely next token after each hidden state of [N, H]."""
        with self.backbone.lock, torch.inference_mode():
            return self.head.argmax(hidden)

    def logprobs(
        self, hidden: Tensor, tokens: Sequence[int], tops: Sequence[int]
    ) -> list[TokenLogprob]:
        """The log-probabilities of tokens, each after one of the hidden states [N, H].

        Args:
            hidden: Of any rows.
            tokens: N token ids.
            tops: Number of most likely tokens to list with each.
        """
        found: list[TokenLogprob] = []
        ids = torch.tensor(tokens, dtype=torch.long, device=self.device)
        for states, following in zip(
            hidden.split(_SCORED_STATES), ids.split(_SCORED_STATES), strict=True
        ):
            with self.backbone.lock, torch.inference_mode():
                logits = self.head(states)
                own = logits.gather(1, following[:, None])
                ranks = (logits > own).sum(-1) + 1
                best, words = logits.topk(min(max(tops, default=0), logits.shape[1]))
                total = logits.logsumexp(-1, keepdim=True)
            columns = (following, (own - total)[:, 0], ranks, words, best - total)
            for token, logprob, rank, *top in zip(*map(Tensor.tolist, columns), strict=True):
                likely = tuple(zip(*top, strict=True))[: tops[len(found)]]
                found.append(TokenLogprob(token, logprob, rank, likely))
        return found

    def keep(self, rows: Sequence[int]) -> None:
        """Select rows by index; an index that occurs several times duplicates its row."""
        self.requests = [self.requests[row] for row in rows]
        self._pass.keep(torch.tensor(rows, device=self.device))

    @property
    def can_drop_last(self) -> bool:
        """Whether the batch supports `drop_last`."""
        return isinstance(self._pass, _FastPass)

    @property
    def can_join(self) -> bool:
        """Whether the batch supports `join`."""
        return isinstance(self._pass, _FastPass) or _padding(self.backbone).joins

    def join(self, other: Batch) -> None:
        """Append the rows of another batch of the same adapters, after its first pass."""
        self.requests += other.requests
        with torch.inference_mode():
            route = self.adapters.plan_rows(self.requests) if self.adapters else None
            self._pass.join(cast(Any, other._pass), route)

    @torch.inference_mode()
    def _locked(self, run: Callable[[], Tensor]) -> Tensor:
        with self.backbone.lock:
            if folded_in(self.backbone.model) != self.folded:
                raise DecodingError("a task was folded in or out while the answer ran: ask again.")
            return run()


class _FastPass:
    """Passes of `FastDecoder`."""

    def __init__(
        self,
        decoder: FastDecoder,
        experts: BatchExperts,
        prompts: Sequence[Sequence[int]],
        pad_id: int,
        capacity: int,
    ) -> None:
        self.decoder = decoder
        self.experts = experts
        self.cache = decoder.new_cache(len(prompts), capacity)
        rows = [torch.tensor(prompt) for prompt in prompts]
        self.ids = pad_sequence(rows, True, pad_id).to(decoder.device)
        self.counts = torch.tensor([len(prompt) for prompt in prompts], device=decoder.device)
        self.columns = [slice(len(prompt)) for prompt in prompts]  # of the prompts in `ids`

    def prefill(self) -> Tensor:
        return self.decoder(self.ids, self.cache, self.experts, self.counts)

    @property
    def is_batch_invariant(self) -> bool:
        """See `FastDecoder`; folded weights have no 8-bit copies."""
        return not self.experts.is_folded and self.decoder.is_batch_invariant

    def read(self, ids: Tensor) -> Tensor:
        return self.decoder(ids, self.cache, self.experts)

    def keep(self, index: Tensor) -> None:
        self.cache.keep(index)
        self.experts = self.experts.keep(index)

    def join(self, other: _FastPass, route: Route | None) -> None:
        self.cache.join(other.cache)
        self.experts = self.decoder.experts(route)


class _ReferencePass:
    """Passes of the backbone's own modules, with the cache of `transformers`."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        pad: int,
        route: Route | None = None,
    ) -> None:
        self.route = route
        self.is_joined = False  # by other rows
        self.model = model
        self.cache = DynamicCache(config=model.config)
        width = max(len(prompt) for prompt in prompts)
        self.ids = torch.tensor(
            [[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device
        )
        self.mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device
        )
        self.columns = [slice(width - len(prompt), None) for prompt in prompts]

    def prefill(self) -> Tensor:
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        return self._forward(self.ids, positions)

    def read(self, ids: Tensor) -> Tensor:
        first = self.mask.sum(-1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        return self._forward(ids, first + torch.arange(ids.shape[1], device=ids.device))

    def join(self, other: _ReferencePass, route: Route | None) -> None:
        dynamic_cache.join(self.cache, other.cache)
        width = max(self.mask.shape[1], other.mask.shape[1])
        masks = [F.pad(mask, (width - mask.shape[1], 0)) for mask in (self.mask, other.mask)]
        self.mask = torch.cat(masks)
        self.route = route
        self.is_joined = True

    def keep(self, index: Tensor) -> None:
        dynamic_cache.keep_rows(self.cache, index)
        self.mask = self.mask[index]
        width = self.mask.shape[1]
        # A batch that is never joined does not grow, and may have a cache that cannot be cut.
        if self.is_joined and (unused := width - int(self.mask.sum(-1).max())):
            self.mask = self.mask[:, unused:]
            dynamic_cache.drop_first(self.cache, unused, width - unused)
        if self.route is not None:
            self.route = Route(
                {
                    layer: experts
                    if isinstance(experts, Tensor)
                    else tuple(replace(one, weights=one.weights[index]) for one in experts)
                    for layer, experts in self.route.experts.items()
                }
            )

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        decoder = cast(Any, text_decoder(self.model))
        with follow_route(self.route):
            output = decoder(
                input_ids=ids,
                attention_mask=self.mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
            )
            return cast(Tensor, output.last_hidden_state)


def follow_route(route: Route | None) -> AbstractContextManager[None]:
    """Apply a route to the backbone's layers within this context; None has no experts."""
    layer = None if route is None else next(iter(route.experts), None)
    if route is None or layer is None:
        return nullcontext()
    return follow(layer.routing, route)  # all layers share one


class _Padding(NamedTuple):
    """What a model does with rows that are padded on the left."""

    may_pad: bool  # it answers them as it does alone
    joins: bool  # also if they join a batch after its first pass


_PADDING: WeakKeyDictionary[PreTrainedModel, _Padding] = WeakKeyDictionary()


def may_pad(backbone: Backbone) -> bool:
    """Whether rows of unequal length may be decoded in one batch, padded on the left.

    Some models derive positions from the column and ignore the mask. Models that `FastDecoder`
    does not support are tested once, on a few tokens, and for what only longer prompts show, see
    `picks_may_tie`.

    Raises:
        BackboneError: A pass with cached tokens differs from a pass of all tokens.
    """
    return _padding(backbone).may_pad


def _padding(backbone: Backbone) -> _Padding:
    model = backbone.model
    if is_known(model):
        return _Padding(True, True)
    with backbone.lock:
        if model not in _PADDING:
            _PADDING[model] = _try_padding(model)
        return _PADDING[model]


_SHORT, _LONG, _NEXT = [*range(3, 8)], [*range(3, 19)], 9


def _after(model: PreTrainedModel, *prompts: Sequence[int]) -> _ReferencePass:
    run = _ReferencePass(model, prompts, 0)
    run.prefill()
    return run


def _step(run: _ReferencePass) -> Tensor:
    return run.read(torch.full((len(run.mask), 1), _NEXT, device=run.mask.device))[:, -1]


@torch.inference_mode()
def _try_padding(model: PreTrainedModel) -> _Padding:
    """Compare cached steps, with and without padding, with one pass of all tokens."""

    def expected(prompt: Sequence[int], steps: int) -> Tensor:
        return _ReferencePass(model, [[*prompt, *[_NEXT] * steps]], 0).prefill()[0, -1]

    try:
        together, alone = (_step(_after(model, _SHORT, *more))[0] for more in ([_LONG], []))
        first = expected(_SHORT, 1)
    except Exception as error:
        raise _undecodable(model, f" ({in_short(error)})") from error
    if not alike(alone, first):
        raise _undecodable(model)
    if not alike(together, first) or picks_may_tie(model):
        return _Padding(may_pad=False, joins=False)
    try:
        steps = _steps_of_joining(model)
    except Exception:  # a cache of a kind that is not known here
        steps = []
    joins = bool(steps) and all(
        alike(one, expected(_SHORT, count)) for count, one in enumerate(steps, 1)
    )
    return _Padding(may_pad=True, joins=joins)


def _steps_of_joining(model: PreTrainedModel) -> list[Tensor]:
    """Steps of a row that joins a wider one, is left alone, and is joined by a wider one.

    None where the cache has layers that `dynamic_cache` does not know.
    """
    run = _after(model, _LONG)
    if not dynamic_cache.can_join(run.cache):
        return []
    run.join(_after(model, _SHORT), None)
    steps = [_step(run)[1]]
    run.keep(torch.tensor([1], device=model.device))
    steps.append(_step(run)[0])
    run.join(_after(model, _LONG), None)
    return [*steps, _step(run)[0]]


def _undecodable(model: PreTrainedModel, why: str = "") -> BackboneError:
    return BackboneError(
        f"{type(model).__name__} cannot go on from a cache of keys and values, so it cannot be "
        f"decoded here: export a task as merged and use `generate` of transformers.{why}"
    )
