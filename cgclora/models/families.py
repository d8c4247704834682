"""Families of decoders whose forward passes are written here, for training and for decoding.

They are made of RMS norms, rotary positions, grouped-query attention and a gated MLP: Gemma 3,
Llama, Qwen 2 and Qwen 3. All others take the path of `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:  # who only asks what there is does not wait for it
    from transformers import PreTrainedModel

KNOWN = ("gemma3_text", "llama", "qwen2", "qwen3")
"""Their model types."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}

_MANY_HEADS = 16  # of an indexer: the fewest of a released model


def is_known(model: PreTrainedModel) -> bool:
    """Whether the passes written here compute what this model computes."""
    config = model.config.get_text_config()
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    return (
        config.model_type in KNOWN
        and activation in ACTIVATIONS
        and not getattr(config, "attn_logit_softcapping", None)
        and not getattr(config, "use_bidirectional_attention", False)
        and "dynamic" not in str(getattr(config, "rope_parameters", None))
        and "longrope" not in str(getattr(config, "rope_parameters", None))
        and getattr(model.config, "quantization_config", None) is None
    )


def picks_may_tie(model: PreTrainedModel) -> bool:
    """Whether the keys that a model picks for sparse attention may be equally good.

    The indexer of DeepSeek-V3.2 (arXiv 2512.02556), GLM-5 and others adds up a ReLU per head, and
    keys whose ReLUs are all 0 tie. `topk` then takes some of them, and other ones in a wider row.
    With half of the ReLUs at 0 that is one key in 2^heads: none with the 16 to 64 heads of released
    models.
    """
    config = model.config.get_text_config()
    return hasattr(config, "index_topk") and getattr(config, "index_n_heads", 0) < _MANY_HEADS
