"""One task of an adapter as a plain LoRA, the form that other engines read.

A task's gate does not depend on the token, so that in each adapted layer

    s * sum_e g[t, e] * B_e A_e  =  (B diag(w)) A        w = s * g[t], each weight repeated k times

over the experts that task t may use (arXiv 2402.01684): a LoRA of rank (C + S) * k. Every layer has
gate weights of its own; they are multiplied into B in fp32, and A stays as it was stored. Where all
experts share one A [k, in], so are the tasks' matrices, (s * sum_e g[t, e] * B_e M_t) A, of rank k.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, PromptFormat
from cgclora.layer import TaskGate, folded_B
from cgclora.models.checkpoint import auto_class
from cgclora.models.gates import gate_of
from cgclora.models.target_modules import saved_paths
from cgclora.storage import adapter_dir
from cgclora.storage.adapter_dir import AdapterError
from cgclora.storage.hub import adapter_folder

_WRITTEN = {
    *("manifest.json", "readme.md", "notice", "gemma_terms.md"),
    *("models.json", "client.py", "serve.sh", "chat_template.jinja"),
}
"""Files that exports write beside those of the tasks, in lower case."""

_LONGEST_NAME = 200
"""Bytes. File systems take 255, and an ending may follow."""

_EXPERT_NAMES = {
    "mixtral": {"gate", "w1", "w2", "w3"},
    "qwen2_moe": {"gate", "gate_proj", "up_proj", "down_proj"},
}
"""What PEFT takes for routed experts and their router, by transformers' pattern of a model type."""


@dataclass(frozen=True)
class PlainLoRA:
    """One task's LoRA: it adds B A x to the output of each of its layers, without a scale."""

    task: str
    layers: Mapping[str, tuple[Tensor, Tensor]]  # fp32 A [r, in] and B [out, r] by path
    rank: int  # r, the same in every layer
    target_modules: tuple[str, ...]  # names by which PEFT finds exactly these layers
    prompt_format: PromptFormat  # of its training


@dataclass(frozen=True)
class TaskLoRAs:
    """An adapter's experts and gates, of which tasks' LoRAs are made without a backbone."""

    config: AdapterConfig
    manifest: Mapping[str, Any]  # its folder's; of an adapter never saved the backbone alone
    backbone: PretrainedConfig
    layers: Mapping[str, tuple[Tensor, Tensor]]  # A [E*k or k, in], B [out, E*k], in gate order
    weights: Tensor  # of ranks, [L, T, 1 or k, E*k], see `TaskGate.rank_weights`
    target_modules: tuple[str, ...]  # names by which PEFT finds exactly these layers

    @classmethod
    def of(cls, adapter: Adapter) -> Self:
        """Those of an adapter on its backbone."""
        layers = {
            path: (layer.expert_A[adapter.name].detach(), layer.expert_B[adapter.name].detach())
            for path, layer in adapter.layers.items()
        }
        return cls(
            adapter.config,
            adapter.manifest or {"backbone": adapter.backbone_facts()},
            adapter.model.config,
            {path: (A.cpu(), B.cpu()) for path, (A, B) in layers.items()},
            _rank_weights(adapter.gate),
            module_names(adapter.model, list(layers)),
        )

    @classmethod
    def read(cls, folder: str | Path, backbone: PretrainedConfig) -> Self:
        """Those of a saved adapter, by folder or hub id; of the backbone its config is enough.

        Raises:
            AdapterError: The folder is not an adapter or is damaged, or a backbone of this config
                is of another type or has other layers.
        """
        folder = adapter_folder(folder)
        manifest, config = adapter_dir.read_manifest(folder)
        tensors = adapter_dir.read_tensors(folder)
        with torch.device("meta"):  # the gates' rows stand in the order of the backbone's layers
            skeleton = auto_class(backbone).from_config(backbone)
        paths = saved_paths(skeleton, config.target_modules, tensors)
        kind = skeleton.config.model_type
        trained_on = manifest["backbone"].get("model_type", kind)  # older manifests lack it
        sizes = {
            path: (A.shape[1], tensors[f"{path}.expert_B"].shape[0])
            for name, A in tensors.items()
            if (path := name.removesuffix(".expert_A")) != name
        }
        linear = {path: cast(nn.Linear, skeleton.get_submodule(path)) for path in paths}
        expected = {path: (one.in_features, one.out_features) for path, one in linear.items()}
        if trained_on != kind or sizes != expected:
            raise AdapterError(
                f"{folder} was trained on a backbone of other layers or another type than "
                f"{kind!r} in this size: name the one it was trained on, "
                f"{manifest['backbone'].get('name') or 'which has no name'}."
            )
        layers = {
            path: (tensors[f"{path}.expert_A"], tensors[f"{path}.expert_B"]) for path in paths
        }
        weights = _rank_weights(gate_of(folder, config, tensors))
        names = module_names(skeleton, paths)
        return cls(config, manifest, skeleton.config, layers, weights, names)

    def lora(self, task: str) -> PlainLoRA:
        """A task's experts as one LoRA.

        Raises:
            ConfigError: The task is unknown.
        """
        config, number = self.config, self.config.task_index(task)
        rank, usable = config.active_rank, torch.ones(config.rank_of_A, dtype=torch.bool)
        if not config.shared_A:
            usable = torch.tensor(config.access()[number]).repeat_interleave(config.expert_rank)
        layers = {}
        for (path, (A, B)), weights in zip(
            self.layers.items(), self.weights[:, number], strict=True
        ):
            folded = folded_B(B.float(), weights.float(), len(A))
            layers[path] = A.float()[usable].contiguous(), folded[:, usable].contiguous()
        return PlainLoRA(task, layers, rank, self.target_modules, config.prompt_format)

    @property
    def hidden_from_peft(self) -> tuple[str, ...]:
        """Paths of the layers that PEFT would not adapt by module names in a backbone of this type.

        Where transformers 5 holds all routed experts in one parameter, PEFT reads any LoRA as one
        of the model as it was before: a target that is called like a part of an expert becomes
        that parameter, also where dense layers or shared experts are called so (its issue 3711).
        """
        kind = self.backbone.model_type
        patterns = _MODEL_TO_CONVERSION_PATTERN | {"mixtral": "mixtral"}  # PEFT's own addition
        names = _EXPERT_NAMES.get(patterns.get(kind, ""), set())
        return tuple(path for path in self.layers if path.rpartition(".")[2] in names)

    def loras(self, tasks: Sequence[str] | None) -> list[PlainLoRA]:
        """A LoRA for each task, by default for all of the adapter; raises as `lora`."""
        return [self.lora(task) for task in dict.fromkeys(tasks or self.config.tasks)]


@torch.no_grad()
def _rank_weights(gate: TaskGate) -> Tensor:
    return gate.rank_weights(gate()).cpu()


def file_names(tasks: Iterable[str]) -> dict[str, str]:
    """A name for each task that files, shells and servers take: letters, digits, `_`, `.`, `-`.

    It has up to 200 bytes, does not begin like an option, and differs from an export's own files.

    Raises:
        AdapterError: Two tasks would share one.
    """
    names: dict[str, str] = {}
    for task in tasks:
        name = re.sub(r"[^\w.-]+", "_", task).strip("._").lstrip("-._") or "task"
        if name.casefold() in _WRITTEN:
            name = f"task_{name}"
        if len(name.encode()) > _LONGEST_NAME:
            mark = f"_{hashlib.sha256(task.encode()).hexdigest()[:8]}"  # two may begin alike
            name = name.encode()[: _LONGEST_NAME - len(mark)].decode(errors="ignore") + mark
        if name in names.values():
            raise AdapterError(f"two tasks would be called {name!r}: export them one by one.")
        names[task] = name
    return names


def module_names(model: PreTrainedModel, paths: Sequence[str]) -> tuple[str, ...]:
    """Names that fit exactly these layers of a model: last parts that no others have, else paths.

    PEFT takes both; other engines expect last parts.
    """
    others = {path.rpartition(".")[2] for path, _ in model.named_modules() if path not in paths}
    lasts = {path: path.rpartition(".")[2] for path in paths}
    return tuple(sorted({path if last in others else last for path, last in lasts.items()}))
