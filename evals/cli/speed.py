"""`python -m evals bench | scaling | agreement | speed | throughput | growth`: the benchmarks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgclora.cli.common import AddCommand, backbone_options, load

BENCH = """Measure speed side by side on this machine. Training steps against PEFT and a loop over
experts, folded and unfolded decoding, tasks of many clusters, growth with the number of experts,
start-up time. Needs the package peft. Takes some minutes; nothing else should run meanwhile.

  python -m evals bench --out bench.json"""

SCALING = """Show what growth costs. Bytes of adapters and GPUs that hold them, for 10 to 10,000
tasks, by arithmetic; with --measure also, on this machine, bytes of a bank of experts, seconds to
plan a batch and to decode with it as tasks grow, and how fast a cluster is loaded and removed.

  python -m evals scaling
  python -m evals scaling --measure --out scaling.json"""

AGREEMENT = """Count how often faster ways to decode agree with fp32 on the next token.

  python -m evals agreement --adapter assets/adapters/medical --data dev.jsonl --out agreement.json

At each token of right answers, given all tokens before it. For CPUs; takes some minutes on two
cores."""

SPEED = """Time answers to our examples by ways to decode, one prompt at a time, side by side.

  python -m evals speed --adapter assets/adapters/medical --adapter assets/adapters/general

By transformers' forward pass, by the faster one with and without 8-bit weights, and, where
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
    bench = command("bench", BENCH, _bench)
    backbone_options(bench)
    bench.add_argument("--only", action="append", help="run these parts only, by name")

    scaling = command("scaling", SCALING, _scaling)
    scaling.add_argument("--measure", action="store_true", help="measure on this machine, too")

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

    for parser in (bench, scaling):
        parser.add_argument("--repeats", type=int, default=5, help="timings of each (default 5)")
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    for parser in (scaling, agreement, throughput):
        parser.add_argument("--backbone", help="local folder or hub id; default: the embedded one")
    for parser in (speed, throughput):
        parser.add_argument("--data", default="assets/samples", help="default: our own examples")
    for parser in (agreement, speed, throughput):
        parser.add_argument("--adapter", type=Path, action="append", required=True, help="repeat")
    for parser in (bench, scaling, agreement, speed, throughput):
        parser.add_argument("--out", type=Path, help="write the report as JSON to this file")


def _bench(options: argparse.Namespace) -> None:
    from evals.speed import bench

    report = bench.run(load(options), only=options.only, repeats=options.repeats)
    print(json.dumps(report) if options.json else bench.table(report), flush=True)
    _write(report, options)


def _scaling(options: argparse.Namespace) -> None:
    from cgclora.models.backbone import EMBEDDED, load_backbone
    from evals.speed.scaling import CONFIG, measure, table

    if not options.measure:
        print(table(CONFIG))
        return
    report = measure(load_backbone(options.backbone or EMBEDDED), CONFIG, repeats=options.repeats)
    _write(report, options)
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
        f"removed in {swap['remove_seconds']:.3f} s"
    )


def _agreement(options: argparse.Namespace) -> None:
    from cgclora.models.backbone import EMBEDDED
    from evals.data import datasets
    from evals.speed.agreement import WAYS, measure

    records = [record for one in options.data for record in datasets.read(one).records]
    source = options.backbone or EMBEDDED
    report = measure(options.adapter, records, source=source, per_task=options.per_task)
    _write(report, options)
    for way in WAYS:
        one = report[way]
        print(f"{way:20} {one['agreement']:.4f} [{one['low']:.4f}, {one['high']:.4f}]")
    print(f"of {report['tokens']} tokens, with transformers in fp32")


def _speed(options: argparse.Namespace) -> None:
    from evals.cli.common import print_line
    from evals.data import datasets
    from evals.speed.decoding import measure

    report = measure(
        options.adapter,
        datasets.read(options.data, split="test").records,
        per_task=options.per_task,
        rounds=options.rounds,
        log=print_line,
    )
    _write(report, options)
    print(f"{'':14} first token  answer  tokens/s  same answers")
    for name, one in report["ways"].items():
        print(
            f"{name:14} {one['first token']:9.3f} s {one['answer']:6.2f} s "
            f"{one['tokens per second']:8.1f} {one['same']:6} of {report['prompts']}"
        )
    for name, one in report["ratios"].items():
        print(f"{name}: first token {one['first token']:.2f} x, answer {one['answer']:.2f} x")
    for name, bar in report.get("bars", {}).items():
        _print_bar(f"{name}: {bar['ratio']:.2f} x llama.cpp", bar)


def _throughput(options: argparse.Namespace) -> None:
    from functools import partial

    from cgclora.models.backbone import EMBEDDED
    from evals.cli.common import print_line
    from evals.data import datasets
    from evals.speed import throughput

    measure, widths = throughput.measure, throughput.WIDTHS
    if options.mixed:
        measure = partial(throughput.measure_mixed, adapters=options.mixed)
        widths = throughput.MIXED_WIDTHS
    report = measure(
        options.adapter,
        datasets.read(options.data, split="test"),
        source=options.backbone or EMBEDDED,
        per_task=options.per_task,
        widths=options.width or widths,
        log=print_line,
    )
    _write(report, options)
    for bar in report["bars"]:
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


def _write(report: Mapping[str, Any], options: argparse.Namespace) -> None:
    from cgclora.storage import atomic_io

    if options.out:
        atomic_io.write_json(options.out, report)


def _print_bar(words: str, bar: Mapping[str, Any]) -> None:
    verdict = "reached" if bar["reached"] else "MISSED"
    print(f"{words} (bar {bar['least']:.2f}): {verdict}")
