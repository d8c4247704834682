"""Cross entropy over target positions only, through a frozen output head.

The head of a small model is its largest matrix (262,144 words for Gemma 3 270M), and most positions
of a batch are prompt. The head is applied to the target positions alone, in pieces, and since it
is frozen the gradient of the hidden states is formed in the same pass: the logits of one piece are
the most that memory ever holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from cgclora.head import OutputHead, cap

MOST_LOGITS = 1 << 26
"""Logits held at once: 256 MB of fp32."""


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    """Hidden states [N, H], frozen head [V, H], target ids [N] -> loss of each target [N]."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None
    ) -> Tensor:
        step = max(1, MOST_LOGITS // weight.shape[0])
        wanted = ctx.needs_input_grad[0]
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if wanted else None
        for start in range(0, len(targets), step):
            piece = slice(start, start + step)
            logits = cap(F.linear(hidden[piece], weight).float(), softcap)
            chosen = targets[piece, None]
            normaliser = logits.logsumexp(dim=-1, keepdim=True)
            losses[piece] = (normaliser - logits.gather(1, chosen)).squeeze(1)
            if gradient is not None:
                slope = (logits - normaliser).exp_()
                slope.scatter_add_(1, chosen, -torch.ones_like(normaliser))
                if softcap is not None:
                    slope *= 1 - (logits / softcap) ** 2
                gradient[piece] = slope.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].unsqueeze(1).to(gradient.dtype), None, None, None


class TargetLoss(nn.Module):
    """A causal language model that returns the loss of chosen positions instead of logits.

    Args:
        model: The backbone, with or without adapters; its head must be frozen.

    Raises:
        BackboneError: See `OutputHead`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.head = OutputHead(model)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, targets: Tensor
    ) -> Tensor:
        """The loss of each target in nats, [N].

        Args:
            input_ids: [batch, tokens], padded on the right.
            attention_mask: [batch, tokens], 0 at padding.
            positions: Indices into the flattened [batch * tokens] of the tokens that predict, [N].
            targets: The token ids to predict there, [N].
        """
        decoder = self.model.get_decoder()
        output = decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        hidden = output.last_hidden_state.flatten(0, 1)[positions]
        weight = self.head.weight
        apply: Callable[..., Tensor] = _FrozenHeadCrossEntropy.apply
        return apply(hidden.to(weight.dtype), weight, targets, self.head.softcap)
