"""`python -m evals run | predict | score`: answer the records of some data, score the answers."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.cli.common import AddCommand, load
from cgclora.data.readers import task_name
from evals.cli.common import answering_options, data_options, dataset
from evals.methods import BACKBONE, METHODS, method_of

if TYPE_CHECKING:
    from evals.data.datasets import Dataset
    from evals.runs.evaluate import Engine
    from evals.runs.run_dir import Run

PREDICT = """Answer every record of a data file, with adapters, the bare backbone, or a server.

  python -m evals predict --adapter assets/adapters/medical --data test.jsonl --run runs/medical
  python -m evals predict --method Backbone --data test.jsonl --run runs/backbone
  python -m evals predict --server http://127.0.0.1:8000/v1 --model '*=medical' ...
  python -m evals predict --server http://127.0.0.1:8000/v1 --models bundle/models.json ...

Several --adapter share the tasks out; a task that none of them knows is left out, or with no
--adapter at all answered by the bare backbone. Without --data the folder in CGCLORA_DATA is read.
A call that was cut short goes on when it is given again. A server's API key, if it wants one, is
read from CGCLORA_SERVER_KEY. Needs no scoring packages: score later, here or elsewhere."""

SCORE = """Score a run from its predictions and the data that it answered. It may be scored again.

  python -m evals score runs/medical --data test.jsonl"""

RUN = """Predict, then score: the two commands one after the other, with the options of `predict`.

  python -m evals run --adapter assets/adapters/medical --data test.jsonl --run runs/medical"""


def add(command: AddCommand) -> None:
    """Add these commands to a command line."""
    _predict_options(command("run", RUN, _run))
    _predict_options(command("predict", PREDICT, _predict_only))
    score = command("score", SCORE, _score)
    score.add_argument("run", type=Path, help="run folder")
    data_options(score)


def _predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="run folder to make")
    data_options(parser)
    parser.add_argument("--task", type=task_name, action="append", help="these tasks only (repeat)")
    parser.add_argument("--per-task", type=int, default=0, help="records of a task; 0 takes all")
    parser.add_argument("--adapter", type=Path, action="append", default=[], help="may repeat")
    answering_options(parser)
    parser.add_argument("--server", metavar="URL", help="completions API that answers instead")
    parser.add_argument(
        "--model",
        type=_task_model,
        action="append",
        default=[],
        metavar="TASK=NAME",
        help="the server's model for a task; '*' stands for all others, {task} for each (repeat)",
    )
    parser.add_argument(
        "--models", type=Path, help="models.json of `python -m cgclora export --format vllm`"
    )
    parser.add_argument("--method", help="name on the leaderboard (default: the adapter's method)")
    named = [name for name, method in METHODS.items() if method.prompt == "task name"]
    parser.add_argument("--label", default="", help="what tells this run from others of its method")
    parser.add_argument(
        "--prompt",
        choices=("plain", "task name"),
        default="plain",
        help=f"as {' and '.join(named)} have it: the task's name before each prompt",
    )


def _task_model(text: str) -> tuple[str, str]:
    """`TASK=NAME` as a pair; argparse reports the ValueError of anything else."""
    task, equals, name = text.partition("=")
    if not (task and equals and name):
        raise ValueError(text)
    return task_name(task), name


def _run(options: argparse.Namespace) -> None:
    from evals.runs.evaluate import score

    records = dataset(options)
    run = _predict(options, records, to_be_scored=True)
    _report(score(run, records), as_json=options.json)


def _predict_only(options: argparse.Namespace) -> None:
    _report(_predict(options, dataset(options)), as_json=options.json)


def _score(options: argparse.Namespace) -> None:
    from evals.runs.evaluate import score
    from evals.runs.run_dir import read_run

    _report(score(read_run(options.run), dataset(options)), as_json=options.json)


def _predict(options: argparse.Namespace, dataset: Dataset, *, to_be_scored: bool = False) -> Run:
    from evals.data import datasets
    from evals.runs.evaluate import predict

    engine, known, method, seed = _server(options) if options.server else _local(options)
    chosen = datasets.only(dataset, _tasks(options.task, dataset, known))
    return predict(
        options.run,
        engine,
        datasets.limit(chosen, options.per_task, seed=0),
        method=options.method or method,
        label=options.label,
        seed=seed,
        prompt=options.prompt,
        to_be_scored=to_be_scored,
        progress=print_progress,
    )


def _bundle(path: Path) -> tuple[dict[str, str], str]:
    """An exported bundle's model name for each task, and its separator."""
    from cgclora.config import ConfigError

    try:
        bundle = json.loads(path.read_text(encoding="utf-8"))
        return dict(bundle["models"]), str(bundle["separator"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no models.json of an exported bundle: {error!r}.") from error


def _tasks(named: list[str] | None, dataset: Dataset, known: set[str] | None) -> list[str]:
    """The tasks to answer: the named ones, by default all that the engine knows."""
    from cgclora.data.records import DataError

    tasks = named or [name for name in dataset.tasks if known is None or name in known]
    unknown = [name for name in tasks if known is not None and name not in known]
    if unknown or not tasks:
        raise DataError(
            f"no adapter that is given knows {', '.join(unknown or dataset.tasks)}: "
            "add one that does with --adapter, or leave --adapter out to ask the bare backbone."
        )
    return tasks


def _server(options: argparse.Namespace) -> tuple[Engine, set[str] | None, str, None]:
    """The engine, the tasks it knows (None: any), its method's name and training seed."""
    from cgclora.config import ConfigError
    from evals.runs.engines import KEY_VARIABLE, ServerEngine

    if options.adapter or not (options.model or options.models) or not options.method:
        raise ConfigError(
            "--server needs --model or --models, and --method, and takes no --adapter."
        )
    models, separator = _bundle(options.models) if options.models else ({}, "\n")
    models |= dict(options.model)
    key = os.environ.get(KEY_VARIABLE)
    server = ServerEngine(options.server, models, separator=separator, key=key)
    known = set(models) if options.models and "*" not in models else None
    return server, known, options.method, None


def _local(options: argparse.Namespace) -> tuple[Engine, set[str] | None, str, int | None]:
    """As `_server`."""
    from cgclora.adapter import Adapter
    from cgclora.config import ConfigError
    from evals.runs.engines import LocalEngine

    backbone = load(options)
    adapters: dict[str, Adapter] = {}
    seeds: set[int | None] = set()
    methods: set[str] = set()
    for number, folder in enumerate(options.adapter):
        adapter = Adapter.load(folder, backbone, name=f"adapter{number}").for_inference()
        seeds.add(adapter.manifest.get("training", {}).get("settings", {}).get("seed"))
        methods.add(method_of(adapter.config, adapter.manifest))
        for task in adapter.config.tasks:
            if adapters.setdefault(task, adapter) is not adapter:
                raise ConfigError(f"two adapters know the task {task}: leave one of them out.")
    return (
        LocalEngine(backbone, adapters, batch_size=options.batch_size),
        set(adapters) or None,
        " + ".join(sorted(methods)) or BACKBONE,
        seeds.pop() if len(seeds) == 1 else None,
    )


def print_progress(facts: Mapping[str, Any]) -> None:
    """Report on stderr the number of answered records and the time left."""
    seconds = facts["seconds_left"]
    words = "" if seconds is None else f" · {seconds / 60:.1f} min left"
    print(f"{facts['done']}/{facts['total']}{words}", file=sys.stderr, flush=True)


def _report(run: Run, *, as_json: bool = False) -> None:
    if as_json:
        print(json.dumps({"manifest": run.manifest, "metrics": run.metrics}, ensure_ascii=False))
        return
    if run.metrics is None:
        print(f"{run.folder}: {sum(1 for _ in run.predictions().index)} answers, not scored yet")
        return
    width = max(map(len, run.metrics))
    for task, facts in run.metrics.items():
        main = facts["scores"][facts["main"]]
        score = f"{main['value']:.3f} ({main['low']:.3f}-{main['high']:.3f})"
        print(f"{task:<{width}}  {score}  {facts['main']}, n {facts['samples']}")
