"""Train an adapter on many tasks at once, on `transformers.Trainer`.

The trainer's own loop, optimizer, schedule and distributed code are used as they are. What is
ours: which records make a batch (`TaskSampler`), the loss (`TargetLoss`), the route of a batch, a
learning rate of the gate's own, a log of loss per task and gates (`AdapterTrainer`), checkpoints
that hold the adapter alone and count only when they are complete (`run_folder`), and which part of
a backbone each of several processes holds (`distributed`).
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors.torch import save
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cgclora import files, provenance
from cgclora.adapter import Adapter
from cgclora.adapter_trainer import AdapterTrainer
from cgclora.batching import Collator
from cgclora.checkpoint import fingerprint
from cgclora.config import ConfigError
from cgclora.data import Record, data_hash, encode, sample_per_task
from cgclora.router import TaskRouter
from cgclora.run_folder import (
    Stopwatch,
    claim,
    cut_log,
    hold,
    last_checkpoint,
    seconds_spent,
    state_at_the_end,
    step_of,
)
from cgclora.settings import TrainingSettings, trainer_arguments
from cgclora.training_callbacks import Progress, Rhythm, Stop, print_progress

__all__ = ["AdapterTrainer", "print_progress", "train"]


def train(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    train_records: Sequence[Record],
    dev_records: Sequence[Record],
    settings: TrainingSettings,
    run_folder: str | Path,
    *,
    only: Sequence[str] | None = None,
    check: Callable[[], None] | None = None,
    facts: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[dict[str, Any]], None] = print_progress,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train an attached adapter, or go on with a run that was interrupted in this folder.

    Afterwards the adapter holds the weights with the lowest dev loss, and has a router. Under
    `accelerate launch` the processes share each step's batch, and process 0 writes; with an FSDP
    config they share the backbone, too, which is good for nothing but training then (see
    `distributed`).

    Args:
        adapter: A fresh adapter, just attached.
        tokenizer: The backbone's.
        train_records: What to learn from; every task needs some.
        dev_records: What the dev loss is taken on; every task needs some.
        settings: How.
        run_folder: Where the run lives.
        only: The tasks that have records; None for all. With some only, the adapter keeps the
            router that it has.
        check: Called before the adapter is saved; may raise to prevent that.
        facts: More for the adapter's manifest.
        dtype: Of the saved weights; None keeps fp32.
        progress: Called with step, steps, seconds_left and losses.
        stop: Asked after each step; once it says yes a checkpoint is written and the run ends, to
            be gone on with later. For a single process.

    Returns:
        The manifest of the saved adapter.

    Raises:
        DataError: A task has no usable record.
        TrainingError: The folder holds another run or one that is under way, its best checkpoint
            is gone, the backbone is on another GPU than the trainer's, or an FSDP config does not
            work with it.
        TrainingDiverged: The loss is not finite.
        TrainingStopped: `stop` said so.
    """
    provenance.commit()  # kept from here on: a commit made during the run is not the run's code
    folder = Path(run_folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tasks = adapter.config.tasks
    if unknown := sorted(settings.records_of.keys() - set(tasks)):
        raise ConfigError(f"records_of names tasks that the adapter does not know: {unknown}.")
    wanted = {
        "train": [settings.records_of.get(task, settings.records_per_task) for task in tasks],
        "dev": [settings.dev_records_per_task for _ in tasks],
    }
    positions = _positions(adapter.model)
    max_length = min(settings.max_length, positions)
    data, too_long = {}, Counter[str]()
    for split, records in (("train", train_records), ("dev", dev_records)):
        encoded, skipped = encode(
            records,
            tokenizer,
            tasks,
            separator=adapter.config.separator,
            max_length=max_length,
            needed=only,
        )
        data[split] = sample_per_task(encoded, wanted[split], settings.seed)
        too_long += skipped
    if too_long:
        print(f"left out as longer than {max_length} tokens: {dict(too_long)}", file=sys.stderr)
    if only is None:
        adapter.router = _router(train_records, tasks)
    identity = {
        "config": adapter.config.to_dict(),
        "settings": dataclasses.asdict(settings),
        "backbone": fingerprint(adapter.model),
        "train_data": data_hash(train_records),
        "dev_data": data_hash(dev_records),
        **({} if only is None else _start(adapter, only)),
    }
    trainer = AdapterTrainer(
        adapter,
        settings,
        arguments=trainer_arguments(
            settings, len(data["train"]), folder / "checkpoints", adapter.gate.own.device
        ),
        train_data=data["train"],
        dev_data=data["dev"],
        log_file=folder / files.LOG_FILE,
        collator=Collator(cast(int, tokenizer.pad_token_id), settings.weighting, positions),
        callbacks=[Progress(progress)],
    )
    if stop is not None:  # before the rhythm, which lets a log follow each checkpoint
        trainer.add_callback(Stop(stop))
    trainer.add_callback(Rhythm(trainer))
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    if settings.patience:
        trainer.add_callback(transformers.EarlyStoppingCallback(settings.patience))
    counts = {
        "records": {split: len(items) for split, items in data.items()},
        "too_long": dict(too_long),
    }
    if not trainer.is_world_process_zero():
        trainer.accelerator.wait_for_everyone()  # until process 0 has the folder
        _run(trainer, folder)
        return {}
    with hold(folder):
        claim(folder, identity)
        trainer.accelerator.wait_for_everyone()
        outcome = _run(trainer, folder)
        if check is not None:
            check()
        return adapter.save(
            folder / "adapter",
            dtype=dtype,
            facts={"training": {**identity, **counts, **outcome}, **(facts or {})},
        )


def _router(records: Sequence[Record], tasks: Sequence[str]) -> TaskRouter:
    """What finds the tasks' prompts, from all records: it costs no step."""
    prompts: dict[str, list[str]] = {task: [] for task in tasks}
    for record in records:
        prompts[record.task].append(record.prompt)
    return TaskRouter.fit(prompts)


def _start(adapter: Adapter, only: Sequence[str]) -> dict[str, Any]:
    """What is trained of an adapter, and the hash of the weights that it has before."""
    return {"only": list(only), "weights_at_start": files.sha256(save(adapter.state_dict()))}


def _positions(model: PreTrainedModel) -> int:
    """How many tokens a backbone can tell the places of."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return known if known and known > 0 else sys.maxsize


def _run(trainer: AdapterTrainer, folder: Path) -> dict[str, Any]:
    """Train, or go on, until the adapter has the weights with the lowest dev loss."""
    checkpoint = last_checkpoint(folder / "checkpoints")
    if trainer.is_world_process_zero():
        cut_log(trainer.log_file, checkpoint)
    state = state_at_the_end(checkpoint)
    if state is not None:  # only the adapter was not saved yet
        trainer.state = state
    else:
        trainer.stopwatch = Stopwatch(folder)
        _take_steps(trainer, checkpoint)
    trainer.load_best()
    return {
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "best_dev_loss": trainer.state.best_metric,
        "resumed_at": step_of(checkpoint) if checkpoint else None,
        "seconds": seconds_spent(folder),
    }


def _take_steps(trainer: AdapterTrainer, checkpoint: Path | None) -> None:
    """Train from the checkpoint on, and leave the backbone as it was but for the adapter."""
    model = trainer.adapter.model
    if trainer.settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        if trainer.settings.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        model.eval()
