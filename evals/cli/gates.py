"""`python -m evals gates`: what an adapter loses without its gates, or without some experts."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

_SECONDS = 10.0  # between two lines of progress

HELP = """Answer the dev records of an adapter with its learned gates, with uniform ones, and
without its specific or its common experts; score the answers, and compare them in pairs.

  python -m evals gates --adapter assets/adapters/medical --data data --most 100

With --write the table goes into the adapter's manifest, under `gate effects`: the app shows it."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    from evals.cli.common import answering_options

    parser.add_argument("--adapter", type=Path, required=True, help="adapter folder")
    parser.add_argument("--data", help="file, folder or hub id; default: $CGCLORA_DATA")
    parser.add_argument("--split", default="dev", help="of a folder or hub id (default dev)")
    parser.add_argument("--most", type=int, default=0, help="first so many of a task; 0 takes all")
    parser.add_argument("--write", action="store_true", help="put the table into the manifest")
    answering_options(parser)


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.adapter import Adapter
    from cgclora.cli.common import load
    from cgclora.storage.adapter_dir import annotate
    from evals.cli.predict import print_progress
    from evals.data import datasets
    from evals.runs.gate_ablation import ablate

    dataset = datasets.read(options.data, split=options.split)
    backbone = load(options)
    adapter = Adapter.load(options.adapter, backbone).for_inference()
    started = shown = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _SECONDS:
            shown = now
            left = (now - started) * (total - done) / done
            print_progress({"done": done, "total": total, "seconds_left": left})

    report = ablate(
        backbone,
        adapter,
        dataset,
        per_task=options.most,
        batch_size=options.batch_size,
        progress=progress,
    )
    if options.write:
        annotate(options.adapter, {"gate effects": report})
    print(json.dumps(report, ensure_ascii=False, indent=2))
