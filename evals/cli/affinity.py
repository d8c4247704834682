"""`python -m evals affinity`: figures of measured inter-task affinities."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = """Draw what `python -m cgclora affinity` measured: heat map or page.

  python -m evals affinity runs/affinity/affinity.json --groups 2 --out affinity.svg
  python -m evals affinity runs/affinity/affinity.json --page assets/results/affinity

A page is a folder with the result, the heat map (SVG) and a README.md of tables."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("result", type=Path, help="affinity.json")
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--out", type=Path, help="heat map to write, .svg")
    to.add_argument("--page", type=Path, help="folder to write all into")
    parser.add_argument(
        "--form", choices=("first-order", "lookahead"), default="first-order", help="for --out"
    )
    parser.add_argument("--groups", type=int, default=0, help="default: as suggested")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.cli.analysis.affinity import read_result
    from cgclora.config import ConfigError
    from cgclora.storage import atomic_io
    from evals.figures.affinity import heat_map
    from evals.figures.affinity_page import RESULT, files_of

    result = read_result(options.result)
    try:
        if options.out:
            picture = heat_map(result, options.form.replace("-", "_"), options.groups)
            atomic_io.write_text(options.out, picture)
            return
        page = files_of(result, options.groups)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    options.page.mkdir(parents=True, exist_ok=True)
    atomic_io.write_text(options.page / RESULT, options.result.read_text(encoding="utf-8"))
    for name, text in page.items():
        atomic_io.write_text(options.page / name, text)
