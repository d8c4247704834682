"""A LoRA in PEFT's format, read without PEFT: JSON and safetensors only, never pickle."""

import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cgclora.config import Start
from cgclora.data.task_table import Entries, descriptions_in
from cgclora.data.template import TEMPLATE_FILE
from cgclora.storage.adapter_dir import MANIFEST_FILE, AdapterError
from cgclora.storage.atomic_io import sha256_file
from cgclora.storage.hub import adapter_folder, adapter_name

PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_FILES = (PEFT_CONFIG, PEFT_WEIGHTS)
PREFIX = "base_model.model."
_KEY = re.compile(rf"{re.escape(PREFIX)}(?P<path>.+)\.lora_(?P<letter>[AB])\.weight")
_CHANGES_MORE = (  # than B A beside a linear layer
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "megatron_config",
)
_KEEP_BACKBONE = ("gaussian", "eva", "orthogonal", "mica")  # others subtract from its weights
_PLAIN = {  # read below, or told by the tensors, or without effect on what they compute
    *("peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode"),
    *("base_model_name_or_path", "revision", "target_modules", "exclude_modules"),
    "target_parameters",  # of linear layers, see `_read_config`
    *("layers_to_transform", "layers_pattern", "r", "rank_pattern", "lora_alpha", "alpha_pattern"),
    *("use_rslora", "lora_dropout", "fan_in_fan_out", "bias", "ensure_weight_tying"),
    *("init_lora_weights", "eva_config", "corda_config", "lora_ga_config", "loftq_config"),
    *("qalora_group_size", "megatron_core"),
}


_TOKEN_MIXTURES = {"XLORA", "MIXLORA"}
"""Types of adapters that weigh LoRAs for each token: X-LoRA, MixLoRA."""

_ROUTES_TOKENS = (  # what configs of such mixtures have that call themselves LORA
    "routing_strategy",  # MixLoRA
    "router_aux_loss_coef",
    "lora_nums",  # LoRAMoE, HydraLoRA
    "num_experts",
    "arrow_config",  # Arrow, in PEFT
)


@dataclass(frozen=True)
class PeftLoRA:
    """What a folder holds: h = W0 x + scale * B A x in each of its layers."""

    name: str  # the folder's own name
    layers: Mapping[str, tuple[Tensor, Tensor]]  # A [r, in], B [out, r] by path; r may differ
    scales: Mapping[str, float]  # each layer's alpha / r, or alpha / sqrt(r) (arXiv 2312.03732)
    rank: int  # the largest r
    alpha: float  # `lora_alpha`
    stabilised: bool  # whether it is an rsLoRA
    dropout: float  # of the features while it was trained
    facts: Mapping[str, Any]  # what identifies it, for a manifest
    separator: str | None  # text between prompt and answer, of an export of ours only
    # What stands before a prompt, see `PromptFormat`. Exports of ours say it but for old ones,
    # which are of `bos`; PEFT's own folders are as the tokenizer has it.
    start: Start
    licence: str | None
    descriptions: Entries  # of its tasks, of an export of ours only; by name
    # Of an export of ours only: its chat template, in which options and system text stand; and the
    # system text where there is no template.
    template: str | None = None
    system: str | None = None


def read_peft(folder: str | Path, config: Mapping[str, Any] | None = None) -> PeftLoRA:
    """Read a LoRA as PEFT saves it, by folder or hub id.

    `config` is its `read_peft_config`, if that was read already.

    Raises:
        AdapterError: It or a manifest beside it is damaged, or it is missing, or it does more than
            add B A beside linear layers (DoRA, biases, saved modules, embeddings, ...), or its
            start changed the backbone (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ).
    """
    name = adapter_name(folder)
    folder = adapter_folder(folder, PEFT_FILES)
    config = config or read_peft_config(folder)
    if config["peft_type"] == "POLY":
        raise AdapterError(f"{folder} is a Poly of many tasks: read it with `read_tasks`.")
    tensors = read_peft_tensors(folder)
    layers = _pairs(folder, tensors)
    try:
        alpha, stabilised = float(config["lora_alpha"]), bool(config.get("use_rslora"))
        table = config.get("alpha_pattern") or {}
        if not isinstance(table, dict):
            raise TypeError(f"alpha_pattern is {table!r}, which is no table")
        patterns = {str(key): float(value) for key, value in table.items()}
        scales = {}
        for path, (A, _) in layers.items():
            fitting = (value for key, value in patterns.items() if _fits(key, path))
            scales[path] = next(fitting, alpha) / (math.sqrt(len(A)) if stabilised else len(A))
        dropout = float(config.get("lora_dropout") or 0.0)
    except (KeyError, TypeError, ValueError, re.error) as error:
        raise AdapterError(f"{folder / PEFT_CONFIG} is damaged: {error!r}.") from error
    if not all(scale > 0 for scale in scales.values()):
        raise AdapterError(f"{folder} has a lora_alpha that is not positive: it changes nothing.")
    ours = _our_manifest(folder)
    rank = max(len(A) for A, _ in layers.values())
    facts = {
        "name": name,
        "sha256": sha256_file(folder / PEFT_WEIGHTS),
        "base_model": config.get("base_model_name_or_path"),
        "rank": rank,
        "alpha": alpha,
    }
    return PeftLoRA(
        name=name,
        layers=layers,
        scales=scales,
        rank=rank,
        alpha=alpha,
        stabilised=stabilised,
        dropout=dropout,
        facts=facts,
        separator=ours.get("separator"),
        template=_template(folder, ours),
        system=None if "chat_template" in ours else ours.get("system"),
        start=ours.get("start", "bos") if ours else "tokenizer",
        licence=ours.get("licence"),
        descriptions=descriptions_in(ours),
    )


def read_peft_config(folder: Path) -> Mapping[str, Any]:
    """The config of a LoRA or a Poly that PEFT saved.

    Raises:
        AdapterError: As `read_peft`.
    """
    try:
        config = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(f"{folder} holds no PEFT adapter: {PEFT_CONFIG} is missing.") from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"{folder / PEFT_CONFIG} is damaged: {error}.") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    routing = [name for name in _ROUTES_TOKENS if kind is not None and config.get(name)]
    if kind in _TOKEN_MIXTURES or routing:
        raise AdapterError(
            f"{folder} is a mixture of LoRAs whose router reads every token "
            f"({', '.join(routing) or kind}). Experts here are weighted by the task alone, so that "
            "each task is one LoRA: no such weights give the same answers. Train an adapter on the "
            "same data, or serve this one with the library that made it."
        )
    if not isinstance(config, dict) or kind not in {"LORA", "POLY"}:
        raise AdapterError(f"{folder} is of PEFT type {kind!r}: only LORA and POLY are imported.")
    if kind == "POLY":
        return config
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in _KEEP_BACKBONE:
        raise AdapterError(
            f"{folder} was trained with init_lora_weights={start}, which is not known to leave the "
            "backbone's weights as they were, so that its A and B alone are another function. Save "
            "it anew where it was trained: `model.save_pretrained(folder, "
            "path_initial_model_for_weight_conversion=...)` with the adapter as it was before "
            "training makes a plain LoRA of PiSSA, OLoRA, CorDA and LoRA-GA; for LoftQ and others "
            "`model.merge_and_unload()` makes a backbone."
        )
    refused = [name for name in _CHANGES_MORE if config.get(name)]
    parameters = config.get("target_parameters") or ()
    if not all(str(name).endswith(".weight") for name in parameters):  # of routed experts
        refused.append("target_parameters")
    if config.get("bias", "none") != "none":
        refused.append("bias")
    if refused:
        raise AdapterError(
            f"{folder} uses {', '.join(refused)}, which does more than add B A beside a linear "
            "layer: merge it into its backbone with PEFT instead."
        )
    rest = config.keys() - _PLAIN.union(_CHANGES_MORE)
    if unknown := sorted(name for name in rest if config[name]):
        warnings.warn(
            f"{folder / PEFT_CONFIG} has fields ignored, not known to this version: {unknown}",
            stacklevel=3,
        )
    return config


def read_peft_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights by name.

    Raises:
        AdapterError: The file is missing or damaged.
    """
    path = folder / PEFT_WEIGHTS
    if not path.is_file():
        raise AdapterError(
            f"{path} is missing: load the adapter with PEFT and save it again, which writes "
            "safetensors. Pickled weights (.bin) are never read."
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise AdapterError(f"{path} is damaged: {error}.") from error


def _pairs(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each layer, in fp32."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None or tensor.dim() != 2:
            raise AdapterError(
                f"{folder} holds {name}, which is not A or B of a linear layer: it cannot be "
                "imported."
            )
        layers.setdefault(match["path"], {})[match["letter"]] = tensor.float()
    if not layers:
        raise AdapterError(f"{folder} holds no LoRA weights.")
    for path, matrices in layers.items():
        if len(matrices) != 2 or len(matrices["A"]) != matrices["B"].shape[1]:
            raise AdapterError(f"{folder} is damaged: A and B of {path} do not fit together.")
        if not len(matrices["A"]):
            raise AdapterError(f"{folder / PEFT_WEIGHTS} is damaged: {path} has rank 0.")
    return {path: (matrices["A"], matrices["B"]) for path, matrices in layers.items()}


def _fits(pattern: str, path: str) -> bool:
    """Whether a key of PEFT's `alpha_pattern` names a layer: a regular expression of its end."""
    return re.match(rf"(.*\.)?({pattern})$", path) is not None


def _template(folder: Path, ours: Mapping[str, Any]) -> str | None:
    """The chat template of an export of ours; None if it has none."""
    if "chat_template" not in ours:
        return None
    try:
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(
            f"{folder / TEMPLATE_FILE} is missing or damaged ({error}): fetch the folder again."
        ) from error


def _our_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of an export of ours; empty for folders of others."""
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise TypeError(f"a {type(manifest).__name__} where a table should be")
        if "export" not in manifest:
            return {}
        for name in ("separator", "licence", "chat_template", "system"):
            if not isinstance(manifest.get(name), str | None):
                raise TypeError(f"{name} is {manifest[name]!r}, which is no text")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise AdapterError(
            f"{path} is damaged ({error}): fetch the folder again, or remove this file and say "
            "with --separator what stands between prompt and answer."
        ) from error
    return manifest
