"""`python -m cgclora export`: tasks in the formats of other engines."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from cgclora.convert.to_lora import TaskLoRAs

HELP = """Export tasks to the engines that people run. A task's experts, weighted by its gate, are
one plain LoRA, so nothing is lost; it is written in float32 unless --precision says otherwise.

  peft    a PEFT LoRA folder a task, for transformers, vLLM and others
  merged  the backbone with one task added to its weights, for whatever runs transformers models
  gguf    a file <task>.gguf a task, for llama.cpp (--lora) and what is built on it
  vllm    a folder to serve all tasks from: LoRAs, serve.sh, a client, a table of model names

  python -m cgclora export --adapter assets/adapters/medical --format gguf --out gguf
  python -m cgclora export --adapter assets/adapters/medical --task KUAKE-QIC --format peft \\
      --out qic
  python -m cgclora export --adapter assets/adapters/medical --task KUAKE-QIC --format merged \\
      --out qic-merged
  python -m cgclora export --adapter assets/adapters/medical --adapter assets/adapters/general \\
      --format vllm --out bundle

Without --task all tasks are exported. Only merged loads the backbone's weights."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--adapter", type=Path, action="append", required=True, help="adapter folder (vllm: repeat)"
    )
    parser.add_argument("--task", action="append", help="these tasks only (repeat)")
    parser.add_argument("--format", choices=("peft", "merged", "gguf", "vllm"), required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to make; it replaces an older export there"
    )
    parser.add_argument(
        "--backbone", help="local folder or hub id (default: the one that the adapter names)"
    )
    parser.add_argument(
        "--base", help="the backbone's folder or hub id where the export will be used (peft, vllm)"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "bfloat16"),
        help="of the written weights (default: float32; merged: the backbone's own)",
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def execute(options: argparse.Namespace) -> None:
    """Export, and say what was written."""
    from cgclora.config import ConfigError

    if len(options.adapter) > 1 and options.format != "vllm":
        raise ConfigError(f"--format {options.format} takes one --adapter, vllm takes several.")
    manifest = _merged(options) if options.format == "merged" else _loras(options)
    if options.json:
        print(json.dumps(manifest, ensure_ascii=False))
        return
    size = sum(file["bytes"] for file in manifest["files"].values()) / 1e6
    count = len(manifest["export"]["tasks"])
    print(f"{count} task{'s' * (count > 1)} as {options.format}, {size:.1f} MB in {options.out}")


def _loras(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from cgclora.convert.gguf import export_gguf
    from cgclora.convert.peft_export import export_peft
    from cgclora.convert.vllm import export_vllm

    sources = [_read(folder, options.backbone) for folder in options.adapter]
    dtype = getattr(torch, options.precision or "float32")
    if options.format == "vllm":
        return export_vllm(sources, options.out, options.task, base=options.base, dtype=dtype)
    if options.format == "peft":
        return export_peft(sources[0], options.out, options.task, base=options.base, dtype=dtype)
    return export_gguf(sources[0], options.out, options.task, dtype=dtype)


def _read(folder: Path, backbone: str | None) -> TaskLoRAs:
    from cgclora.convert.to_lora import TaskLoRAs
    from cgclora.storage.adapter_dir import read_manifest

    manifest, _ = read_manifest(folder)
    return TaskLoRAs.read(folder, _backbone_config(backbone or _named(folder, manifest)))


def _merged(options: argparse.Namespace) -> dict[str, Any]:
    from cgclora.adapter import Adapter
    from cgclora.config import ConfigError
    from cgclora.convert.merged import export_merged
    from cgclora.models.backbone import load_backbone
    from cgclora.storage.adapter_dir import read_manifest

    folder = options.adapter[0]
    manifest, config = read_manifest(folder)
    tasks = options.task or config.tasks
    if len(tasks) != 1:
        raise ConfigError("--format merged writes a whole model: name one --task.")
    config.task_index(tasks[0])  # before the backbone takes its time
    source = options.backbone or _named(folder, manifest)
    dtype = options.precision or getattr(_backbone_config(source), "dtype", None) or "auto"
    backbone = load_backbone(source, device="cpu", dtype=dtype)
    adapter = Adapter.load(folder, backbone)
    return export_merged(adapter, tasks[0], options.out, backbone.tokenizer)


def _named(folder: Path, manifest: dict[str, Any]) -> str:
    """The backbone that an adapter names.

    Raises:
        ConfigError: It names none.
    """
    from cgclora.config import ConfigError

    name = manifest["backbone"].get("name")
    if not name:
        raise ConfigError(f"{folder} does not name its backbone: give --backbone.")
    return str(name)


def _backbone_config(source: str) -> PretrainedConfig:
    """A backbone's config.json alone, fetched from the hub if it has to be.

    Raises:
        BackboneError: There is none, or not of a causal language model.
    """
    from cgclora.models.checkpoint import download, read_config
    from cgclora.models.embedded import EMBEDDED, embedded_folder

    def report(stage: str, fraction: float) -> None:
        print(f"[{fraction:4.0%}] {stage}", file=sys.stderr, flush=True)

    if source == EMBEDDED:
        return read_config(embedded_folder(report), source)
    folder = Path(source).expanduser()
    return read_config(folder if folder.is_dir() else download(source, ["config.json"]), source)
