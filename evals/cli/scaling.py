"""`python -m evals scaling`: what growth costs, by arithmetic and as measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = """Show what growth costs. Bytes of adapters and GPUs that hold them, for 10 to 10,000 tasks,
by arithmetic; with --measure also, on this machine, bytes of a bank of experts, seconds to plan a
batch and to decode with it as tasks grow, and how fast a cluster is loaded and let go.

  python -m evals scaling
  python -m evals scaling --measure --out scaling.json"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("--measure", action="store_true", help="measure on this machine, too")
    parser.add_argument("--backbone", help="folder or hub id; default: the embedded Gemma 3 270M")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each (default 5)")
    parser.add_argument("--out", type=Path, help="write the measurements to this file")
    parser.add_argument("--json", action="store_true", help="print them as JSON")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.models.backbone import EMBEDDED, load_backbone
    from cgclora.storage import atomic_io
    from evals.speed.scaling import CONFIG, measure, table

    if not options.measure:
        print(table(CONFIG))
        return
    report = measure(load_backbone(options.backbone or EMBEDDED), CONFIG, repeats=options.repeats)
    if options.out:
        atomic_io.write_json(options.out, report)
    if options.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    print(table(CONFIG), "\n")
    print("| tasks | bank | plan a batch | decode |\n|---|---|---|---|")
    for bank in report["banks"]:
        print(
            f"| {bank['tasks']:,} | {bank['bytes'] / 1e6:.0f} MB "
            f"| {1000 * bank['plan_seconds']:.0f} ms | {bank['decode_seconds']:.2f} s |"
        )
    swap = report["swap"]
    print(
        f"\na cluster of {swap['bytes'] / 1e6:.1f} MB is loaded in {swap['add_seconds']:.2f} s and "
        f"let go in {swap['remove_seconds']:.3f} s"
    )
