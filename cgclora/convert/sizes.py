"""How large an export will be, from the shapes of adapter and backbone: nothing is exported.

Tensors are counted exactly, the names beside them and the texts nearly so.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from cgclora.config import AdapterConfig
from cgclora.storage.layer_shapes import layer_sizes

_TERMS = 9_520  # bytes of Gemma's terms and notice
_CARD = 2_150  # of card and manifest beside the config
_PEFT_CONFIG = 400
_BUNDLE = 2_300  # of `serve.sh`, the client and the table of models
_HEADER = 73  # of a tensor's entry in safetensors, beside its name
_GGUF_ENTRY = 40  # of a tensor's entry in GGUF, and on average of the padding of its values
_GGUF_FACTS = 460
_COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""What a merged model takes over from its backbone."""

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class LoRASizes:
    """Sizes of the LoRAs of a saved adapter, in bytes.

    Raises:
        OSError, ValueError: A file of the adapter is missing or damaged.
    """

    def __init__(self, folder: Path, tasks: Sequence[str] | None, precision: str | None) -> None:
        text = (folder / "config.json").read_text(encoding="utf-8")
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        config = AdapterConfig.from_dict(json.loads(text))
        self.tasks = tuple(dict.fromkeys(tasks or config.tasks))
        self._layers = layer_sizes(folder)
        rank = config.active_rank
        values = sum(rank * (inner + outer) for inner, outer in self._layers.values())
        self._tensors = values * _BYTES[precision or "float32"]
        backbone = manifest.get("backbone", {})
        is_gemma = "gemma" in f"{backbone.get('name')} {backbone.get('model_type')}".lower()
        self.card = _CARD + len(text.encode()) + is_gemma * _TERMS

    @property
    def peft(self) -> int:
        """A folder of one task."""
        names = sum(
            2 * (len(path) + len("base_model.model..lora_A.weight")) for path in self._layers
        )
        headers = names + 2 * len(self._layers) * _HEADER
        return self._tensors + headers + _PEFT_CONFIG + self.card

    @property
    def gguf(self) -> int:
        """A file of one task."""
        names = 2 * len(self._layers) * (len("blk.00.attn_output.weight.lora_a") + _GGUF_ENTRY)
        return self._tensors + names + _GGUF_FACTS


def peft_bytes(sizes: LoRASizes) -> int:
    """A PEFT export: one folder, or one for each task with a card above."""
    count = len(sizes.tasks)
    return count * sizes.peft + (count > 1) * sizes.card


def gguf_bytes(sizes: LoRASizes) -> int:
    """A GGUF export: a file for each task, and a card."""
    return len(sizes.tasks) * sizes.gguf + sizes.card


def vllm_bytes(sizes: Sequence[LoRASizes], backbone: Path | None) -> int:
    """A vLLM bundle of several adapters; with the folder of a backbone that is copied into it."""
    copied = 0 if backbone is None else sum(path.stat().st_size for path in backbone.iterdir())
    loras = sum(len(one.tasks) * one.peft for one in sizes)
    return loras + max(one.card for one in sizes) + _BUNDLE + copied


def merged_bytes(sizes: LoRASizes, backbone: Path, precision: str | None) -> int:
    """A merged model: as many values as its backbone has, and the backbone's tokenizer.

    The folder holds at least the backbone's `config.json` and its tokenizer. Imports transformers.

    Raises:
        BackboneError: The config cannot be read.
    """
    import torch  # noqa: PLC0415 - slow, and not needed for LoRAs

    from cgclora.models.checkpoint import auto_class, read_config  # noqa: PLC0415

    config = read_config(backbone, str(backbone))
    with torch.device("meta"):
        skeleton = auto_class(config).from_config(config)
    dtype: torch.dtype = getattr(torch, precision) if precision else skeleton.dtype
    values: int = sum(one.numel() for one in skeleton.parameters())  # tied ones once
    names = sum(len(name) + _HEADER for name, _ in skeleton.named_parameters())
    copied = sum((backbone / one).stat().st_size for one in _COPIED if (backbone / one).exists())
    return values * dtype.itemsize + names + copied + sizes.card
