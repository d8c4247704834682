"""`python -m evals run | predict | score`: answer the records of some data, score the answers."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.cli.common import AddCommand, choose_prompts, load, prompt_options
from cgclora.data.forms import task_name
from evals.cli.common import answering_options, data_options, dataset, print_line
from evals.methods import BACKBONE, METHODS, method_of

if TYPE_CHECKING:
    from cgclora.config import PromptFormat
    from evals.data.datasets import Dataset
    from evals.runs.engines import LocalEngine
    from evals.runs.evaluate import ModelAPI
    from evals.runs.run_dir import Run

PREDICT = """Answer every record of a data file, with adapters, the bare backbone, or a server.

  python -m evals predict --adapter assets/adapters/medical --data test.jsonl --run runs/medical
  python -m evals predict --method Backbone --data test.jsonl --run runs/backbone
  python -m evals predict --server http://127.0.0.1:8000/v1 --model '*=medical' ...
  python -m evals predict --server http://127.0.0.1:8000/v1 --models bundle/models.json ...

Several --adapter may have different tasks; a task of none of them is left out. With no --adapter
the bare backbone answers. Without --data the folder in CGCLORA_DATA is read. An interrupted command
resumes when it is repeated. A server's API key is read from CGCLORA_SERVER_KEY. Scoring packages
are not needed: score later, here or elsewhere."""

SCORE = """Score a run from its predictions and the data that it answered. It may be scored again.

  python -m evals score runs/medical --data test.jsonl"""

RUN = """Predict, then score, with the options of `predict`.

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
    parser.add_argument(
        "--adapter", type=Path, action="append", default=[], help="folder or hub id; may repeat"
    )
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
    parser.add_argument(
        "--chat",
        action="store_true",
        help="send messages to the server's chat completions (default: as --models says)",
    )
    parser.add_argument("--method", help="name on the leaderboard (default: the adapter's method)")
    parser.add_argument("--label", default="", help="tells runs of one method apart")
    with_task_name = [name for name, method in METHODS.items() if method.prompt == "task name"]
    parser.add_argument(
        "--prompt",
        choices=("plain", "task name"),
        default="plain",
        help=f"`task name`, before each prompt, as for {' and '.join(with_task_name)}",
    )
    prompt_options(parser.add_argument_group("prompts of the bare backbone"))
    parser.add_argument(
        "--forgetting",
        action="store_true",
        help="also measure it, see `python -m evals forgetting`",
    )


def _task_model(text: str) -> tuple[str, str]:
    """`TASK=NAME` as a pair; argparse reports the ValueError of anything else."""
    task, equals, name = text.partition("=")
    if not (task and equals and name):
        raise ValueError(text)
    return task_name(task), name


def _run(options: argparse.Namespace) -> None:
    from evals.runs.score import score

    records = dataset(options, options.adapter)
    run = _predict(options, records, to_be_scored=True)
    _print_run(score(run, records), as_json=options.json)


def _predict_only(options: argparse.Namespace) -> None:
    _print_run(_predict(options, dataset(options, options.adapter)), as_json=options.json)


def _score(options: argparse.Namespace) -> None:
    from evals.runs.run_dir import read_run
    from evals.runs.score import score

    _print_run(score(read_run(options.run), dataset(options)), as_json=options.json)


def _predict(options: argparse.Namespace, dataset: Dataset, *, to_be_scored: bool = False) -> Run:
    from evals.data import datasets
    from evals.runs.engines import LocalEngine
    from evals.runs.evaluate import predict

    source = _server if options.server else local_engine
    engine, engine_tasks, method, seed = source(options)
    if isinstance(engine, LocalEngine):
        engine.bare_format = choose_prompts(options, engine.backbone.tokenizer)
    selected = datasets.only(dataset, _selected_tasks(options.task, dataset, engine_tasks))
    run = predict(
        options.run,
        engine,
        datasets.limit(selected, options.per_task, seed=0),
        method=options.method or method,
        label=options.label,
        seed=seed,
        prompt=options.prompt,
        to_be_scored=to_be_scored,
        progress=print_progress,
    )
    if options.forgetting and isinstance(engine, LocalEngine):
        from evals.runs.forgetting import measure_run

        return measure_run(run, engine)
    return run


def _bundle(path: Path) -> tuple[dict[str, str], PromptFormat, bool]:
    """An exported bundle's model name by task, plain prompts, and whether it has a chat template.

    Raises:
        ConfigError: The file is of no bundle.
    """
    from cgclora.config import ConfigError, PromptFormat

    try:
        bundle = json.loads(path.read_text(encoding="utf-8"))
        plain = PromptFormat(str(bundle["separator"]), system=bundle.get("system"))
        return dict(bundle["models"]), plain, "chat_template" in bundle
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no models.json of an exported bundle: {error!r}.") from error


def _selected_tasks(
    names: list[str] | None, dataset: Dataset, engine_tasks: set[str] | None
) -> list[str]:
    """The given tasks, or else all of the data that the engine can answer (None: any)."""
    from cgclora.data.records import DataError

    def is_answered(name: str) -> bool:
        return engine_tasks is None or name in engine_tasks

    selected = names or [name for name in dataset.tasks if is_answered(name)]
    unknown = [name for name in selected if not is_answered(name)]
    if unknown or not selected:
        raise DataError(
            f"no given adapter knows {', '.join(unknown or dataset.tasks)}: add one that does with "
            "--adapter, or leave --adapter out to evaluate the bare backbone."
        )
    return selected


def _server(options: argparse.Namespace) -> tuple[ModelAPI, set[str] | None, str, None]:
    """The engine, its tasks (None: any), and name and training seed of its method."""
    from cgclora.config import ConfigError
    from evals.runs.engines import KEY_VARIABLE, PLAIN_PROMPTS, ServerEngine

    if options.adapter or not (options.model or options.models) or not options.method:
        raise ConfigError(
            "--server needs --model or --models, and --method, and takes no --adapter."
        )
    if options.forgetting:
        raise ConfigError("a server does not tell how likely a text is: leave --forgetting out.")
    models: dict[str, str] = {}
    prompts, chat = PLAIN_PROMPTS, options.chat
    if options.models:
        models, prompts, chat = _bundle(options.models)
    models |= dict(options.model)
    key = os.environ.get(KEY_VARIABLE)
    server = ServerEngine(
        options.server, models, prompts=prompts, chat=chat or options.chat, key=key
    )
    tasks = set(models) if options.models and "*" not in models else None
    return server, tasks, options.method, None


def local_engine(
    options: argparse.Namespace,
) -> tuple[LocalEngine, set[str] | None, str, int | None]:
    """As `_server`, for a model in this process."""
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
    """Print the number of answered records and the remaining time to stderr."""
    seconds = facts["seconds_left"]
    remaining = "" if seconds is None else f" · {seconds / 60:.1f} min left"
    print_line(f"{facts['done']}/{facts['total']}{remaining}")


def _print_run(run: Run, *, as_json: bool) -> None:
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
