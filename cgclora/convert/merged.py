"""A task as a whole model: its experts added to the backbone's weights, saved for transformers."""

import copy
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cgclora.adapter import GATES, Adapter, folded_in
from cgclora.convert.model_card import describe, export_folder
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.data.template import standalone
from cgclora.layer import ExpertLinear
from cgclora.models.checkpoint import auto_class, quiet
from cgclora.storage.adapter_dir import AdapterError

_USAGE = """
```python
from transformers import {cls}, AutoTokenizer
model = {cls}.from_pretrained("<this folder>")
tokenizer = AutoTokenizer.from_pretrained("<this folder>")
```"""


def export_merged(
    adapter: Adapter, task: str, out: str | Path, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Write backbone and task as one model, as `save_pretrained` does, in the backbone's dtype.

    Its weights are those of `adapter.fold(task)`, bit for bit; the adapter's backbone is left as it
    is. Returns the export's manifest.

    Raises:
        ConfigError: The task is unknown.
        AdapterError: The backbone is quantised or only a part of what transformers loads, a task is
            folded in already, or `export_folder` refuses.
        OSError: The disk has no room for the model.
    """
    cls = auto_class(adapter.model.config)
    if cls is None:
        kind = adapter.model.config.model_type
        raise AdapterError(
            f"AutoModelForCausalLM does not know the text model of this backbone, {kind!r}, by "
            "itself, so that it would not load a merged one: export to peft."
        )
    weights = _folded_weights(adapter, task)
    distinct = {tensor.data_ptr(): tensor.nbytes for tensor in weights.values()}
    with export_folder(out, sum(distinct.values())) as fresh:
        with quiet():
            adapter.model.save_pretrained(fresh, state_dict=weights)
        if template := standalone(adapter.config.prompt_format):
            tokenizer = copy.copy(tokenizer)
            tokenizer.chat_template = template
        tokenizer.save_pretrained(fresh)
        facts = {"format": "merged", "tasks": [task], "rank": adapter.config.active_rank}
        usage = _USAGE.format(cls=cls.__name__)
        dtype = str(adapter.model.dtype).removeprefix("torch.")
        return describe(fresh, [TaskLoRAs.of(adapter)], usage, dtype=dtype, **facts)


def _folded_weights(adapter: Adapter, task: str) -> dict[str, Tensor]:
    """The backbone's weights with a task folded in, under the names of the bare backbone."""
    if folded := folded_in(adapter.model):
        raise AdapterError(f"task {folded[1]!r} is folded in: unfold() it before the export.")
    adapter.fold(task)
    try:
        state = adapter.model.state_dict()
    finally:
        adapter.unfold()  # the folded tensors live on in `state`
    ours = (*ExpertLinear.adapter_parameter_names, "frozen_weight")
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in state.items()
        if not name.startswith(f"{GATES}.") and not any(part in ours for part in name.split("."))
    }
