"""`python -m cgclora export`: tasks in the formats of other engines."""

import argparse
from pathlib import Path

from cgclora.cli.common import show
from cgclora.convert.formats import FORMATS, Export, export

HELP = """Export tasks to the engines that people run. A task's experts, weighted by its gate, are
one plain LoRA, so nothing is lost; it is written in float32 unless --precision says otherwise.

  python -m cgclora export --adapter assets/adapters/medical --format gguf --out gguf
  python -m cgclora export --adapter assets/adapters/medical --task KUAKE-QIC --format peft \\
      --out qic
  python -m cgclora export --adapter assets/adapters/medical --task KUAKE-QIC --format merged \\
      --out qic-merged
  python -m cgclora export --adapter assets/adapters/medical --adapter assets/adapters/general \\
      --format vllm --out bundle

Without --task all tasks are exported. Only merged loads the backbone's weights."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument(
        "--adapter", type=Path, action="append", required=True, help="adapter folder (vllm: repeat)"
    )
    parser.add_argument("--task", action="append", help="these tasks only (repeat)")
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        required=True,
        help="; ".join(f"{one.name}: {one.about}" for one in FORMATS.values()),
    )
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
    """Run the command."""
    names = ("adapter", "out", "task", "backbone", "base", "precision")
    manifest = export(options.format, Export(*(getattr(options, name) for name in names)))
    size = sum(file["bytes"] for file in manifest["files"].values()) / 1e6
    count = len(manifest["export"]["tasks"])
    tasks = f"{count} task{'s' * (count > 1)}"
    show(manifest, f"{tasks} as {options.format}, {size:.1f} MB in {options.out}", options)
