"""`python -m evals agreement | speed | throughput | growth`: how exactly and fast answers come."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgclora.cli.common import AddCommand

AGREEMENT = """Count how often faster ways to decode name the word that fp32 names.

  python -m evals agreement --adapter assets/adapters/medical --data dev.jsonl --out agreement.json

At each token of right answers, given all before it. For CPUs; takes some minutes on two cores."""

SPEED = """Time answers to our examples by ways to decode, one prompt at a time, side by side.

  python -m evals speed --adapter assets/adapters/medical --adapter assets/adapters/general

By transformers' forward pass, by the faster one in bf16 and with 8-bit weights, and, where
llama-cpp-python is installed, by llama.cpp with the embedded backbone's own file."""

THROUGHPUT = """Time many requests of mixed tasks in batches, side by side with the peers' way.

  python -m evals throughput --adapter assets/adapters/medical --adapter assets/adapters/general
  python -m evals throughput --adapter assets/adapters/medical --mixed 24 --width 512

By `generate` of transformers with PEFT's mixed-adapter batch (the package peft is needed), by
cgclora, and by cgclora as `predict` does it. For CPUs; takes some minutes. With --mixed only our
own way is timed, on the best device there is, with so many adapters in each batch."""

GROWTH = """Draw how time grows with experts, tasks, clusters and prompts, from a benchmark.

  python -m evals bench --out bench.json
  python -m evals growth bench.json --out growth.svg"""


def add(command: AddCommand) -> None:
    """Add these commands to a command line."""
    agreement = command("agreement", AGREEMENT, _agreement)
    agreement.add_argument(
        "--data", action="append", required=True, help="file, folder or hub id, repeat"
    )
    agreement.add_argument("--per-task", type=int, default=4, help="records of a task")

    speed = command("speed", SPEED, _speed)
    speed.add_argument("--per-task", type=int, default=1, help="prompts of a task")
    speed.add_argument("--rounds", type=int, default=2, help="the fastest of so many counts")

    throughput = command("throughput", THROUGHPUT, _throughput)
    throughput.add_argument("--per-task", type=int, default=4, help="prompts of a task")
    throughput.add_argument(
        "--width",
        type=int,
        action="append",
        help="requests in a batch, repeat (default 16, 64; with --mixed 512)",
    )
    throughput.add_argument(
        "--mixed", type=int, metavar="N", help="so many adapters, those given taken in turn"
    )

    growth = command("growth", GROWTH, _growth)
    growth.add_argument("report", type=Path, help="of `python -m evals bench`")
    growth.add_argument("--out", type=Path, required=True, help="SVG file to write")

    for parser in (agreement, throughput):
        parser.add_argument("--backbone", help="local folder or hub id; default: the embedded one")
    for parser in (speed, throughput):
        parser.add_argument("--data", default="assets/samples", help="default: our own examples")
    for parser in (agreement, speed, throughput):
        parser.add_argument("--adapter", type=Path, action="append", required=True, help="repeat")
        parser.add_argument("--out", type=Path, help="file to write")


def _agreement(options: argparse.Namespace) -> None:
    from cgclora.models.backbone import EMBEDDED
    from cgclora.storage import atomic_io
    from evals.data import datasets
    from evals.speed.agreement import WAYS, measure

    records = [record for one in options.data for record in datasets.read(one).records]
    source = options.backbone or EMBEDDED
    measured = measure(options.adapter, records, source=source, per_task=options.per_task)
    if options.out:
        atomic_io.write_json(options.out, measured)
    for way in WAYS:
        one = measured[way]
        print(f"{way:20} {one['agreement']:.4f} [{one['low']:.4f}, {one['high']:.4f}]")
    print(f"of {measured['tokens']} tokens, with transformers in fp32")


def _speed(options: argparse.Namespace) -> None:
    from cgclora.storage import atomic_io
    from evals.data import datasets
    from evals.experiments.grid import print_line
    from evals.speed.decoding import measure

    measured = measure(
        options.adapter,
        datasets.read(options.data, split="test").records,
        per_task=options.per_task,
        rounds=options.rounds,
        say=print_line,
    )
    if options.out:
        atomic_io.write_json(options.out, measured)
    print(f"{'':14} first token  answer  tokens/s  same answers")
    for name, one in measured["ways"].items():
        print(
            f"{name:14} {one['first token']:9.3f} s {one['answer']:6.2f} s "
            f"{one['tokens per second']:8.1f} {one['same']:6} of {measured['prompts']}"
        )
    for name, one in measured["ratios"].items():
        print(f"{name}: first token {one['first token']:.2f} x, answer {one['answer']:.2f} x")
    for name, bar in measured.get("bars", {}).items():
        _print_bar(f"{name}: {bar['ratio']:.2f} x llama.cpp", bar)


def _throughput(options: argparse.Namespace) -> None:
    from cgclora.models.backbone import EMBEDDED
    from cgclora.storage import atomic_io
    from evals.data import datasets
    from evals.experiments.grid import print_line
    from evals.speed import mixing, throughput

    dataset = datasets.read(options.data, split="test")
    shared = {
        "source": options.backbone or EMBEDDED,
        "per_task": options.per_task,
        "say": print_line,
    }
    if options.mixed:
        count, widths = options.mixed, options.width or mixing.WIDTHS
        measured = mixing.measure(options.adapter, dataset, adapters=count, widths=widths, **shared)
    else:
        widths = options.width or throughput.WIDTHS
        measured = throughput.measure(options.adapter, dataset, widths=widths, **shared)
    if options.out:
        atomic_io.write_json(options.out, measured)
    for bar in measured["bars"]:
        reached = (
            f"{bar['tokens per second']:.0f} tokens/s"
            if options.mixed
            else f"{bar['of']}: {bar['ratio']:.2f} x {bar['against']}"
        )
        _print_bar(f"{bar['width']} rows, {reached}", bar)


def _growth(options: argparse.Namespace) -> None:
    from cgclora.storage import atomic_io
    from evals.speed.growth_figure import growth_figure

    report = json.loads(options.report.read_text(encoding="utf-8"))
    atomic_io.write_text(options.out, growth_figure(report))


def _print_bar(words: str, bar: Mapping[str, Any]) -> None:
    verdict = "reached" if bar["reached"] else "MISSED"
    print(f"{words} (bar {bar['least']:.2f}): {verdict}")
