"""A backbone's output head by itself, so that it runs only where its logits are wanted."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from cgclora.checkpoint import BackboneError
from cgclora.int8 import FEW_ROWS, Int8Weight

_LIKELY = 1.0
"""Logits this close to the largest are computed anew where a head of 8 bits gave them."""


class OutputHead:
    """Hidden states to logits, as the backbone itself would compute them.

    Args:
        model: A causal language model.
        int8: Read an 8-bit copy of the head for few rows. The likeliest words' logits are then
            computed with the head itself, so that which one is the likeliest does not depend on it.

    Attributes:
        softcap: The bound of the logits in Gemma 2 (arXiv 2408.00118); None elsewhere.

    Raises:
        BackboneError: The backbone does something else to its logits, so that the two would
            disagree.
    """

    def __init__(self, model: PreTrainedModel, *, int8: bool = False) -> None:
        self._model = model
        self._packed: Int8Weight | None = None
        self.softcap: float | None = getattr(
            model.config.get_text_config(), "final_logit_softcapping", None
        )
        self._check()
        if int8:
            self._packed = Int8Weight.of([self.weight])

    @property
    def weight(self) -> Tensor:
        """The head's matrix [V, H], wherever the backbone was moved to."""
        return cast(Tensor, self._model.get_output_embeddings().weight)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] in fp32 for hidden states [N, H].

        A hidden state that is a slice of a longer one makes some libraries copy the whole head for
        every row, hence the contiguous copy.
        """
        if self._packed is not None and len(hidden) <= FEW_ROWS:
            return cap(self._from_packed(hidden, self._packed), self.softcap)
        weight = self.weight
        return cap(F.linear(hidden.contiguous().to(weight.dtype), weight).float(), self.softcap)

    def of_words(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Logits [N, words] in fp32 of some words only, for hidden states [N, H]."""
        return cap(F.linear(hidden.float(), self.weight[ids].float()), self.softcap)

    def _from_packed(self, hidden: Tensor, packed: Int8Weight) -> Tensor:
        logits = packed(hidden)
        likely = logits >= logits.amax(dim=-1, keepdim=True) - _LIKELY
        rows, ids = likely.nonzero(as_tuple=True)
        exact = (hidden[rows].float() * self.weight[ids].float()).sum(-1)
        logits[rows, ids] = exact
        return logits

    @torch.no_grad()
    def _check(self) -> None:
        """Compare with the backbone's own logits once, on four tokens."""
        if getattr(self._model.get_output_embeddings(), "bias", None) is not None:
            raise self._unknown()
        ids = torch.arange(1, 5, device=self._model.device).unsqueeze(0)
        modes = {module: module.training for module in self._model.modules()}
        self._model.eval()  # dropout would make two passes differ
        own = self._model(input_ids=ids).logits[0].float().log_softmax(-1)
        ours = self(self._model.get_decoder()(input_ids=ids).last_hidden_state[0]).log_softmax(-1)
        for module, training in modes.items():
            module.training = training
        # Logits in bf16 are off by a percent or so; a forgotten factor is off by far more.
        if (own - ours).abs().mean() > 0.05:
            raise self._unknown()

    def _unknown(self) -> BackboneError:
        return BackboneError(
            f"{type(self._model).__name__} changes its logits in a way that is not known here: "
            "use a backbone of another family (Qwen, Llama, GLM and Gemma are tested)."
        )


def cap(logits: Tensor, softcap: float | None) -> Tensor:
    """Bound logits to (-softcap, softcap) as Gemma 2 does; None leaves them."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
