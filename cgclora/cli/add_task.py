"""`python -m cgclora add-task` and `drop-task`: a trained cluster grows or shrinks by a task."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.cli.common import load, show
from cgclora.cli.train import (
    data_options,
    descriptions_of,
    no_judge,
    records_of,
    report,
    settings_of,
    stop_on_sigterm,
    training_options,
)

if TYPE_CHECKING:
    from cgclora.training.settings import Judge

ADD = """Add tasks to a trained adapter. Only their specific experts and their rows of the gate are
trained; what the other tasks answer stays the same, bit for bit. The data has the new tasks alone,
or is cut down to them with --task. An interrupted run goes on when the same command is given again.
The grown adapter has the precision of the old one, its router too if there is one, and the licences
of both.

  python -m cgclora add-task --adapter runs/mine/adapter --data new.jsonl --dev new-dev.jsonl \\
      --run runs/grown"""

DROP = """Drop tasks from an adapter, with their specific experts and rows of the gate. The other
tasks stay the same, bit for bit. Needs no backbone.

  python -m cgclora drop-task --adapter runs/mine/adapter --task NER --out smaller"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `add-task`."""
    parser.add_argument(
        "--adapter", type=Path, required=True, help="adapter to grow: folder or hub id"
    )
    data_options(parser)
    training_options(parser)


def drop_options(parser: argparse.ArgumentParser) -> None:
    """The options of `drop-task`."""
    parser.add_argument("--adapter", type=Path, required=True, help="adapter folder or hub id")
    parser.add_argument("--task", action="append", required=True, help="task to drop (repeat)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the smaller adapter")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def add(options: argparse.Namespace) -> None:
    """Train the new tasks, and report where the grown adapter is."""
    no_judge(options)
    report(grow(options), options)


def grow(options: argparse.Namespace, judge: Judge | None = None) -> dict[str, Any]:
    """Train the new tasks; returns the manifest of the grown adapter, as `add_tasks` does."""
    from cgclora.training.add_task import add_tasks
    from cgclora.training.distributed import loading_options
    from cgclora.training.runs.trackers import check

    check(options.report_to)
    settings = settings_of(options)
    train_records, dev_records, tasks = records_of(options)
    described = descriptions_of(options, tasks)
    options.device, options.dtype = loading_options(options.device, options.dtype)
    backbone = load(options)
    with stop_on_sigterm() as stop:
        return add_tasks(
            options.adapter,
            tasks,
            backbone,
            backbone.tokenizer,
            train_records,
            dev_records,
            settings,
            options.run,
            facts={"licence": options.licence, **described} if options.licence else described,
            stop=stop,
            report_to=options.report_to,
            judge=judge,
        )


def drop(options: argparse.Namespace) -> None:
    """Write the smaller adapter, and report how many tasks it has."""
    from cgclora.training.add_task import drop_tasks

    manifest = drop_tasks(options.adapter, options.task, options.out)
    show(manifest, f"{len(manifest['tasks'])} tasks left · adapter in {options.out}", options)
