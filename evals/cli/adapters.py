"""`python -m evals train | gates | forgetting | add-task | added`: adapters, made and measured."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.cli.common import AddCommand
from evals.cli.common import answering_options, trained_descriptions

if TYPE_CHECKING:
    from evals.data.datasets import Dataset
    from evals.leaderboard.tables import Table
    from evals.scoring.dev_scores import TaskJudge

_SECONDS = 10.0  # between two lines of progress

TRAIN = """Train as `python -m cgclora train` does, whose `--help` explains data and runs, with one
more way to choose the weights that are saved: by the score of dev answers instead of the dev loss.

  python -m evals train --data train.jsonl --dev dev.jsonl --run runs/mine --best-by score

At each evaluation so many dev records of a task (--score-records) are answered and scored by the
task's main metric. The mean over the tasks counts, and the lower dev loss among equal ones. The log
has the scores by task, the manifest the seconds that they took."""

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

ADD_TASK = """Add tasks as `python -m cgclora add-task` does, and measure the change. The dev
records are answered before and after, and all other tasks are compared, see `added`; the report
goes into the manifest of the grown adapter. An interrupted command resumes when it is repeated.

  python -m evals add-task --adapter assets/adapters/general --data new.jsonl --dev new-dev.jsonl \\
      --run runs/grown"""

ADDED = """Compare a grown adapter with its base: new tasks gain, others must not change. The
records of the new tasks are answered by the backbone alone and by the adapter, and the scores are
compared in pairs. Of every other task the weights are compared bit by bit, and the logits after
some prompts.

  python -m evals added runs/grown/adapter --base assets/adapters/general --data new-test.jsonl

With --write the report goes into the adapter's manifest, under `added`: the app shows it."""


def add(command: AddCommand) -> None:
    """Add these commands to a command line."""
    from cgclora.cli import train

    train.add_options(command("train", TRAIN, _train))
    gates = command("gates", GATES, _gates)
    gates.add_argument("--adapter", type=Path, required=True, help="adapter folder or hub id")
    gates.add_argument("--data", help="file, folder or hub id; default: $CGCLORA_DATA")
    gates.add_argument("--split", default="dev", help="of a folder or hub id (default dev)")
    gates.add_argument("--most", type=int, default=0, help="first so many of a task; 0 takes all")
    gates.add_argument("--write", action="store_true", help="put the table into the manifest")
    answering_options(gates)
    forgetting = command("forgetting", FORGETTING, _forgetting)
    forgetting.add_argument(
        "adapter", type=Path, nargs="*", help="adapter folder or hub id; none is bare"
    )
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
    _added_options(command)


def _added_options(command: AddCommand) -> None:
    from cgclora.cli import add_task

    add_task.add_options(command("add-task", ADD_TASK, _add_task))
    parser = command("added", ADDED, _added)
    parser.add_argument("adapter", type=Path, help="folder of the grown adapter")
    parser.add_argument(
        "--base", dest="base_adapter", type=Path, required=True, help="the one before"
    )
    parser.add_argument("--data", help="file, folder or hub id; default: $CGCLORA_DATA")
    parser.add_argument("--split", default="dev", help="of a folder or hub id (default dev)")
    parser.add_argument("--most", type=int, default=0, help="first so many of a task; 0 takes all")
    parser.add_argument("--write", action="store_true", help="put the report into the manifest")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    answering_options(parser)


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


def _train(options: argparse.Namespace) -> None:
    from cgclora.cli import train

    train.execute(options, _judge_of)


def _judge_of(options: argparse.Namespace) -> TaskJudge | None:
    """The judge of a run's data; None where the dev loss chooses."""
    from evals.data import datasets
    from evals.scoring.dev_scores import TaskJudge

    if options.best_by == "loss":
        return None
    # What a task asks for is recognised from the larger part of its records.
    return TaskJudge(datasets.read(options.data, split="train", tasks=options.task).descriptions)


def _gates(options: argparse.Namespace) -> None:
    from cgclora.adapter import Adapter
    from cgclora.cli.common import load
    from cgclora.storage.adapter_dir import annotate
    from evals.data import datasets
    from evals.runs.gate_ablation import ablate

    trained = trained_descriptions([options.adapter])
    dataset = datasets.read(options.data, split=options.split, trained=trained)
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


def _add_task(options: argparse.Namespace) -> None:
    import dataclasses

    from cgclora.cli.add_task import grow
    from cgclora.cli.train import leave_processes
    from evals.data import datasets

    tasks = options.task
    # What a task asks for is recognised from the larger part of its records.
    own = datasets.read(options.data, split="train", tasks=tasks).own
    dev = dataclasses.replace(datasets.read(options.dev, split="dev", tasks=tasks), own=own)
    manifest = grow(options, _judge_of(options))
    leave_processes()
    if manifest:  # other processes of this run write nothing
        options.int8, options.batch_size, options.write = False, None, True
        options.base_adapter, options.adapter, options.most = (
            options.adapter,
            options.run / "adapter",
            0,
        )
        _compare(options, dev)


def _added(options: argparse.Namespace) -> None:
    from evals.data import datasets

    trained = trained_descriptions([options.adapter])
    _compare(options, datasets.read(options.data, split=options.split, trained=trained))


def _compare(options: argparse.Namespace, dataset: Dataset) -> None:
    from cgclora.cli.common import load
    from cgclora.storage.adapter_dir import annotate
    from evals.runs.added_task import REPORT, compare

    report = compare(
        load(options),
        options.base_adapter,
        options.adapter,
        dataset,
        per_task=options.most,
        batch_size=options.batch_size,
        progress=_progress(),
    )
    if options.write:
        annotate(options.adapter, {REPORT: report})
    _print_added(report, as_json=options.json)


def _print_added(report: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
        return
    for task, facts in report["tasks"].items():
        gain = facts["gain"]
        print(
            f"{task}: {facts['before']['value']:.3f} by the backbone alone, "
            f"{facts['after']['value']:.3f} now: {gain['value']:+.3f} "
            f"({gain['low']:+.3f} to {gain['high']:+.3f}), {facts['metric']}, n {facts['records']}"
        )
    for task, facts in report["unchanged"].items():
        verdict = "unchanged" if facts["identical"] else "CHANGED"
        print(
            f"{task}: {verdict}, {len(facts['changed'])} tensors differ, logits by "
            f"{facts['difference']:.3g} at most after {facts['prompts']} prompts"
        )
