"""`python -m evals compare`: two runs task by task."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evals.cli.common import data_options, dataset

HELP = """Compare two runs task by task: who answers better, and whether that may be chance.

  python -m evals compare runs/cgc runs/lora
  python -m evals compare runs/cgc runs/lora --data test.jsonl

Without --data the replicates that stay with each run are compared (paired bootstrap). With it the
answers are scored anew, and the test is a paired permutation of the answers."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("first", type=Path, metavar="RUN_A", help="run folder")
    parser.add_argument("second", type=Path, metavar="RUN_B", help="run folder")
    data_options(parser, default="the runs' own replicates")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    import dataclasses

    from evals.leaderboard.comparison import compare
    from evals.leaderboard.tables import comparison_table
    from evals.runs.run_dir import read_run

    runs = read_run(options.first), read_run(options.second)
    comparison = compare(*runs, dataset(options) if options.data else None)
    if options.json:
        print(json.dumps(dataclasses.asdict(comparison), ensure_ascii=False))
    else:
        print(comparison_table(comparison).text())
