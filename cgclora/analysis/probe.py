"""Looking into an adapter at work: how likely it finds each label, and what each expert adds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from cgclora.adapter import Adapter
from cgclora.inference.batch import Batch
from cgclora.inference.request import DecodingError, Request, encode_requests
from cgclora.layer import ExpertLinear
from cgclora.models.backbone import Backbone

_ROWS = 32
"""How many rows of logits are there at once: with Gemma's vocabulary they take 34 MB."""


def label_probabilities(
    backbone: Backbone, request: Request, labels: Sequence[str], adapter: Adapter | None = None
) -> list[float]:
    """How likely each label is the answer, among these labels.

    The softmax over the labels of log p(label, end token | prompt), the sum of the log-likelihoods
    of the label's tokens and of the end token after it. Not divided by the number of tokens: these
    are the probabilities that the answer is exactly this label, given that it is one of them.

    The prompt is read once, then all labels as one batch. Of the request only task, prompt and
    gates count. Returns a probability a label; their sum is 1.

    Raises:
        ConfigError: The adapter does not know the task.
        DecodingError: There is no label, one is empty or occurs twice; otherwise as `stream` says.
    """
    if not labels or not all(labels):
        raise DecodingError("labels is empty or holds an empty text: name what may be token_ids.")
    if repeated := sorted({label for label in labels if list(labels).count(label) > 1}):
        raise DecodingError(f"labels holds {repeated} more than once: name each label once.")
    token_ids = backbone.tokenizer(list(labels), add_special_tokens=False)["input_ids"]
    request = replace(request, choices=tuple(labels), max_new_tokens=1 + max(map(len, token_ids)))
    (encoded,) = encode_requests(backbone, [request], adapter)
    batch = Batch(backbone, adapter, [request], [encoded.ids])
    sums = _log_likelihoods(batch, token_ids, cast(int, backbone.tokenizer.eos_token_id))
    return sums.softmax(dim=0).tolist()


@torch.inference_mode()
def _log_likelihoods(batch: Batch, token_ids: Sequence[Sequence[int]], end: int) -> Tensor:
    """The log-likelihood of each text (token ids) after the batch's one prompt, float64 [texts]."""
    # What follows a beginning that texts share is computed once. The empty one ends the prompt.
    follows: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    where: dict[tuple[int, ...], tuple[int, int]] = {}
    for row, ids in enumerate(token_ids):
        for length, token in enumerate([*ids, end]):
            start = tuple(ids[:length])
            where.setdefault(start, (row, length - 1))
            follows.setdefault(start, []).append((row, token))
    del where[()]
    sums = torch.zeros(len(token_ids), dtype=torch.float64, device=batch.device)
    _add(sums, batch.prefill(), [follows.pop(())])
    width = max(map(len, token_ids))
    batch.keep([0] * len(token_ids))
    padded = [
        [*ids, *[end] * (width - len(ids))] for ids in token_ids
    ]  # nothing looks back at the end
    hidden = batch.read(torch.tensor(padded, device=batch.device))
    rows, places = torch.tensor(list(where.values()), device=batch.device).unbind(1)
    starts = list(follows.values())
    for first in range(0, len(starts), _ROWS):
        some = slice(first, first + _ROWS)
        _add(sums, batch.head(hidden[rows[some], places[some]]), starts[some])
    return sums


def _add(sums: Tensor, logits: Tensor, starts: Sequence[Sequence[tuple[int, int]]]) -> None:
    """Add next tokens' log-likelihoods from logits [starts, V] to the sums [texts].

    `starts` has for each row of logits the texts that go on from it, each with its next token.
    """
    flat = [(place, row, token) for place, start in enumerate(starts) for row, token in start]
    places, rows, tokens = torch.tensor(flat, device=logits.device).unbind(1)
    likelihoods = logits[places, tokens].double() - logits.logsumexp(-1).double()[places]
    sums.index_add_(0, rows, likelihoods)


@dataclass(frozen=True)
class Contributions:
    """What the experts of one task add to each adapted layer while it reads a prompt."""

    layers: tuple[str, ...]  # paths of the L adapted layers
    experts: tuple[int, ...]  # places of the task's experts among all E, the common ones first
    gates: Tensor  # the weights that they had, [L, C + S]
    updates: Tensor  # norm of an expert's update g * s * B (A x), mean over tokens, [L, C + S]
    # The same as a part of the norm of the frozen output W0 x of the same token, averaged over the
    # tokens, [L, C + S].
    relative: Tensor
    tokens: int  # how many tokens were read


@torch.inference_mode()
def contributions(
    backbone: Backbone, adapter: Adapter, task: str, prompt: str, gates: Tensor | None = None
) -> Contributions:
    """Measure in one pass over a prompt how large each expert's update is.

    Norms are taken in fp32 of what each layer reads in that pass, so that the experts of earlier
    layers have had their effect. The prompt stands without the separator. `gates` are weights
    instead of the gate's: [E] for all layers, or [L, E].

    Raises:
        ConfigError: The adapter does not know the task.
        DecodingError: A task is folded in; otherwise as `stream` says.
    """
    config = adapter.config
    index = config.task_index(task)
    request = Request(task, prompt, max_new_tokens=1, gates=gates)
    (encoded,) = encode_requests(backbone, [request], adapter)
    if adapter.folded_task is not None:
        raise DecodingError(
            f"task {task!r} is folded in: unfold() it, so that experts stand apart."
        )
    experts = tuple(place for place, may in enumerate(config.access()[index]) if may)
    if gates is None:
        gates = adapter.gates()[:, index]
    layers, norms = tuple(adapter.layers), torch.zeros(2, len(adapter.layers), len(experts))
    weights = gates.expand(len(layers), -1)[:, experts].float().cpu()

    def measure(row: int, layer: ExpertLinear, x: Tensor, frozen: Tensor) -> None:
        turned = adapter.gate.turns[row, index] if config.shared_A else None
        norm = _expert_norms(layer, adapter, experts, x, turned).cpu()
        update = weights[row] * config.scale * norm
        own = frozen.float().norm(dim=-1).reshape(-1, 1).cpu()
        norms[0, row] = update.mean(dim=0)
        norms[1, row] = (update / own.clamp(min=torch.finfo(torch.float32).tiny)).mean(dim=0)

    batch = Batch(backbone, adapter, [request], [encoded.ids], reference=True)
    with backbone.lock, _watched(list(adapter.layers.values()), measure):
        batch.prefill()
    return Contributions(layers, experts, weights, norms[0], norms[1], len(encoded.ids))


def _expert_norms(
    layer: ExpertLinear,
    adapter: Adapter,
    experts: Sequence[int],
    x: Tensor,
    turned: Tensor | None = None,
) -> Tensor:
    """|B_e A_e x| for the tokens and some experts, [tokens, experts].

    `turned` is the task's matrix [k, k] where all experts share one A; A_e is their product then.
    """
    rank = adapter.config.expert_rank
    A = layer.expert_A[adapter.name].float()
    if turned is not None:
        A = (turned.float() @ A).repeat(adapter.config.num_experts, 1)
    A = A.unflatten(0, (-1, rank))[list(experts)]
    B = layer.expert_B[adapter.name].unflatten(1, (-1, rank))[:, list(experts)].float()
    z = torch.einsum("tn,ekn->tek", x.reshape(-1, x.shape[-1]).float(), A)
    # |B z|^2 = z (B^T B) z: the outputs themselves, [tokens, experts, out], may be gigabytes.
    square = torch.einsum("tek,ekj,tej->te", z, torch.einsum("oek,oej->ekj", B, B), z)
    return square.clamp(min=0).sqrt()


@contextmanager
def _watched(
    layers: Sequence[ExpertLinear], see: Callable[[int, ExpertLinear, Tensor, Tensor], None]
) -> Iterator[None]:
    """Within this context, call `see` with each layer's place, itself, its input, frozen output."""

    def hook(row: int, _: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        see(row, layers[row], inputs[0], output)

    with ExitStack() as handles:
        for row, layer in enumerate(layers):
            handle = layer.base_layer.register_forward_hook(partial(hook, row))
            handles.callback(handle.remove)
        yield


def scaled_gates(
    adapter: Adapter, task: str, factors: Sequence[float], *, keep_sum: bool = True
) -> Tensor:
    """A task's gates with each of its experts made stronger or weaker, [L, E], for `Request.gates`.

    There is a factor >= 0 for each of the C + S experts that the task may use; 0 knocks one out.
    With `keep_sum` what is taken from one expert goes to the others in proportion, so that the
    weights of a layer keep their sum, unless all factors are 0.

    Raises:
        ConfigError: The adapter does not know the task.
        ValueError: There are not as many factors as experts, or one is negative or no number.
    """
    config = adapter.config
    access = torch.tensor(config.access()[config.task_index(task)])
    given = torch.tensor(list(factors), dtype=torch.float32)
    if len(given) != config.experts_per_task:
        raise ValueError(
            f"{len(given)} factors for {config.experts_per_task} experts of {task!r}: one each."
        )
    if not (torch.isfinite(given) & (given >= 0)).all():
        raise ValueError(f"factors must be numbers >= 0, got {list(factors)}.")
    own = adapter.gates()[:, config.task_index(task)].cpu()
    changed = own.clone()
    changed[:, access] *= given
    if keep_sum:
        total = changed.sum(-1, keepdim=True)
        changed = changed * torch.where(total > 0, own.sum(-1, keepdim=True) / total, 0)
    return changed
