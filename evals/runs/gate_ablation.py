"""Do gates matter? Scores of one adapter with its gates changed, on the same records.

The weight of an expert is not its effect: an expert with little weight may carry the answer. So
each record is answered with the learned gates and with changed ones, and the scores are compared:

    learned               the gates as trained
    uniform               each task's experts weighed alike, with the same sum in each layer
    no specific experts   their weights set to 0, those of the common experts as learned
    no common experts     the other way round
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cgclora.adapter import Adapter
from cgclora.analysis.gates import LEARNED, VARIANTS
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import DataError, Record, data_hash
from cgclora.inference.continuous.loop import default_rows
from cgclora.inference.engine import Engine
from cgclora.inference.request_queue import Limits
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import Backbone
from cgclora.storage import provenance
from evals.data.datasets import Dataset, first_of_each_task
from evals.runs.evaluate import request_of
from evals.runs.score import pair_of, score_together
from evals.scoring.effect_sizes import OVERALL, Part, over_tasks
from evals.scoring.metrics import Pair
from evals.scoring.statistics import mean_of, summarise
from evals.tasks import Task


def variants(config: AdapterConfig, task: str, learned: Tensor) -> dict[str, Tensor]:
    """The gates of a task in each variant that differs from the learned ones.

    Args:
        config: Of the adapter.
        task: One of its tasks.
        learned: [L, E].

    Returns:
        By name of the variant, [L, E]. A variant that would leave no expert at all is not there.
    """
    usable = torch.tensor(config.access()[config.task_index(task)], device=learned.device)
    is_common = torch.arange(learned.shape[-1], device=learned.device) < config.common
    changed = {
        "uniform": usable * learned.sum(-1, keepdim=True) / usable.sum(),
        "no specific experts": learned * is_common,
        "no common experts": learned * ~is_common,
    }
    return {
        name: gates
        for name, gates in changed.items()
        if gates.ne(0).any() and not torch.allclose(gates, learned, rtol=1e-6, atol=0)
    }


def ablate(
    backbone: Backbone,
    adapter: Adapter,
    dataset: Dataset,
    *,
    per_task: int = 0,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Scores of each variant, and how much each loses or gains beside the learned gates.

    Args:
        backbone: The model.
        adapter: Attached to it, laid out for inference, with a learned gate.
        dataset: The dev split; records of other tasks are skipped.
        per_task: The first so many of each task; 0 takes all.
        batch_size: Rows of a batch; None takes `default_rows`.
        progress: Called after each answer with the numbers of answers so far and in all.

    Returns:
        `tasks`: for each its main `metric` and number of `records`. `variants`: for each, by task
        and `overall` (the mean over the tasks that have the variant), the score as an `Estimate`,
        and its `difference` from the learned gates as a `Gain`. Also the hash of the records, how
        they were answered, and where the numbers come from.

    Raises:
        ConfigError: The adapter has no learned gate.
        DataError: No record is of a task of the adapter that can be scored.
    """
    if not adapter.config.learns_gate:
        raise ConfigError(
            f"the gate of this adapter is {adapter.config.gate!r}, so there are no learned weights "
            "to change: give an adapter with a task gate, such as CGC-LoRA or MOE-LoRA."
        )
    tasks = dataset.descriptions
    known = {*tasks} & {*adapter.config.tasks}
    chosen = first_of_each_task(dataset.records, known, per_task or len(dataset.records))
    if not chosen:
        raise DataError(
            "none of these records belongs to a task of the adapter: give its dev data."
        )
    answered: dict[str, dict[str, list[Pair]]] = {}
    for variant, record, pair in _answers(backbone, adapter, chosen, tasks, batch_size, progress):
        answered.setdefault(record.task, {}).setdefault(variant, []).append(pair)
    scored = {
        task: score_together(tasks[task], of_variant) for task, of_variant in answered.items()
    }
    return {
        "data": data_hash(chosen),
        "records": len(chosen),
        "tasks": {
            task: {"metric": tasks[task].metrics[0], "records": scores[LEARNED][2]}
            for task, scores in scored.items()
        },
        "variants": {name: _report(name, scored) for name in VARIANTS},
        "decoding": Runtime.of(backbone).facts(),
        **provenance.stamp(backbone.model),
    }


def _answers(
    backbone: Backbone,
    adapter: Adapter,
    records: Sequence[Record],
    tasks: Mapping[str, Task],
    batch_size: int | None,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[str, Record, Pair]]:
    """Variant, record and pair of every answer, in the order of the records."""
    learned = adapter.gates()
    changed = {
        task: variants(adapter.config, task, learned[:, adapter.config.task_index(task)])
        for task in dict.fromkeys(record.task for record in records)
    }
    questions = [
        (name, record, gates)
        for record in records
        for name, gates in [(LEARNED, None), *changed[record.task].items()]
    ]
    requests = [
        dataclasses.replace(request_of(record, task=tasks[record.task]), gates=gates)
        for _, record, gates in questions
    ]
    limits = Limits(batch_size=default_rows(backbone) if batch_size is None else batch_size)
    texts: dict[int, str] = {}
    for i, answer in Engine(backbone, adapter, limits).answers(requests):
        texts[i] = answer.text
        progress(len(texts), len(requests))
    for i, (name, record, _) in enumerate(questions):
        yield name, record, pair_of(record, texts[i], tasks[record.task])


def _report(variant: str, scored: dict[str, dict[str, Part]]) -> dict[str, Any]:
    """The scores of a variant by task and overall, and their differences from the learned gates."""
    with_it = {task: scores for task, scores in scored.items() if variant in scores}
    if not with_it:
        return {}
    scores = {task: of[variant] for task, of in with_it.items()}
    scores[OVERALL] = mean_of([*scores.values()])
    report: dict[str, dict[str, Any]] = {
        name: dataclasses.asdict(summarise(*score)) for name, score in scores.items()
    }
    if variant == LEARNED:
        return report
    parts: dict[str, Part] = {
        task: (of[variant][0] - of[LEARNED][0], of[variant][1] - of[LEARNED][1], of[variant][2])
        for task, of in with_it.items()
    }
    for name, gain in over_tasks(parts).items():
        report[name]["difference"] = dataclasses.asdict(gain)
    return report
