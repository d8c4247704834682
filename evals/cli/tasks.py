"""`python -m evals tasks`: the tasks of some data, as a table that can be corrected."""

from __future__ import annotations

import argparse
import sys

HELP = """Print the tasks of some data that are not built in: kind of answer, labels, prompt
template, metrics and longest answer, as recognised from the records or set in `tasks.toml`.

  python -m evals tasks mine.jsonl > tasks.toml

Beside the data, the table says how answers are read and scored; keys that it leaves out are
recognised again."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("data", nargs="?", help="file or folder; default: $CGCLORA_DATA")
    parser.add_argument("--split", default="train", help="of a folder (default train)")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from evals.data import datasets
    from evals.tasks.recognition import to_toml

    dataset = datasets.read(options.data, split=options.split)
    if built_in := [name for name in dataset.tasks if all(name != e["name"] for e in dataset.own)]:
        print(f"built in, and not listed: {', '.join(built_in)}", file=sys.stderr)
    print(to_toml(dataset.own), end="")
