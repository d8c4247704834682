"""Cross entropy over target positions only, through a frozen output head.

The head of a small model is its largest matrix (262,144 words for Gemma 3 270M), and most positions
of a batch are prompt. So the head is applied to the target positions alone, and to a block of words
at a time. Since it is frozen, the gradient of the hidden states is summed up in the same pass, the
way FlashAttention (arXiv 2205.14135) sums up its values: no logit outlives its block, and a block
is small enough to stay in the processor's cache.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cgclora.models.hardware import fused
from cgclora.models.lm_head import OutputHead, cap, text_decoder
from cgclora.training.forward import can_pass, hidden_states

BLOCK_LOGITS = {"cpu": 1 << 21, "other": 1 << 26}
"""Logits of a block: 8 MB of fp32 for a processor's cache, 256 MB where launching costs more."""


@fused
def _shares(
    product: Tensor, place: Tensor, largest: Tensor, softcap: float | None, sloped: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The exponentials of a block's unbounded logits [N, words] relative to the largest so far.

    The target's, at `place` [N, 1] in the block, is left out. Where `sloped`, they are multiplied
    by the slope of the bound. Also returns their sums in fp32, the factor by which earlier sums
    shrink, and the new largest, [N, 1] each.
    """
    logits = cap(product.float(), softcap)
    inside = (place >= 0) & (place < logits.shape[1])
    place = place.clamp(0, logits.shape[1] - 1)
    logits.scatter_(1, place, logits.gather(1, place).masked_fill(inside, -torch.inf))
    largest, previous = largest.maximum(logits.amax(1, keepdim=True)), largest
    slope = None
    if softcap is not None and sloped:
        slope = 1 - (logits / softcap).clamp_(-1) ** 2
    share = logits.sub_(largest).exp_()
    sums = share.sum(1, keepdim=True)
    if slope is not None:
        share = share * slope
    return share.to(product.dtype), sums, (previous - largest).exp(), largest


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    """Hidden states [N, H], frozen head [V, H], target ids [N] -> loss of each target [N].

    With l the logits and t a target, the loss is log(sum_v exp l_v) - l_t, and its gradient by the
    hidden state sum_v p_v W_v - W_t. The target is kept out of the sum over the blocks: next to it,
    a small sum over the other words would drown in rounding errors.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None
    ) -> Tensor:
        count, words = len(targets), len(weight)
        limit = BLOCK_LOGITS.get(hidden.device.type, BLOCK_LOGITS["other"])
        width = min(words, max(1, limit // max(1, count)))
        chosen = weight[targets].float()
        target = cap((hidden.float() * chosen).sum(-1, keepdim=True), softcap)
        largest = target  # what all exponentials are taken relative to, [N, 1]
        others = torch.zeros_like(target)
        gradient = torch.zeros_like(chosen) if ctx.needs_input_grad[0] else None
        room = hidden.new_empty(count, width)
        for start in range(0, words, width):
            block = weight[start : start + width]
            product = torch.mm(hidden, block.t(), out=room[:, : len(block)])
            share, sums, shrink, largest = _shares(
                product, (targets - start).unsqueeze(1), largest, softcap, ctx.needs_input_grad[0]
            )
            others = others * shrink + sums
            if gradient is not None:
                gradient.mul_(shrink).add_(share @ block)
        total = others + (target - largest).exp()
        if gradient is not None:
            rest = others if softcap is None else others * (1 - (target / softcap) ** 2)
            gradient = (gradient - rest * chosen).div_(total).to(hidden.dtype)
        ctx.save_for_backward(gradient)
        return largest.squeeze(1) + total.log().squeeze(1) - target.squeeze(1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].unsqueeze(1).to(gradient.dtype), None, None, None


class TargetLoss(nn.Module):
    """A causal language model that returns the loss of chosen positions instead of logits.

    The backbone's head must be frozen.

    Raises:
        BackboneError: See `OutputHead`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.head = OutputHead(model)

    def forward(self, input_ids: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """The loss in nats of each target id [N], predicted at positions [N] of [batch * tokens].

        Ids are padded on the right, where no token looks, so that no mask is needed. One would do
        harm: padding beyond the reach of a sliding window would see nothing, and a softmax over
        nothing has no gradient.
        """
        if can_pass(self.model):
            hidden = hidden_states(self.model, input_ids, positions)
        else:
            decoder = text_decoder(self.model)
            output = decoder(input_ids=input_ids, use_cache=False)
            hidden = output.last_hidden_state.flatten(0, 1)[positions]
        weight = self.head.weight
        apply: Callable[..., Tensor] = _FrozenHeadCrossEntropy.apply
        hidden = self.head.scaled(hidden).to(weight.dtype)
        return apply(hidden, weight, targets, self.head.softcap)
