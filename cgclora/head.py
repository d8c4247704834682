"""A backbone's output head by itself, so that it runs only where its logits are wanted."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from cgclora.checkpoint import BackboneError


class OutputHead:
    """Hidden states to logits, as the backbone itself would compute them.

    Args:
        model: A causal language model.

    Attributes:
        softcap: The bound of the logits in Gemma 2 (arXiv 2408.00118); None elsewhere.

    Raises:
        BackboneError: The backbone does something else to its logits, so that the two would
            disagree.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.softcap: float | None = getattr(
            model.config.get_text_config(), "final_logit_softcapping", None
        )
        self._check()

    @property
    def weight(self) -> Tensor:
        """The head's matrix [V, H], wherever the backbone was moved to."""
        return cast(Tensor, self._model.get_output_embeddings().weight)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] in fp32 for hidden states [N, H].

        A hidden state that is a slice of a longer one makes some libraries copy the whole head for
        every row, hence the contiguous copy.
        """
        weight = self.weight
        return cap(F.linear(hidden.contiguous().to(weight.dtype), weight).float(), self.softcap)

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
