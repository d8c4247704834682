"""What adding a task changed: the new task's score before and after, and that nothing else did.

Before there was an adapter for it, the new task was answered by the backbone alone: so that is what
its score is compared with, record by record. For every other task two things are compared, both
read from the saved folders:

    weights   the common experts, its own ones and its row of the gate, bit by bit
    logits    after some prompts of the task and along the answers, which may not differ at all
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import DataError, Record, data_hash
from cgclora.inference.batch import Batch
from cgclora.inference.continuous.loop import default_rows
from cgclora.inference.engine import answers_of
from cgclora.inference.request import Request, encode_requests
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import Backbone
from cgclora.storage import adapter_dir, provenance
from cgclora.storage.layer_shapes import WEIGHTS_FILE
from cgclora.training.add_task import Tensors, changed_tensors, take_experts
from evals.data.datasets import Dataset, first_of_each_task
from evals.runs.evaluate import request_of
from evals.runs.score import pair_of, score_together
from evals.scoring.effect_sizes import adjust, gain
from evals.scoring.metrics import Pair
from evals.scoring.statistics import summarise
from evals.tasks import TASKS, Task
from evals.tasks.samples import load_samples

REPORT = "added"
"""Name of the report in the manifest of the grown adapter."""

BEFORE, AFTER = "before", "after"

_PROMPTS = 3
"""Prompts of each other task whose logits are compared."""

_TOKENS = 8
"""Positions of each answer whose logits are compared."""

Progress = Callable[[int, int], None]


def compare(
    backbone: Backbone,
    base: Path,
    grown: Path,
    dataset: Dataset,
    *,
    per_task: int = 0,
    batch_size: int | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Compare an adapter with the one that it was grown from.

    Args:
        backbone: Of both.
        base: Folder of the adapter before.
        grown: Folder of the adapter with more tasks.
        dataset: Records of the new tasks, best such that were not trained on; others are skipped.
        per_task: The first so many of each task; 0 takes all.
        batch_size: Rows of a batch; None takes `default_rows`.
        progress: Called after each answer and each compared prompt with their numbers so far and in
            all.

    Returns:
        `base`: sha256 of its weights. `data`: hash, split and number of the records. `tasks`: for
        each new task its main `metric`, number of `records`, scores `before` and `after` as
        `Estimate`s, and the `gain` as a `Gain`. `unchanged`: for each other task whether it is
        `identical`, the number of `weights` that it uses, the names of those tensors that
        `changed`, and the largest absolute `difference` of the logits over so many `prompts` and
        `tokens`. Also how was answered, and where the numbers come from.

    Raises:
        AdapterError: A folder is no adapter of this backbone.
        ConfigError: The second one is not the first one with more tasks.
        DataError: No record is of a new task that can be scored.
    """
    manifest, config = adapter_dir.read_manifest(base)
    _, new_config = adapter_dir.read_manifest(grown)
    added = _added(config, new_config)
    records = first_of_each_task(dataset.records, added, per_task or len(dataset.records))
    if missing := sorted(set(added) - {record.task for record in records}):
        raise DataError(f"{', '.join(missing)}: no record is of this new task, give some of it.")
    prompts = {task: _prompts(task, records) for task in config.tasks}
    total = 2 * len(records) + sum(map(len, prompts.values()))
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    with _attached(backbone, base, BEFORE) as old, _attached(backbone, grown, AFTER) as new:
        tasks = _tasks(backbone, new, records, dataset.descriptions, batch_size, step)
        differences = {
            task: max(_differences(backbone, old, new, task, some, step))
            for task, some in prompts.items()
        }
    weights = _weights(config, new_config, *map(adapter_dir.read_tensors, (base, grown)))
    return {
        "base": {"sha256": manifest["files"][WEIGHTS_FILE]["sha256"]},
        "data": {"hash": data_hash(records), "split": dataset.split, "records": len(records)},
        "tasks": tasks,
        "unchanged": {
            task: {
                "identical": not weights[task]["changed"] and differences[task] == 0,
                **weights[task],
                "prompts": len(prompts[task]),
                "tokens": _TOKENS,
                "difference": differences[task],
            }
            for task in config.tasks
        },
        "decoding": Runtime.of(backbone).facts(),
        **provenance.stamp(backbone.model),
    }


@contextmanager
def _attached(backbone: Backbone, folder: Path, name: str) -> Iterator[Adapter]:
    adapter = Adapter.load(folder, backbone, name=name)
    try:
        yield adapter.for_inference()
    finally:
        adapter.detach()


def _added(config: AdapterConfig, grown: AdapterConfig) -> list[str]:
    """The tasks that the second config has more.

    Raises:
        ConfigError: It is not the first one with more tasks.
    """
    added = [task for task in grown.tasks if task not in config.tasks]
    fields = vars(config).keys() - {"tasks", "alpha"}  # of alpha, the scale counts
    others = [name for name in sorted(fields) if getattr(config, name) != getattr(grown, name)]
    if not added or not set(config.tasks) <= set(grown.tasks) or others:
        what = f": {others[0]} differs" if others else ""
        raise ConfigError(
            f"the adapter is not the base with more tasks{what}. Give the folder that `add-task` "
            "wrote, and as base the one that it was given."
        )
    return added


# The new tasks ----------------------------------------------------------------------------


def _tasks(
    backbone: Backbone,
    adapter: Adapter,
    records: Sequence[Record],
    tasks: Mapping[str, Task],
    batch_size: int | None,
    step: Callable[[], None],
) -> dict[str, dict[str, Any]]:
    """Scores of the new tasks by the backbone alone and by the adapter."""
    requests = [request_of(record, task=tasks[record.task]) for record in records]
    texts: dict[int, str] = {}
    for i, answer in answers_of(
        backbone,
        requests * 2,
        [None] * len(records) + [adapter] * len(records),
        batch_size=default_rows(backbone) if batch_size is None else batch_size,
    ):
        texts[i] = answer.text
        step()
    pairs: dict[str, dict[str, list[Pair]]] = {}
    for side, first in ((BEFORE, 0), (AFTER, len(records))):
        for i, record in enumerate(records, start=first):
            of_task = pairs.setdefault(record.task, {})
            of_task.setdefault(side, []).append(pair_of(record, texts[i], tasks[record.task]))
    scored = {task: score_together(tasks[task], sides) for task, sides in pairs.items()}
    gains = adjust(
        [
            gain((after[0] - before[0], after[1] - before[1], after[2]))
            for before, after in ((sides[BEFORE], sides[AFTER]) for sides in scored.values())
        ]
    )
    return {
        task: {
            "metric": tasks[task].metrics[0],
            "records": sides[AFTER][2],
            **{side: dataclasses.asdict(summarise(*part)) for side, part in sides.items()},
            "gain": dataclasses.asdict(difference),
        }
        for (task, sides), difference in zip(scored.items(), gains, strict=True)
    }


# The other tasks --------------------------------------------------------------------------


def _prompts(task: str, records: Sequence[Record]) -> list[str]:
    """Prompts of a task that come with the project; of a user's own task, those of the data.

    Any prompt will do: whatever it says, it passes through all experts of the task.
    """
    samples = load_samples().get(task, [])
    known = [TASKS[task].prompt(sample.fields) for sample in samples]
    return (known or [record.prompt for record in records])[:_PROMPTS]


def _differences(
    backbone: Backbone,
    old: Adapter,
    new: Adapter,
    task: str,
    prompts: Sequence[str],
    step: Callable[[], None],
) -> Iterator[float]:
    """The largest absolute difference of the logits for each prompt, along the old answer."""
    for prompt in prompts:
        request = Request(task, prompt, max_new_tokens=_TOKENS)
        first, second = (
            Batch(backbone, adapter, [request], [encoded.ids])
            for adapter in (old, new)
            for encoded in encode_requests(backbone, [request], adapter)
        )
        logits, others = first.prefill(), second.prefill()
        largest = _distance(logits, others)
        for _ in range(_TOKENS - 1):
            token = int(logits.argmax())
            logits, others = first.step([token]), second.step([token])
            largest = max(largest, _distance(logits, others))
        step()
        yield largest


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return 0.0 if torch.equal(one, other) else float((one.float() - other.float()).abs().max())


def _weights(
    config: AdapterConfig, grown: AdapterConfig, before: Tensors, after: Tensors
) -> dict[str, dict[str, Any]]:
    """For each task of the first config the number of its weights, and what of them changed."""
    wide = {
        name: tensor.to(torch.promote_types(tensor.dtype, after[name].dtype))
        for name, tensor in before.items()
        if name in after
    }  # an adapter of several precisions grows into one that holds all of them
    same_scale = np.float32(config.scale) == np.float32(grown.scale)
    found = {}
    for task in config.tasks:
        of_task = take_experts(wide, config, [task])
        changed = changed_tensors(of_task, take_experts(after, grown, [task]))
        found[task] = {
            "weights": sum(tensor.numel() for tensor in of_task.values()),
            "changed": changed + ([] if same_scale else ["scale"]),
        }
    return found
