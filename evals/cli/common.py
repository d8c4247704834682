"""Options and output shared by several commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cgclora.cli.common import backbone_options, four_bit_option, int8_option

if TYPE_CHECKING:
    from cgclora.data.task_table import Entries
    from evals.data.datasets import Dataset


def data_options(parser: argparse.ArgumentParser, default: str = "$CGCLORA_DATA") -> None:
    """Options for the data and the output format."""
    parser.add_argument("--data", help=f"file, folder or hub id; default: {default}")
    parser.add_argument("--split", default="test", help="of a folder or hub id (default test)")
    parser.add_argument("--skip-bad", action="store_true", help="skip bad lines, counted")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def dataset(options: argparse.Namespace, adapters: Sequence[Path] = ()) -> Dataset:
    """The data of the options, which these adapters answer; skipped lines go to stderr."""
    from evals.data import datasets

    records = datasets.read(
        options.data,
        split=options.split,
        skip_bad=options.skip_bad,
        trained=trained_descriptions(adapters),
    )
    if records.problems:
        print_line(f"skipped {len(records.problems)} bad lines:")
        for problem in records.problems[:5]:
            print_line(f"  {problem}")
    return records


def trained_descriptions(adapters: Iterable[Path]) -> Entries:
    """How the tasks of their own were described when adapters were trained, by name."""
    from cgclora.data.task_table import descriptions_in
    from cgclora.storage.adapter_dir import read_manifest

    manifests = [read_manifest(folder)[0] for folder in adapters]
    return {name: entry for one in manifests for name, entry in descriptions_in(one).items()}


def answering_options(parser: argparse.ArgumentParser) -> None:
    """Options for the backbone that answers."""
    backbone_options(parser)
    four_bit_option(parser)
    int8_option(parser)
    parser.add_argument(
        "--batch-size", type=int, help="maximum requests in a batch (default: by device)"
    )


def print_line(line: str) -> None:
    """Write a line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)
