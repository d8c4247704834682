"""The command line, `python -m cgclora`: train, generate, serve, inspect, export and more."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cgclora.cli import (
    accelerate,
    add_task,
    data,
    export,
    generate,
    import_,
    inspect,
    serve,
    train,
)
from cgclora.cli.analysis import affinity, router
from cgclora.cli.common import command_line
from cgclora.cli.exit_codes import run

COMMANDS = {
    "train": train,
    "data": data,
    "generate": generate,
    "inspect": inspect,
    "affinity": affinity,
    "export": export,
    "import": import_,
    "router": router,
    "serve": serve,
    "accelerate-config": accelerate,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    options = _parser().parse_args(arguments)
    return run(lambda: options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser, command = command_line(
        "python -m cgclora",
        "CGC-LoRA: one frozen language model, many tasks, experts shared and specific.",
    )
    for name, module in COMMANDS.items():
        module.add_options(command(name, module.HELP, module.execute))
    export.push_options(command("push", export.PUSH, export.push))
    add_task.add_options(command("add-task", add_task.ADD, add_task.add))
    add_task.drop_options(command("drop-task", add_task.DROP, add_task.drop))
    return parser


if __name__ == "__main__":
    sys.exit(main())
