"""`python -m cgclora export` and `push`: tasks for other engines, in a folder or on the hub."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from cgclora.cli.common import show
from cgclora.convert.formats import FORMATS, Export, export, size

HELP = """Export tasks to the engines that people run. A task's experts, weighted by its gate, are
one plain LoRA, so nothing is lost; it is written in float32 unless --precision says otherwise.

  python -m cgclora export --adapter assets/adapters/medical --format gguf --out gguf
  python -m cgclora export --adapter assets/adapters/medical --task KUAKE-QIC --format peft \\
      --out qic
  python -m cgclora export --adapter assets/adapters/medical --task KUAKE-QIC --format merged \\
      --out qic-merged
  python -m cgclora export --adapter assets/adapters/medical --adapter assets/adapters/general \\
      --format vllm --out bundle

Without --task all tasks are exported. Only merged loads the backbone's weights. --size says how
large an export would be."""

PUSH = """Export tasks and upload them to the hub, as a model repository with a card.

  python -m cgclora push assets/adapters/medical me/qic --task KUAKE-QIC --private

The token is that of the environment: HF_TOKEN, or `hf auth login`. A missing repository is made. An
older export in it is replaced; one that holds something else is left alone."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument(
        "--adapter",
        type=Path,
        action="append",
        required=True,
        help="adapter folder or hub id (vllm: repeat)",
    )
    _export_options(parser, format=None)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to make; it replaces an older export there"
    )
    parser.add_argument("--zip", action="store_true", help="also pack it into OUT.zip")
    parser.add_argument(
        "--size", action="store_true", help="say how large it would be, and write nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def push_options(parser: argparse.ArgumentParser) -> None:
    """Give the command `push` its options."""
    parser.add_argument("adapter", type=Path, help="adapter folder or hub id")
    parser.add_argument("repo", help="<owner>/<name> on the hub")
    _export_options(parser, format="peft")
    parser.add_argument("--private", action="store_true", help="only you can see the repository")
    parser.add_argument("--revision", help="branch to write to (default: main)")
    parser.add_argument("--json", action="store_true", help="print the address as JSON")


def _export_options(parser: argparse.ArgumentParser, format: str | None) -> None:  # noqa: A002
    """What is exported; without a default `format` it must be given."""
    parser.add_argument("--task", action="append", help="these tasks only (repeat)")
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        required=format is None,
        default=format,
        help="; ".join(f"{one.name}: {one.about}" for one in FORMATS.values())
        + (f" (default: {format})" if format else ""),
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


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    order = _order(options, options.adapter, options.out)
    if options.size:
        count = size(options.format, order)
        words = "the format does not say" if count is None else f"about {count / 1e6:.1f} MB"
        return show({"bytes": count}, words, options)
    manifest = export(options.format, order)
    count = sum(file["bytes"] for file in manifest["files"].values())
    where = options.out
    if options.zip:
        from cgclora.storage.atomic_io import zip_folder

        where = zip_folder(where)
    summary = f"{_tasks(manifest)} as {options.format}, {count / 1e6:.1f} MB in {where}"
    return show(manifest, summary, options)


def push(options: argparse.Namespace) -> None:
    """Run the command `push`."""
    from cgclora.convert import hub

    with tempfile.TemporaryDirectory() as folder:
        order = _order(options, [options.adapter], Path(folder, "export"))
        manifest = export(options.format, order)
        address = hub.push(
            order.out, options.repo, private=options.private, revision=options.revision
        )
    summary = f"{_tasks(manifest)} as {options.format} in {address}"
    show({"address": address, "export": manifest["export"]}, summary, options)


def _order(options: argparse.Namespace, adapters: list[Path], out: Path) -> Export:
    names = ("task", "backbone", "base", "precision")
    return Export(adapters, out, *(getattr(options, name) for name in names))


def _tasks(manifest: dict[str, Any]) -> str:
    count = len(manifest["export"]["tasks"])
    return f"{count} task{'s' * (count > 1)}"
