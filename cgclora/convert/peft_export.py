"""Tasks as LoRA folders in the format of PEFT, which transformers, vLLM and others read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cgclora.convert.model_card import describe, export_folder
from cgclora.convert.to_lora import PlainLoRA, TaskLoRAs, file_names
from cgclora.models.embedded import EMBEDDED
from cgclora.storage import atomic_io

_USAGE = """
```python
from peft import PeftModel
model = PeftModel.from_pretrained(backbone, "{folder}")
```

`backbone` is the model that the adapter was trained on, loaded with transformers{embedded}."""
_EMBEDDED = ": `from cgclora import load_backbone; backbone = load_backbone().model`"


def export_peft(
    source: TaskLoRAs,
    out: str | Path,
    tasks: Sequence[str] | None = None,
    *,
    base: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Write tasks, by default all, as PEFT LoRAs of a dtype; returns the export's manifest.

    For one task `out` is its folder, else `out` has one for each. `base`, the backbone's hub id or
    folder, goes into `adapter_config.json`; None takes the name in the adapter's manifest.

    Raises:
        ConfigError: A task is unknown.
        AdapterError: As `export_folder`.
    """
    loras = source.loras(tasks)
    base = base or source.manifest.get("backbone", {}).get("name") or ""
    names = file_names(lora.task for lora in loras)
    with export_folder(out) as fresh:
        if len(loras) == 1:
            return write_peft(fresh, source, loras[0], base, dtype)
        for lora in loras:
            write_peft(fresh / names[lora.task], source, lora, base, dtype)
        facts = {"format": "peft", "tasks": list(names), "rank": loras[0].rank}
        return describe(fresh, [source], _usage(base, "<this folder>/<task>"), **facts)


def write_peft(
    folder: Path, source: TaskLoRAs, lora: PlainLoRA, base: str, dtype: torch.dtype
) -> dict[str, Any]:
    """Write the folder of one LoRA of an adapter; returns its manifest.

    `lora_alpha` is the rank, which makes PEFT's factor alpha / r one: scale and gate are in B.
    Layers that PEFT would take for routed experts are named by their weight, as a parameter.
    """
    hidden = source.hidden_from_peft
    names = {_last(path) for path in hidden}
    folder.mkdir(exist_ok=True, parents=True)
    atomic_io.write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "inference_mode": True,
            "r": lora.rank,
            "lora_alpha": lora.rank,
            "lora_dropout": 0.0,
            "target_modules": [one for one in lora.target_modules if _last(one) not in names],
            "target_parameters": [f"{path}.weight" for path in hidden] or None,
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "modules_to_save": None,
            "use_dora": False,
            "use_rslora": False,
        },
    )
    tensors = {
        f"base_model.model.{path}.lora_{letter}.weight": matrix.to(dtype).contiguous()
        for path, matrices in lora.layers.items()
        for letter, matrix in zip("AB", matrices, strict=True)
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    facts = {"format": "peft", "tasks": [lora.task], "rank": lora.rank}
    return describe(folder, [source], _usage(base, "<this folder>"), **facts)


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _usage(base: str, folder: str) -> str:
    return _USAGE.format(folder=folder, embedded=_EMBEDDED if base == EMBEDDED else "")
