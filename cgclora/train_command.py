"""`python -m cgclora train`, and the options that other commands which train share with it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.commands import backbone_options, load

if TYPE_CHECKING:
    from cgclora.settings import TrainingSettings

HELP = """Train one adapter on many tasks. The data is JSONL, an object a line:

  {"task": "NER", "input": "the whole prompt", "target": "the answer"}

(`task_dataset` and `kind` name the task too, so PromptCBLUE and Firefly files work as they are.)
The run folder holds log, checkpoints and, at the end, the adapter with the lowest dev loss. An
interrupted run goes on when the same command is given again; SIGTERM lets it write a checkpoint.

  python -m cgclora train --data train.jsonl --dev dev.jsonl --run runs/mine
  python -m cgclora train --data train.jsonl --dev dev.jsonl --run runs/lora --method lora --rank 16
  accelerate launch --config_file "$(python -m cgclora accelerate-config ddp)" --num_processes 4 \\
      -m cgclora train ..."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    data_options(parser)

    method = parser.add_argument_group("method")
    method.add_argument("--method", choices=("cgc-lora", "moe-lora", "lora"), default="cgc-lora")
    method.add_argument("--common", type=int, default=4, help="common experts (cgc-lora)")
    method.add_argument("--specific", type=int, default=1, help="experts a task (cgc-lora)")
    method.add_argument("--expert-rank", type=int, default=2, help="rank of an expert (cgc-lora)")
    method.add_argument("--rank", type=int, default=16, help="total rank (lora, moe-lora)")
    method.add_argument("--experts", type=int, default=8, help="experts (moe-lora)")
    method.add_argument("--gate", choices=("task", "uniform", "none"), help="default: the method's")
    method.add_argument("--gate-scope", choices=("layer", "model"), help="default: the method's")
    method.add_argument("--alpha", type=float, help="default: the method's")
    method.add_argument("--dropout", type=float, default=0.0)
    method.add_argument("--target-module", action="append", help="adapt these only (repeat)")

    how = training_options(parser)
    how.add_argument("--half", action="store_true", help="save the adapter in bf16, half the size")


def data_options(parser: argparse.ArgumentParser) -> None:
    """Options that say what to train on, and where."""
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, required=True, help="training records, JSONL")
    data.add_argument("--dev", type=Path, required=True, help="dev records, JSONL")
    data.add_argument("--run", type=Path, required=True, help="run folder; the same one resumes")
    data.add_argument("--task", action="append", help="train these tasks only (repeat)")
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
    how.add_argument("--patience", type=int, default=0, help="evaluations without gain; 0: no stop")
    how.add_argument("--gradient-checkpointing", action="store_true")
    how.add_argument("--seed", type=int, default=0)
    how.add_argument("--json", action="store_true", help="print the manifest as JSON")
    return how


def _task_number(text: str) -> tuple[str, int]:
    """`TASK=N` as a pair, for argparse, which reports the ValueError of anything else."""
    task, _, number = text.rpartition("=")
    if not task:
        raise ValueError(text)
    return task, int(number)


def execute(options: argparse.Namespace) -> None:
    """Train, and say where the adapter is."""
    import torch

    from cgclora.adapter import Adapter
    from cgclora.data import read_records
    from cgclora.distributed import loading_options
    from cgclora.training import train

    settings = settings_of(options)
    train_records = read_records(options.data, tasks=options.task)
    tasks = options.task or sorted({record.task for record in train_records})
    dev_records = read_records(options.dev, tasks=tasks)
    config = _config(options, tasks)
    options.device, options.dtype = loading_options(options.device, options.dtype)
    backbone = load(options)
    with told_to_stop() as stop:
        manifest = train(
            Adapter.attach(backbone, config, seed=options.seed),
            backbone.tokenizer,
            train_records,
            dev_records,
            settings,
            options.run,
            dtype=torch.bfloat16 if options.half else None,
            facts={"method": options.method}
            | ({"licence": options.licence} if options.licence else {}),
            stop=stop,
        )
    report(manifest, options)


def settings_of(options: argparse.Namespace) -> TrainingSettings:
    """The settings that the options make."""
    import dataclasses

    from cgclora.settings import TrainingSettings

    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    values = {name: getattr(options, name) for name in names}
    return TrainingSettings(**{**values, "records_of": dict(options.records_of)})


def report(manifest: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Say how a training run ended."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Its threads would now and then abort a process that ends with the group still open.
        torch.distributed.destroy_process_group()
    if not manifest:
        return  # another process of this run writes and reports
    if options.json:
        print(json.dumps(manifest, ensure_ascii=False))
    else:
        best = manifest["training"]["best_dev_loss"]
        print(f"dev loss {best:.4f} · adapter in {options.run / 'adapter'}")


@contextmanager
def told_to_stop() -> Iterator[Callable[[], bool] | None]:
    """Whether SIGTERM has come, instead of dying of it; None where several processes train."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not (alone and threading.current_thread() is threading.main_thread()):
        yield None
        return
    told = threading.Event()
    earlier = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told.is_set
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
    sizes = {name: getattr(options, name) for name in ("common", "specific", "expert_rank")}
    return AdapterConfig(tuple(tasks), **sizes, **changes)
