"""A backbone's output head by itself, so that it runs only where its logits are wanted."""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from cgclora.models.checkpoint import BackboneError, evaluating
from cgclora.models.quantized import pack_for_choosing

CHOOSING_ROWS = 8
"""Most rows for which reading the head in few bits is the faster way to the likeliest word."""

_SCALES = ("logits_scaling", "logit_scale", "lm_head_multiplier")
"""Names of the factor of the logits in configs."""

_MARGIN = 5.0
"""Standard deviations of a logit's error that a candidate may be behind the largest."""

_MAX_CANDIDATES = 2048
"""Candidates of a row up to which their logits cost less than those of the whole head."""


class OutputHead:
    """Hidden states to logits, as the backbone itself would compute them.

    With `packed` a copy of the head in few bits finds the candidates of `argmax`, among which the
    head itself decides. `softcap` bounds the logits of Gemma 2 (arXiv 2408.00118), and `scale`
    multiplies those of MiniCPM, Granite and Cohere.

    Raises:
        BackboneError: The backbone changes its logits in another way, so that the two disagree.
    """

    def __init__(self, model: PreTrainedModel, *, packed: bool = False) -> None:
        self._model = model
        config = model.config.get_text_config()
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.scale = self._find_scale()
        self._packed = pack_for_choosing(self.weight) if packed else None

    @property
    def choosing_bits(self) -> int | None:
        """Of the copy that finds the candidates; None without one."""
        return None if self._packed is None else self._packed.bits

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
        scaled = self.scaled(hidden).contiguous().to(weight.dtype)
        return cap(F.linear(scaled, weight).float(), self.softcap)

    def scaled(self, hidden: Tensor) -> Tensor:
        """Hidden states [N, H] whose products with `weight` are the logits before `softcap`."""
        return hidden if self.scale == 1.0 else hidden * self.scale

    def of_words(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Logits [N, words] in fp32 of some words only, for hidden states [N, H]."""
        logits = F.linear(self.scaled(hidden).float(), self.weight[ids].float())
        return cap(logits, self.softcap)

    def argmax(self, hidden: Tensor) -> list[int]:
        """The id of the word with the largest logit, for each hidden state of [N, H].

        A copy in few bits has an error of known size. Words that the largest logit leads by more
        than that are out; few remain, whose logits the head gives in fp32. `cap` keeps their order.
        """
        if self._packed is None or len(hidden) > CHOOSING_ROWS:
            return self._likeliest_of_all(hidden)
        rough = self._packed(hidden)
        lead = _MARGIN * self._packed.error * hidden.norm(dim=-1, keepdim=True)
        candidates = rough >= rough.amax(dim=-1, keepdim=True) - lead
        return [
            self._likeliest_of(row, words.nonzero().squeeze(1))
            for row, words in zip(hidden.split(1), candidates, strict=True)
        ]

    def _likeliest_of(self, row: Tensor, words: Tensor) -> int:
        """The likeliest of some words after a hidden state [1, H], by itself: rows round alike."""
        # Hardly any word leads, or none since a hidden state is no number: all of them, then.
        if not 0 < len(words) <= _MAX_CANDIDATES:
            return self._likeliest_of_all(row)[0]
        return int(words[(row.float() * self.weight[words].float()).sum(-1).argmax()])

    def choose(self, hidden: Tensor) -> Tensor:
        """The id of the word with the largest logit, [N], for hidden states [N, H].

        Unlike `argmax` it reads the whole head and does not wait for the device.
        """
        weight = self.weight
        return F.linear(hidden.contiguous().to(weight.dtype), weight).argmax(-1)

    def _likeliest_of_all(self, hidden: Tensor) -> list[int]:
        ids: list[int] = self(hidden).argmax(-1).tolist()
        return ids

    @torch.no_grad()
    def _find_scale(self) -> float:
        """The factor with which the logits are the backbone's own, as four tokens show."""
        if getattr(self._model.get_output_embeddings(), "bias", None) is not None:
            raise self._unknown()
        ids = torch.arange(1, 5, device=self._model.device).unsqueeze(0)
        with evaluating(self._model):
            own = self._model(input_ids=ids).logits[0].float().log_softmax(-1)
            hidden = text_decoder(self._model)(input_ids=ids).last_hidden_state[0]
        errors: dict[float, float] = {}
        for scale in self._scales():
            self.scale = scale
            difference = own - self(hidden).log_softmax(-1)
            errors[scale] = float(difference.abs().mean())
        best = min(errors, key=errors.__getitem__)
        # Logits in bf16 are off by a percent or so, and a step that is missing by far more.
        if not errors[best] <= 0.05:
            raise self._unknown()
        return best

    def _scales(self) -> Iterator[float]:
        """Factors that the config may mean; some models multiply by one, and others divide."""
        yield 1.0
        config = self._model.config.get_text_config()
        for name in _SCALES:
            if value := getattr(config, name, None):
                yield from (float(value), 1 / value)

    def _unknown(self) -> BackboneError:
        return BackboneError(
            f"{type(self._model).__name__} changes its logits in a way that is not known here: "
            "use a backbone of another family (Qwen, Llama, GLM and Gemma are tested)."
        )


def text_decoder(model: PreTrainedModel) -> Any:
    """The part of a causal language model that makes hidden states of token ids.

    Some models give themselves, head included, as their decoder (Llama 4), or their head
    (ModernBERT): there it is within the model.
    """
    decoder = model.get_decoder()
    if decoder is not model and isinstance(decoder, PreTrainedModel):
        return decoder
    return next((part for part in model.children() if isinstance(part, PreTrainedModel)), model)


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether values are the same but for rounding, which in 16 bits is a percent or so."""
    tolerance = 0.1 if other.dtype.itemsize == 2 else 0.01
    return bool((one - other).float().norm() <= tolerance * other.float().norm())


def cap(logits: Tensor, softcap: float | None) -> Tensor:
    """Bound logits to (-softcap, softcap) as Gemma 2 does; None leaves them."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
