"""`python -m cgclora train`, and the options that other commands which train share with it."""

from __future__ import annotations

import argparse
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.cli.common import (
    backbone_options,
    choose_prompts,
    four_bit_option,
    load,
    prompt_options,
    show,
)
from cgclora.data.forms import task_name
from cgclora.data.readers import read_records
from cgclora.data.task_table import description_facts, read_table, table_beside

if TYPE_CHECKING:
    from cgclora.data.records import Record
    from cgclora.models.backbone import Backbone
    from cgclora.training.settings import Judge, TrainingRun, TrainingSettings

METHODS = ("cgc-lora", "moe-lora", "lora", "mtl-lora", "c-poly")

HELP = """Train one adapter on many tasks. The data is an object a line, or one JSON list:

  {"task": "NER", "input": "the whole prompt", "target": "the answer"}

Files of PromptCBLUE, Firefly, ShareGPT, Alpaca and OpenAI's `messages` work as they are; the loss
is taken on the answers (`python -m cgclora data` shows them). A line that is no record is an error.
The run folder holds log, checkpoints and, at the end, the adapter with the lowest dev loss (or,
with `python -m evals train --best-by score`, the highest score of dev answers). An
interrupted run goes on when the same command is given again; SIGTERM lets it write a checkpoint.
Descriptions of the tasks in `tasks.toml` beside the data are stored with the adapter.

  python -m cgclora train --data train.jsonl --dev dev.jsonl --run runs/mine
  python -m cgclora train --data train.jsonl --dev dev.jsonl --run runs/lora --method lora --rank 16
  python -m cgclora train --data train.jsonl --dev dev.jsonl --run runs/sweep --runs sweep.toml
  accelerate launch --config_file "$(python -m cgclora accelerate-config ddp)" --num_processes 4 \\
      -m cgclora train ...

With --runs several adapters train side by side, each as if it were alone, in passes that they
share. The file has a table for each run, which is named after it below --run; a table says what
differs from the command line, by the options' names:

  [lora]
  method = "lora"
  rank = 8

  [cgc-seed-1]
  learning-rate = 2e-3
  seed = 1"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    data_options(parser)

    method = parser.add_argument_group("method")
    method.add_argument("--method", choices=METHODS, default=METHODS[0])
    method.add_argument("--common", type=int, default=4, help="common experts (cgc-lora, c-poly)")
    method.add_argument("--specific", type=int, default=1, help="experts a task (cgc-lora, c-poly)")
    method.add_argument(
        "--expert-rank", type=int, default=2, help="rank of an expert (cgc-lora, c-poly)"
    )
    method.add_argument(
        "--rank", type=int, default=16, help="total rank (lora, moe-lora), rank of A (mtl-lora)"
    )
    method.add_argument(
        "--experts", type=int, default=8, help="experts (moe-lora), matrices B (mtl-lora)"
    )
    method.add_argument(
        "--gate", choices=("task", "skills", "uniform", "none"), help="default: the method's"
    )
    method.add_argument("--gate-scope", choices=("layer", "model"), help="default: the method's")
    method.add_argument("--alpha", type=float, help="default: the method's")
    method.add_argument("--dropout", type=float, default=0.0)
    method.add_argument("--target-module", action="append", help="adapt these only (repeat)")

    prompt_options(parser.add_argument_group("prompts"))

    how = training_options(parser)
    how.add_argument("--half", action="store_true", help="save the adapter in bf16, half the size")
    how.add_argument("--runs", type=Path, help="TOML file of runs to train side by side")
    how.add_argument(
        "--pass-tokens", type=int, help="most padded tokens of a shared pass (default: by device)"
    )


def data_options(parser: argparse.ArgumentParser) -> None:
    """Options that say what to train on, and where."""
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, help="train records: file, folder or hub id")
    data.add_argument("--dev", required=True, help="dev records, likewise")
    data.add_argument("--run", type=Path, required=True, help="run folder; the same one resumes")
    data.add_argument(
        "--task",
        type=task_name,
        action="append",
        help="train these tasks only (repeat); one also names that of records which name none",
    )
    data.add_argument("--records-per-task", type=int, default=0, help="0 takes all")
    data.add_argument(
        "--records-of",
        type=_task_number,
        action="append",
        default=[],
        metavar="TASK=N",
        help="another number for this task (repeat)",
    )
    data.add_argument("--dev-records-per-task", type=int, default=0, help="0 takes all")
    data.add_argument("--max-length", type=int, default=1024, help="longest record in tokens")
    data.add_argument("--licence", help="licence of the data and so of the adapter, noted with it")
    backbone_options(parser)
    four_bit_option(parser)


def training_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Options that say how to train; returns their group, for more."""
    how = parser.add_argument_group("training")
    how.add_argument("--epochs", type=float, default=2.0)
    how.add_argument("--batch-size", type=int, default=8)
    how.add_argument("--accumulation", type=int, default=1)
    how.add_argument("--learning-rate", type=float, default=1e-3)
    how.add_argument("--gate-learning-rate", type=float, help="default: the learning rate")
    how.add_argument(
        "--sampling", choices=("proportional", "uniform", "temperature"), default="proportional"
    )
    how.add_argument("--temperature", type=float, default=2.0, help="of that sampling")
    how.add_argument(
        "--weighting",
        choices=("token", "record"),
        default="token",
        help="what counts alike in the loss (default: each target token)",
    )
    how.add_argument("--warmup", type=float, default=0.05, help="share of the steps")
    how.add_argument("--weight-decay", type=float, default=0.0)
    how.add_argument("--evaluations", type=int, default=8, help="dev losses, evenly spread")
    how.add_argument(
        "--best-by",
        choices=("loss", "score"),
        default="loss",
        help="dev value that chooses the weights; score needs `python -m evals train`",
    )
    how.add_argument(
        "--score-records",
        type=int,
        default=50,
        help="dev records of a task that are answered for the score (default 50; 0 takes all)",
    )
    how.add_argument("--patience", type=int, default=0, help="evaluations without gain; 0: no stop")
    how.add_argument("--gradient-checkpointing", action="store_true")
    how.add_argument("--seed", type=int, default=0)
    how.add_argument(
        "--report-to",
        action="append",
        default=[],
        metavar="TRACKER",
        help="tensorboard, wandb, mlflow or trackio (repeat)",
    )
    how.add_argument("--json", action="store_true", help="print the manifest as JSON")
    return how


def _task_number(text: str) -> tuple[str, int]:
    """`TASK=N` as a pair, for argparse, which reports the ValueError of anything else."""
    task, _, number = text.rpartition("=")
    if not task:
        raise ValueError(text)
    return task_name(task), int(number)


def no_judge(options: argparse.Namespace) -> None:
    """Refuse `--best-by score`: metrics are above this package."""
    from cgclora.config import ConfigError
    from cgclora.training.settings import NO_JUDGE

    if options.best_by == "score":
        raise ConfigError(NO_JUDGE)


def execute(
    options: argparse.Namespace,
    judge_of: Callable[[argparse.Namespace], Judge | None] = no_judge,
) -> None:
    """Train, and report where the adapters are. `judge_of` gives the judge of a run's options."""
    from cgclora.storage.run_dir import TrainingDiverged
    from cgclora.training.distributed import loading_options
    from cgclora.training.runs.trackers import check
    from cgclora.training.train import train_side_by_side

    runs = [options] if options.runs is None else _runs(options)
    check(options.report_to)
    settings = [settings_of(one) for one in runs]  # errors in them come before anything loads
    records = [records_of(one) for one in runs]
    judges = [judge_of(one) for one in runs]
    described = [
        descriptions_of(one, tasks) for one, (*_, tasks) in zip(runs, records, strict=True)
    ]
    options.device, options.dtype = loading_options(options.device, options.dtype)
    backbone = load(options)
    with stop_on_sigterm() as stop:
        outcomes = train_side_by_side(
            [
                _training_run(backbone, *one, name=f"run{place}")
                for place, one in enumerate(
                    zip(runs, settings, records, described, judges, strict=True)
                )
            ],
            backbone.tokenizer,
            tokens=options.pass_tokens,
            stop=stop,
            report_to=options.report_to,
        )
    for one, outcome in zip(runs, outcomes, strict=True):
        if not isinstance(outcome, TrainingDiverged):
            report(outcome, one)
    for one, outcome in zip(runs, outcomes, strict=True):
        if isinstance(outcome, TrainingDiverged):
            raise TrainingDiverged(f"{one.run}: {outcome}" if options.runs else str(outcome))


def _runs(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options of each run that a TOML file names."""
    import tomllib

    from cgclora.config import ConfigError

    try:
        tables = tomllib.loads(options.runs.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {options.runs}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{options.runs} is not TOML: {error}.") from error
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(f"{options.runs} must hold a table for each run, such as [lora].")
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    add_options(parser)
    shared = {
        *("run", "runs", "backbone", "device", "dtype", "four_bit", "json", "pass_tokens"),
        "report_to",
    }
    runs = []
    for name, table in tables.items():
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name.startswith("."):
            raise ConfigError(f"a run is named {name!r}: take letters, digits, '.', '_' and '-'.")
        if wrong := sorted(key for key in table if key.replace("-", "_") in shared):
            raise ConfigError(f"{options.runs}, [{name}]: {wrong} are the same for all runs.")
        own = argparse.Namespace(**vars(options))
        words = ["--data", own.data, "--dev", own.dev, "--run", str(own.run / name)]
        for key, value in table.items():
            if isinstance(value, list):
                setattr(own, key.replace("-", "_"), [])
            for one in value if isinstance(value, list) else [value]:
                words += [f"--{key}"] if one is True else [f"--{key}", str(one)]
        try:
            _, unknown = parser.parse_known_args(words, own)
        except argparse.ArgumentError as error:
            raise ConfigError(f"{options.runs}, [{name}]: {error}.") from error
        if unknown:
            raise ConfigError(
                f"{options.runs}, [{name}]: {' '.join(unknown)} is no option of `cgclora train`."
            )
        runs.append(own)
    return runs


def records_of(options: argparse.Namespace) -> tuple[list[Record], list[Record], list[str]]:
    """Records to train on, those of the dev loss, and their tasks."""
    train_records = read_records(options.data, tasks=options.task)
    tasks = options.task or sorted({record.task for record in train_records})
    return train_records, read_records(options.dev, split="dev", tasks=tasks), tasks


def descriptions_of(options: argparse.Namespace, tasks: Sequence[str]) -> dict[str, Any]:
    """Descriptions of the tasks to train, for the manifest; raises `DataError` if damaged."""
    return description_facts(read_table(table_beside(options.data)), tasks)


def _training_run(
    backbone: Backbone,
    options: argparse.Namespace,
    settings: TrainingSettings,
    records: tuple[list[Record], list[Record], list[str]],
    described: Mapping[str, Any],
    judge: Judge | None,
    name: str,
) -> TrainingRun:
    import torch

    from cgclora.adapter import Adapter
    from cgclora.training.settings import TrainingRun

    train_records, dev_records, tasks = records
    return TrainingRun(
        Adapter.attach(
            backbone,
            replace(_config(options, tasks), **vars(choose_prompts(options, backbone.tokenizer))),
            name=name,
            seed=options.seed,
        ),
        train_records,
        dev_records,
        settings,
        options.run.absolute(),
        facts={"method": options.method, **described}
        | ({"licence": options.licence} if options.licence else {}),
        dtype=torch.bfloat16 if options.half else None,
        judge=judge,
    )


def settings_of(options: argparse.Namespace) -> TrainingSettings:
    """The settings that the options make."""
    import dataclasses

    from cgclora.training.settings import TrainingSettings

    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    values = {name: getattr(options, name) for name in names}
    return TrainingSettings(**{**values, "records_of": dict(options.records_of)})


def report(manifest: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Report how a training run ended."""
    leave_processes()
    if not manifest:
        return  # another process of this run writes and reports
    training = manifest["training"]
    best = f"dev loss {training['best_dev_loss']:.4f}"
    if "best_dev_score" in training:
        best = f"dev score {training['best_dev_score']:.4f} · {best}"
    show(manifest, f"{best} · adapter in {options.run / 'adapter'}", options)


def leave_processes() -> None:
    """Leave the group of processes that trained together, if there is one."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Its threads would now and then abort a process that ends with the group still open.
        torch.distributed.destroy_process_group()


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool] | None]:
    """Whether SIGTERM has come, instead of dying of it; None where several processes train."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not (alone and threading.current_thread() is threading.main_thread()):
        yield None
        return
    received = threading.Event()
    earlier = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield received.is_set
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _config(options: argparse.Namespace, tasks: Sequence[str]) -> Any:
    from cgclora.config import AdapterConfig

    changes = {
        name: value
        for name in ("gate", "gate_scope", "alpha", "dropout")
        if (value := getattr(options, name)) is not None
    }
    if options.target_module:
        changes["target_modules"] = tuple(options.target_module)
    if options.method == "lora":
        return AdapterConfig.lora(tasks, options.rank, **changes)
    if options.method == "moe-lora":
        return AdapterConfig.moe_lora(tasks, options.experts, options.rank, **changes)
    if options.method == "mtl-lora":
        return AdapterConfig.mtl_lora(tasks, options.experts, options.rank, **changes)
    sizes = {name: getattr(options, name) for name in ("common", "specific", "expert_rank")}
    if options.method == "c-poly":
        return AdapterConfig.c_poly(tasks, **sizes, **changes)
    return AdapterConfig(tuple(tasks), **sizes, **changes)
