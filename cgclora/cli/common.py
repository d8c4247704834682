"""The frame of a command line, and what several commands share: options, loading, printing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.cli.exit_codes import EXIT_CODES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cgclora.config import PromptFormat
    from cgclora.models.backbone import Backbone

_ADAPTERS = ("adapter", "base_adapter")
"""Options that name adapters, as a path, a list of paths, or a list of names and paths."""

AddCommand = Callable[[str, str, Callable[[argparse.Namespace], None]], argparse.ArgumentParser]
"""Name, help text and what to run to the command's own parser."""


def command_line(prog: str, description: str) -> tuple[argparse.ArgumentParser, AddCommand]:
    """A parser for a program, and the function that gives it a command.

    The first sentence of a command's text is its line in the list of commands; the parsed options
    hold what it runs as `command`.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(
        name: str, text: str, run: Callable[[argparse.Namespace], None]
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text.splitlines()[0].split(". ")[0].rstrip(".:") + ".",
            description=text,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=lambda options: run(_with_adapters_here(options)))
        return added

    return parser, add


def _with_adapters_here(options: argparse.Namespace) -> argparse.Namespace:
    """The options with local folders for adapters that are named by hub ids."""
    from cgclora.storage.hub import adapter_folder

    for name in _ADAPTERS:
        value = getattr(options, name, None)
        if isinstance(value, Path):
            setattr(options, name, adapter_folder(value))
        elif isinstance(value, list):
            folders = [
                (one[0], adapter_folder(one[1])) if isinstance(one, tuple) else adapter_folder(one)
                for one in value
            ]
            setattr(options, name, folders)
    return options


def backbone_options(parser: argparse._ActionsContainer) -> None:
    """Options that say which backbone to load, and where to."""
    parser.add_argument(
        "--backbone", help="local folder or hub id; without it, the embedded Gemma 3 270M"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps (default: the best)")
    parser.add_argument("--dtype", default="auto", help="bfloat16, float32 (default: the fastest)")


def four_bit_option(parser: argparse._ActionsContainer) -> None:
    """The option that trades exactness for memory."""
    parser.add_argument(
        "--four-bit",
        action="store_true",
        help="hold the frozen linear layers in 4 bits (NF4); needs bitsandbytes",
    )


def int8_option(parser: argparse.ArgumentParser) -> None:
    """The option that trades exactness for speed."""
    parser.add_argument(
        "--int8",
        action="store_true",
        help="decode with 8-bit weights: faster on CPUs, about 1 token in 100 differs",
    )


def prompt_options(parser: argparse._ActionsContainer) -> None:
    """Options that say how a prompt is written."""
    parser.add_argument(
        "--template",
        metavar="chat|plain|FILE",
        help="chat template: the backbone's own, none, or one in a file "
        "(default: chat where the backbone has one)",
    )
    parser.add_argument("--system", help="system text of prompts that have none of their own")
    parser.add_argument(
        "--template-option",
        type=_template_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what the template is told, such as enable_thinking=true (repeat)",
    )


def _template_option(text: str) -> tuple[str, str | int | float | bool]:
    """`NAME=VALUE` as a pair, for argparse, which reports the ValueError of anything else."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(text)
    try:
        read = json.loads(value)
    except ValueError:
        return name, value
    return name, read if isinstance(read, bool | int | float) else value


def has_prompts(options: argparse.Namespace) -> bool:
    """Whether any of the `prompt_options` is given."""
    return bool(options.template or options.system or options.template_option)


def choose_prompts(options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
    """The prompt format that the options name for a backbone; raises as `choose_format`."""
    from cgclora.data.template import choose_format

    return choose_format(
        tokenizer,
        options.template,
        options=dict(options.template_option),
        system=options.system,
    )


def show(facts: Any, text: str, options: argparse.Namespace) -> None:
    """Print facts as JSON if `--json` asks for it, else as text."""
    print(json.dumps(facts, ensure_ascii=False) if options.json else text)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def load(options: argparse.Namespace) -> Backbone:
    """The backbone that the options name."""
    from cgclora.inference.runtime import Runtime
    from cgclora.models.backbone import EMBEDDED, load_backbone

    backbone = load_backbone(
        options.backbone or EMBEDDED,
        device=options.device,
        dtype=options.dtype,
        four_bit=getattr(options, "four_bit", False),
        int8=getattr(options, "int8", False),
    )
    if backbone.int8:
        Runtime.of(backbone).warm_up()
    return backbone
