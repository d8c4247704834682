"""The judge's command line: `python -m evals classification`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cgclora.exit_codes import EXIT_CODES, run

DESCRIPTION = """Score the classification tasks of an adapter beside the bare backbone.

  python -m evals classification --adapter runs/mine/adapter --data test.jsonl --write

With --write the table goes into the adapter's manifest, under `classification`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m evals",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    table = commands.add_parser(
        "classification",
        help="accuracy of an adapter and of the bare backbone",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    table.add_argument("--adapter", type=Path, required=True, help="adapter folder")
    table.add_argument("--data", type=Path, required=True, help="test records, JSONL")
    table.add_argument("--backbone", help="local folder or hub id; default: the embedded one")
    table.add_argument("--most", type=int, default=0, help="first so many of a task; 0 takes all")
    table.add_argument("--batch-size", type=int, default=16)
    table.add_argument("--write", action="store_true", help="put the table into the manifest")
    table.set_defaults(command=_classification)
    options = parser.parse_args(arguments)
    return run(lambda: options.command(options))


def _classification(options: argparse.Namespace) -> None:
    from cgclora.adapter import Adapter
    from cgclora.backbone import EMBEDDED, load_backbone
    from cgclora.data import read_records
    from cgclora.storage import annotate
    from evals.classification import compare

    records = read_records(options.data)
    backbone = load_backbone(options.backbone or EMBEDDED)
    adapter = Adapter.load(options.adapter, backbone).for_inference()
    report = compare(backbone, adapter, records, most=options.most, batch_size=options.batch_size)
    if options.write:
        annotate(options.adapter, {"classification": report})
    print(json.dumps(report, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    sys.exit(main())
