"""`python -m evals gates | forgetting`: what an adapter's experts do, and what they cost."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.cli.common import AddCommand
from evals.cli.common import answering_options

if TYPE_CHECKING:
    from evals.leaderboard.tables import Table

_SECONDS = 10.0  # between two lines of progress

GATES = """Answer the dev records of an adapter with its learned gates, with uniform ones, and
without its specific or its common experts; score the answers, and compare them in pairs.

  python -m evals gates --adapter assets/adapters/medical --data data --most 100

With --write the table goes into the adapter's manifest, under `gate effects`: the app shows it."""

FORGETTING = """Measure what an adapter costs the backbone on texts unlike its tasks. The bare and
the adapted backbone read passages of our own, or those of a file; the difference of their nats a
token, with its interval over passages, is what was forgotten.

  python -m evals forgetting assets/adapters/medical
  python -m evals forgetting assets/adapters/medical --texts diary.txt
  python -m evals forgetting runs/training/adapter --run runs/medical

A file of texts is JSONL with `text` (and `language`, `kind`), or plain text whose passages are
separated by empty lines. Several adapters are one method with different tasks, as for `predict`.
With --write the measurement goes into the adapter's manifest, with --run into that of a finished
run of the same adapters: the leaderboard shows it. `python -m evals run --forgetting` does both at
once."""


def add(command: AddCommand) -> None:
    """Add these commands to a command line."""
    gates = command("gates", GATES, _gates)
    gates.add_argument("--adapter", type=Path, required=True, help="adapter folder")
    gates.add_argument("--data", help="file, folder or hub id; default: $CGCLORA_DATA")
    gates.add_argument("--split", default="dev", help="of a folder or hub id (default dev)")
    gates.add_argument("--most", type=int, default=0, help="first so many of a task; 0 takes all")
    gates.add_argument("--write", action="store_true", help="put the table into the manifest")
    answering_options(gates)
    forgetting = command("forgetting", FORGETTING, _forgetting)
    forgetting.add_argument("adapter", type=Path, nargs="*", help="adapter folder; none is bare")
    forgetting.add_argument("--texts", type=Path, help="file of texts (default: our own passages)")
    forgetting.add_argument(
        "--tasks-per-text",
        type=int,
        default=4,
        help="tasks with which a passage is read; 0 takes all (default 4)",
    )
    target = forgetting.add_mutually_exclusive_group()
    target.add_argument("--run", type=Path, help="finished run of these adapters to write into")
    target.add_argument("--write", action="store_true", help="write into the adapter's manifest")
    forgetting.add_argument("--json", action="store_true", help="print JSON, for machines")
    answering_options(forgetting)


def _progress() -> Callable[[int, int], None]:
    """Prints the numbers of work done and in all, and the time left, every few seconds."""
    from evals.cli.predict import print_progress

    started = shown = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if done and now - shown >= _SECONDS:
            shown = now
            left = (now - started) * (total - done) / done
            print_progress({"done": done, "total": total, "seconds_left": left})

    return progress


def _gates(options: argparse.Namespace) -> None:
    from cgclora.adapter import Adapter
    from cgclora.cli.common import load
    from cgclora.storage.adapter_dir import annotate
    from evals.data import datasets
    from evals.runs.gate_ablation import ablate

    dataset = datasets.read(options.data, split=options.split)
    backbone = load(options)
    adapter = Adapter.load(options.adapter, backbone).for_inference()
    report = ablate(
        backbone,
        adapter,
        dataset,
        per_task=options.most,
        batch_size=options.batch_size,
        progress=_progress(),
    )
    if options.write:
        annotate(options.adapter, {"gate effects": report})
    print(json.dumps(report, ensure_ascii=False, indent=2))


def _forgetting(options: argparse.Namespace) -> None:
    from cgclora.cli.common import show
    from cgclora.config import ConfigError
    from cgclora.storage import adapter_dir
    from evals.cli.predict import local_engine
    from evals.data.prose import PROSE, read_prose
    from evals.runs import run_dir
    from evals.runs.forgetting import measure, measure_run

    if options.write and len(options.adapter) != 1:
        raise ConfigError("--write takes one adapter; for several, or none, see --run.")
    prose = read_prose(options.texts or PROSE)
    run = run_dir.read_run(options.run) if options.run else None
    engine, *_ = local_engine(options)
    how: dict[str, Any] = {"tasks_per_text": options.tasks_per_text, "progress": _progress()}
    if run is None:
        facts = measure(engine.backbone, engine.adapters, prose, **how).facts()
    else:
        facts = measure_run(run, engine, prose, **how).manifest["forgetting"]
    if options.write:
        adapter_dir.annotate(options.adapter[0], {"forgetting": facts})
    show(facts, _table(facts).text(), options)


def _table(facts: dict[str, Any]) -> Table:
    from evals.leaderboard.tables import Table, nats
    from evals.scoring.statistics import Estimate

    texts = facts["texts"]
    parts = {"all": facts["overall"], **facts["languages"]}
    return Table(
        f"{texts['count']} passages of {texts['name']}, {texts['tokens']:,} tokens, "
        f"{facts['tasks_per_text']} of {len(facts['tasks'])} tasks each",
        ("passages", "n", "bare", "adapted", "forgetting"),
        tuple(
            (
                name,
                str(part["difference"]["samples"]),
                f"{part['bare']:.3f}",
                f"{part['adapted']:.3f}",
                nats(Estimate(**part["difference"])),
            )
            for name, part in parts.items()
        ),
        ("Nats a token; forgetting: adapted - bare, with its 95 % interval over passages.",),
    )
