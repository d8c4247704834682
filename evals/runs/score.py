"""Scores of a run, from its predictions and the data that they answer; needs no model."""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cgclora.data.records import DataError, Record, data_hash
from evals.data.datasets import Dataset
from evals.runs import run_dir
from evals.runs.run_dir import Run
from evals.scoring.effect_sizes import Part
from evals.scoring.metrics import Metric, Pair, get_metric, sample_scores
from evals.scoring.statistics import RESAMPLES, replicates, summarise, task_seed
from evals.tasks import TASKS, Task
from evals.tasks.recognition import tasks_of

KEPT_REPLICATES = 2_000
"""So many of the resamples' main scores stay with a run: enough for an interval of a difference."""


def score(run: Run, dataset: Dataset, *, resamples: int = RESAMPLES) -> Run:
    """Give a run its metrics, from its predictions and the data they answer.

    Of each task: `samples`, `main` (its main metric), `scores` (for each metric `value`, the 95 %
    interval `low` to `high`, `standard_error` and `version`), `unread` (answers of which something
    could not be read) and `cut` (answers that reached their most tokens).

    Raises:
        DataError: The data is not what was answered.
        RunError: The predictions are damaged.
    """
    rows = run.predictions()
    metrics: dict[str, Any] = {}
    kept: dict[str, npt.NDArray[np.float32]] = {}
    parsed: list[str] = [""] * len(rows)
    scores: list[float] = [math.nan] * len(rows)
    tasks = tasks_of(run.manifest)
    for name, own_pairs in pairs(run, dataset).items():
        places = [place for place, task in enumerate(rows["task"]) if task == name]
        metrics[name], kept[name], own = _score_task(tasks[name], own_pairs, resamples)
        metrics[name]["cut"] = Counter(rows["finish"][place] for place in places)["length"]
        for place, pair, value in zip(places, own_pairs, own, strict=True):
            parsed[place] = json.dumps(pair.predicted.items, ensure_ascii=False)
            scores[place] = value
    return run_dir.write_scores(run, metrics, kept, {"parsed": parsed, "score": scores})


def pairs(
    run: Run, dataset: Dataset, wanted: Collection[str] | None = None
) -> dict[str, list[Pair]]:
    """For each task the answers beside their references, in the order of the predictions' rows.

    Args:
        run: The run.
        dataset: The records that it answers.
        wanted: Names of tasks of the run; None takes all.

    Raises:
        DataError: The data is not what was answered.
        RunError: The predictions are damaged.
    """
    references = {(record.task, record.id): record for record in dataset.records}
    rows = run.predictions()
    answers = [
        (task, identity, text)
        for task, identity, text in zip(rows["task"], rows["id"], rows["prediction"], strict=True)
        if wanted is None or task in wanted
    ]
    missing = [
        f"{task} {identity}" for task, identity, _ in answers if (task, identity) not in references
    ]
    if missing:
        raise DataError(
            f"{dataset.name} lacks {len(missing)} of the records that {run.folder.name} answers, "
            f"the first is {missing[0]}: give the data that it was made with."
        )
    found: dict[str, list[Pair]] = {}
    tasks = tasks_of(run.manifest)
    for name, facts in run.manifest["data"]["tasks"].items():
        if wanted is not None and name not in wanted:
            continue
        answered = [(references[task, one], text) for task, one, text in answers if task == name]
        if data_hash(record for record, _ in answered) != facts["hash"]:
            raise DataError(
                f"the records of {name} in {dataset.name} are not those that {run.folder.name} "
                "answers: give the data that it was made with."
            )
        found[name] = [pair_of(record, text, tasks[name]) for record, text in answered]
    return found


def pair_of(record: Record, prediction: str, task: Task | None = None) -> Pair:
    """A prediction beside the record's target, both read by the rules of its task.

    Args:
        record: With its target.
        prediction: The answer.
        task: The record's; None takes the built-in one.
    """
    task = task or TASKS[record.task]
    return Pair(
        prediction,
        record.target,
        task.parse(prediction, record.choices),
        task.parse(record.target, record.choices),
    )


def score_together(task: Task, answers: Mapping[str, Sequence[Pair]]) -> dict[str, Part]:
    """The main score of several sides that answered the same records, on shared resamples.

    Args:
        task: Of the records.
        answers: For each side its answers beside their references, in the same order.
    """
    metric = get_metric(task.metrics[0])
    together = metric.statistics([pair for pairs in answers.values() for pair in pairs])
    parts = np.split(together, len(answers))
    return {
        side: (
            float(metric.score(part.sum(axis=0))),
            replicates(part, metric.score, seed=task_seed(task.name)),
            len(part),
        )
        for side, part in zip(answers, parts, strict=True)
    }


def _score_task(
    task: Task, pairs: Sequence[Pair], resamples: int
) -> tuple[dict[str, Any], npt.NDArray[np.float32], list[float]]:
    found: dict[str, Any] = {}
    main: npt.NDArray[np.float32] | None = None
    own: list[float] = []
    for name in task.metrics:
        metric: Metric = get_metric(name)
        statistics = metric.statistics(pairs)
        drawn = replicates(statistics, metric.score, resamples=resamples, seed=task_seed(task.name))
        value = float(metric.score(statistics.sum(axis=0)))
        estimate = summarise(value, drawn, len(pairs))
        found[name] = {
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "standard_error": estimate.standard_error,
            "version": metric.version,
        }
        if main is None:
            if not metric.higher_is_better:
                raise ValueError(
                    f"the main metric of {task.name} is {name}, of which less is better: a board "
                    "ranks by means over tasks, so put another one first."
                )
            main = drawn[:KEPT_REPLICATES].astype(np.float32)
            own = [float(one) for one in sample_scores(metric, statistics)]
    if main is None:
        raise ValueError(f"{task.name} has no metric")
    facts = {
        "samples": len(pairs),
        "main": task.metrics[0],
        "scores": found,
        "unread": sum(bool(pair.predicted.unparsed) for pair in pairs),
    }
    return facts, main, own
