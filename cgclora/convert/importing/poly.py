"""An adapter of PEFT's Poly (arXiv 2202.13914; 2211.03831 with splits), each task as its own LoRA.

Poly averages the A and the B of its skills by weights w of the task, then multiplies:

    h = W0 x + 1/r * B_t A_t x      A_t = sum_i w[t, i] A_i      B_t = sum_i w[t, i] B_i

with w the sigmoids of the task's logits divided by their sum. The product also has B_i A_j of two
skills, so that no expert here is a skill: a task's A_t and B_t are its specific expert, exactly.
What tasks shared they share no longer when they are trained on.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cgclora.convert.importing.peft import (
    PEFT_FILES,
    PEFT_WEIGHTS,
    PREFIX,
    PeftLoRA,
    read_peft,
    read_peft_config,
    read_peft_tensors,
)
from cgclora.layer import EPSILON
from cgclora.storage.adapter_dir import AdapterError
from cgclora.storage.atomic_io import sha256_file
from cgclora.storage.hub import adapter_folder, adapter_name

_NAMES = {"poly_lora_A", "poly_lora_B", "poly_router.module_logits"}
_KEY = re.compile(
    rf"{re.escape(PREFIX)}(?P<path>.+)\.(?P<table>{'|'.join(map(re.escape, sorted(_NAMES)))})"
)


def read_tasks(folder: str | Path) -> list[PeftLoRA]:
    """What PEFT saved in a folder, or a hub id: a LoRA, or those of a Poly's tasks by their ids.

    Raises:
        AdapterError: As `read_peft`.
    """
    folder = adapter_folder(folder, PEFT_FILES)
    config = read_peft_config(folder)
    if config["peft_type"] != "POLY":
        return [read_peft(folder, config)]
    if config.get("poly_type", "poly") != "poly" or config.get("modules_to_save"):
        raise AdapterError(
            f"{folder} has poly_type {config.get('poly_type')!r} and modules_to_save "
            f"{config.get('modules_to_save')!r}: only Poly beside linear layers can be imported."
        )
    layers = _layers(folder, read_peft_tensors(folder))
    counts = {len(logits) for *_, logits in layers.values()}
    if len(counts) != 1:
        raise AdapterError(f"{folder} is damaged: its layers have {sorted(counts)} tasks.")
    name, sha256 = adapter_name(folder), sha256_file(folder / PEFT_WEIGHTS)
    loras = []
    for task in range(counts.pop()):
        tables = {path: _averaged(*layer, task) for path, layer in layers.items()}
        rank = max(len(A) for A, _ in tables.values())
        facts = {"name": name, "sha256": sha256, "task_id": task, "rank": rank, "alpha": 1.0}
        loras.append(
            PeftLoRA(
                name=f"{name}-{task}",
                layers=tables,
                scales={path: 1 / len(A) for path, (A, _) in tables.items()},
                rank=rank,
                alpha=1.0,
                stabilised=False,
                dropout=0.0,
                facts={**facts, "base_model": config.get("base_model_name_or_path")},
                separator=None,
                start="tokenizer",
                licence=None,
                descriptions={},
            )
        )
    return loras


def _layers(
    folder: Path, tensors: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """A [splits, skills, in / splits, r], B [splits, skills, r, out / splits], logits, in fp32.

    The logits are [tasks, splits * skills].
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if (match := _KEY.fullmatch(name)) is None:
            raise AdapterError(f"{folder} holds {name}, which is no part of Poly.")
        layers.setdefault(match["path"], {})[match["table"]] = tensor.float()
    for path, tables in layers.items():
        if tables.keys() != _NAMES:
            raise AdapterError(f"{folder} is damaged: {path} lacks {sorted(_NAMES - {*tables})}.")
        A, B, logits = (tables[name].shape for name in sorted(_NAMES))
        fit = len(A) == len(B) == 4 and A[:2] == B[:2] and A[3] == B[2] and min(*A, *B) > 0
        if not fit or len(logits) != 2 or not logits[0] or logits[1] != A[0] * A[1]:
            raise AdapterError(f"{folder} is damaged: the tables of {path} do not fit together.")
    if not layers:
        raise AdapterError(f"{folder} holds no Poly weights.")
    return {
        path: (tables["poly_lora_A"], tables["poly_lora_B"], tables["poly_router.module_logits"])
        for path, tables in layers.items()
    }


def _averaged(A: Tensor, B: Tensor, logits: Tensor, task: int) -> tuple[Tensor, Tensor]:
    """A task's A_t [r, in] and B_t [out, r]."""
    weights = logits[task].view(A.shape[:2]).sigmoid()
    weights = weights / (weights.sum(dim=-1, keepdim=True) + EPSILON)
    A_t = torch.einsum("qs,qsir->rqi", weights, A).flatten(1)
    B_t = torch.einsum("qs,qsro->qor", weights, B).flatten(0, 1)
    return A_t.contiguous(), B_t.contiguous()
