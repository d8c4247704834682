"""How often an adapter and the bare backbone name the right label, task by task.

Each method answers the same test records, greedily:

    adapter             the task's experts, free to say anything
    backbone            no experts, free to say anything
    backbone, labels    no experts, and may say one of the record's labels only: the fairer rival,
                        since an untrained model does not know that a label is wanted
    commonest label     no model: the label that most of the records have, known only afterwards; a
                        method that does not beat it has not shown that it reads the question
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cgclora.adapter import Adapter
from cgclora.analysis.intervals import wilson_interval
from cgclora.data.records import DataError, Record, data_hash
from cgclora.inference.engine import generate
from cgclora.models.backbone import Backbone
from cgclora.storage import provenance
from evals.data.datasets import first_of_each_task
from evals.runs.evaluate import request_of
from evals.runs.score import pair_of
from evals.scoring.metrics import get_metric
from evals.tasks import TASKS

METHODS = ("adapter", "backbone", "backbone, labels")
COMMONEST = "commonest label"


def compare(
    backbone: Backbone,
    adapter: Adapter,
    records: Sequence[Record],
    *,
    most: int = 0,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Accuracy with its 95 % interval for each classification task of the adapter and each method.

    Args:
        backbone: The model.
        adapter: Attached to it.
        records: Test records; those of other tasks are passed over.
        most: Take the first so many of each task; 0 takes all.
        batch_size: Requests in one batch.

    Returns:
        For each task the number of records, how many each method got right, accuracy and interval;
        with the hash of the records and where the numbers come from.

    Raises:
        DataError: The adapter has no classification task with records.
    """
    tasks = [name for name, task in TASKS.items() if task.kind == "classification"]
    known = {*tasks} & {*adapter.config.tasks}
    chosen = first_of_each_task(records, known, most or len(records))
    if not chosen:
        raise DataError(
            "none of these records belongs to a classification task of the adapter: give the "
            "test file of its dataset."
        )
    scores: dict[str, Any] = {}
    for name in dict.fromkeys(record.task for record in chosen):
        group = [record for record in chosen if record.task == name]
        right = {
            method: _count_right(backbone, adapter, group, method, batch_size) for method in METHODS
        }
        right[COMMONEST] = max(Counter(record.target for record in group).values())
        scores[name] = {"records": len(group)} | {
            method: {
                "right": count,
                "accuracy": count / len(group),
                "interval": wilson_interval(count, len(group)),
            }
            for method, count in right.items()
        }
        shown = " · ".join(f"{method} {count / len(group):.3f}" for method, count in right.items())
        print(f"{name}: {shown}", file=sys.stderr, flush=True)
    return {"data": data_hash(chosen), **provenance.stamp(backbone.model), "tasks": scores}


def _count_right(
    backbone: Backbone, adapter: Adapter, records: Sequence[Record], method: str, batch_size: int
) -> int:
    requests = [
        dataclasses.replace(
            request_of(record),
            task=record.task if method == "adapter" else None,
            choices=TASKS[record.task].answers(record.choices) if "labels" in method else None,
        )
        for record in records
    ]
    answers = generate(backbone, requests, adapter, batch_size=batch_size)
    pairs = [pair_of(record, answer.text) for answer, record in zip(answers, records, strict=True)]
    right, _ = get_metric("accuracy").statistics(pairs).sum(axis=0)
    return int(right)
