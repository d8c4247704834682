"""`python -m evals bench`: the method's speed beside its peers'."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cgclora.cli.common import backbone_options, load

HELP = """Measure speed side by side on this machine: training steps against PEFT and a loop over
experts, folded and unfolded decoding, tasks of many clusters, growth with the number of experts,
start-up time. Needs the package peft. Takes some minutes; nothing else should run meanwhile.

  python -m evals bench --out bench.json"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    backbone_options(parser)
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--only", action="append", help="run these parts only, by name")
    parser.add_argument("--repeats", type=int, default=5, help="timings a method (default 5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.storage import atomic_io
    from evals.speed import bench

    report = bench.run(load(options), only=options.only, repeats=options.repeats)
    print(json.dumps(report) if options.json else bench.table(report), flush=True)
    if options.out:
        atomic_io.write_json(options.out, report)
