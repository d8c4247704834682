"""The command line: `python -m evals run | predict | score | report | compare | ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cgclora.cli.common import command_line
from cgclora.cli.exit_codes import run
from evals.cli import (
    adapters,
    affinity,
    classification,
    detection,
    docs,
    grid,
    jobs,
    own_data,
    predict,
    report,
    speed,
)

COMMANDS = {
    "matrix": grid,
    "classification": classification,
    "docs": docs,
    "detection": detection,
    "affinity": affinity,
    "jobs": jobs,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    from evals.runs.run_dir import RunError
    from evals.tasks.names import UnknownNameError

    options = _parser().parse_args(arguments)
    return run(lambda: options.command(options), also={RunError: 6, UnknownNameError: 2})


def _parser() -> argparse.ArgumentParser:
    parser, command = command_line(
        "python -m evals",
        "Evaluate adapters on Chinese tasks: answer the data, then score the answers.",
    )
    predict.add(command)
    report.add(command)
    own_data.add(command)
    adapters.add(command)
    for name, module in COMMANDS.items():
        module.add_options(command(name, module.HELP, module.execute))
    speed.add(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
