"""`python -m evals classification`: an adapter beside the bare backbone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = """Score the classification tasks of an adapter beside the bare backbone.

  python -m evals classification --adapter runs/mine/adapter --data test.jsonl --write

With --write the table goes into the adapter's manifest, under `classification`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("--adapter", type=Path, required=True, help="adapter folder or hub id")
    parser.add_argument("--data", required=True, help="file, folder or hub id")
    parser.add_argument("--backbone", help="local folder or hub id; default: the embedded one")
    parser.add_argument("--most", type=int, default=0, help="records of a task; 0 takes all")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--write", action="store_true", help="put the table into the manifest")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.adapter import Adapter
    from cgclora.models.backbone import EMBEDDED, load_backbone
    from cgclora.storage.adapter_dir import annotate
    from evals.data import datasets
    from evals.runs.classification import compare

    records = datasets.read(options.data).records
    backbone = load_backbone(options.backbone or EMBEDDED)
    adapter = Adapter.load(options.adapter, backbone).for_inference()
    report = compare(backbone, adapter, records, most=options.most, batch_size=options.batch_size)
    if options.write:
        annotate(options.adapter, {"classification": report})
    print(json.dumps(report, ensure_ascii=False, indent=2))
