"""The decoding state of a backbone: its output head, the fast decoder, n-grams of answers."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Self

import torch

from cgclora.inference.fast_decoder import FastDecoder
from cgclora.inference.fast_decoder.decoder import DEVICES
from cgclora.inference.prompt_lookup import NgramCache
from cgclora.models.backbone import Backbone
from cgclora.models.checkpoint import is_four_bit
from cgclora.models.families import KNOWN, is_known
from cgclora.models.hardware import choose_device
from cgclora.models.lm_head import OutputHead
from cgclora.models.quantized import FEW_ROWS, has_fast_int4, has_kernel

_log = logging.getLogger(__name__)


class Runtime:
    """The decoding state of a backbone, created on first use.

    Attributes:
        ngrams: N-grams of earlier answers, for speculative decoding.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._model = backbone.model
        self._int8 = backbone.int8
        self.ngrams = NgramCache()

    @classmethod
    def of(cls, backbone: Backbone) -> Self:
        """The backbone's runtime."""
        state = backbone.state
        if cls not in state:
            with backbone.lock:
                state.setdefault(cls, cls(backbone))
        runtime: Self = state[cls]
        return runtime

    def warm_up(self) -> None:
        """Create head and decoder now, so that the first answer is not delayed."""
        _ = self.decoder, self.head

    @cached_property
    def head(self) -> OutputHead:
        """The model's output head.

        Raises:
            BackboneError: See `OutputHead`.
        """
        return OutputHead(self._model, packed=self._int8)

    @cached_property
    def is_fast(self) -> bool:
        """Whether `FastDecoder` supports the model on its device."""
        return self._model.device.type in DEVICES and is_known(self._model)

    @cached_property
    def decoder(self) -> FastDecoder | None:
        """The fast decoder; None unless `is_fast`, which is logged."""
        if not self.is_fast:
            _log.warning("%s: transformers answers, with the same results.", self._why_slow())
            return None
        return FastDecoder(self._model, int8=self._int8)

    def _why_slow(self) -> str:
        kind = self._model.config.get_text_config().model_type
        if self._model.device.type not in DEVICES:
            return f"the fast decoder does not run on {self._model.device.type}"
        if is_four_bit(self._model):
            return "the fast decoder has no code for 4-bit weights"
        if kind in KNOWN:
            return f"the fast decoder has no code for the settings of this {kind} model"
        return f"the fast decoder has no code for {kind} models (for {', '.join(KNOWN)})"

    def facts(self) -> dict[str, str]:
        """Which forward pass and weights compute answers, for manifests and pages."""
        dtype = str(self._model.dtype).removeprefix("torch.")
        if is_four_bit(self._model):
            dtype = f"nf4, computed in {dtype}"
        few = f"int8 up to {FEW_ROWS} tokens a pass, {self.head.choosing_bits}-bit head to choose"
        return {
            "pass": "lean" if self.is_fast else "transformers",
            "weights": f"{few}, else {dtype}" if self._int8 else dtype,
        }


def decoding_here(model_type: str) -> str:
    """A line on how a backbone of a type is decoded on this machine, see `Runtime.facts`."""
    device = choose_device("auto")
    if not {model_type, f"{model_type}_text"} & {*KNOWN}:  # the latter is that of a multimodal one
        return f"transformers on {device.type}: the fast decoder has no code for {model_type}"
    if device.type not in DEVICES:
        return f"transformers on {device.type}"
    if device.type != "cpu":
        return f"the fast decoder on {device.type}"
    bits = "no 8-bit weights"
    if has_kernel():
        bits = f"--int8 with a {4 if has_fast_int4() else 8}-bit head to choose"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"the fast decoder on cpu ({capability}); {bits}"
