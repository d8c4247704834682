"""PromptCBLUE for lm-evaluation-harness: documents, decoding and scores by the rules of a run.

Nothing here imports the harness. `task` is what it loads, from the YAML files in `promptcblue`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cgclora.data.forms import task_name
from cgclora.data.records import DataError, Record
from cgclora.data.sources import FOLDER_VARIABLE
from evals.data import datasets
from evals.runs.evaluate import request_of
from evals.runs.score import pair_of
from evals.scoring.metrics import Metric, Pair, get_metric
from evals.tasks import FAMILIES, Task

FOLDER = Path(__file__).parent / "promptcblue"
"""The folder for the harness's `--include_path`."""

SCORE = "score"
"""A task's main metric in per cent, of which the group has the mean."""


def harness_name(task: str) -> str:
    """The harness's name of a task: `promptcblue_chip_cdn` is CHIP-CDN."""
    return f"promptcblue_{task.lower().replace('-', '_')}"


NAMES: Mapping[str, str] = MappingProxyType(
    {harness_name(task.name): task.name for task in FAMILIES["promptcblue"].tasks}
)
"""Our name of each task by the harness's."""


class Graded(float):
    """A sample's own score, with the pair of which the score of the whole task is made.

    As a number it stands in the harness's log of samples.
    """

    pair: Pair

    def __new__(cls, value: float, pair: Pair) -> Graded:
        """A number with its pair."""
        graded = super().__new__(cls, value)
        graded.pair = pair
        return graded

    def __getnewargs__(self) -> tuple[float, Pair]:  # type: ignore[override]
        """For pickle, with which the harness collects the samples of several processes."""
        return float(self), self.pair


def documents(task: Task, settings: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The records of a task by split, in PromptCBLUE's own form.

    Args:
        task: Of PromptCBLUE.
        settings: `data` (file, folder or hub id; default: the folder of `CGCLORA_DATA`) and `split`
            (default `test`), from the harness's `--metadata`.

    Returns:
        The split to answer, and `train` for examples in the prompt if the data has that, too.

    Raises:
        DataError: The data cannot be read, or has no record of the task.
    """
    source, split = settings.get("data"), str(settings.get("split", "test"))
    if not (source or os.environ.get(FOLDER_VARIABLE)):
        raise DataError(
            "no data is named: give the file, folder or hub id of PromptCBLUE with --metadata "
            f"""'{{"data": "..."}}', or set the environment variable {FOLDER_VARIABLE}."""
        )
    asked = _read(source, split)
    found = {split: [_document(one) for one in asked.of_task(task.name)]}
    if not found[split]:
        present = ", ".join(harness_name(name) for name in asked.tasks if name in NAMES.values())
        others = f", or name with --tasks what it has: {present}" if present else ""
        raise DataError(f"{asked.name} has no record of {task.name}: give other data{others}.")
    if asked.split not in {None, "train"}:
        with suppress(DataError):  # there is no train split
            train = [_document(one) for one in _read(source, "train").of_task(task.name)]
            found |= {"train": train} if train else {}
    return found


@lru_cache(maxsize=2)  # every task reads the same two splits
def _read(source: str | None, split: str) -> datasets.Dataset:
    return datasets.read(source, split=split)


def _document(record: Record) -> dict[str, Any]:
    return {
        "input": record.prompt,
        "target": record.target,
        "answer_choices": None if record.choices is None else list(record.choices),
        "task_dataset": record.task,
        "sample_id": record.id,
    }


def record_of(document: Mapping[str, Any]) -> Record:
    """The record of a document.

    Raises:
        LookupError: It lacks a field.
    """
    choices = document["answer_choices"]
    return Record(
        str(document["sample_id"]),
        task_name(str(document["task_dataset"])),
        str(document["input"]),
        str(document["target"]),
        None if choices is None else tuple(map(str, choices)),
    )


def config(task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The harness's config of a task: greedy answers, as long and with the stops as in a run."""
    request = request_of(Record("", task.name, "", ""))
    return {
        "task_alias": task.name,
        "output_type": "generate_until",
        "target_delimiter": "",
        "generation_kwargs": {
            "until": list(request.stop),
            "max_gen_toks": request.max_new_tokens,
            "do_sample": False,
            "temperature": 0.0,
        },
        "metadata": {
            "licence": task.licence,
            "metrics": {name: get_metric(name).version for name in task.metrics},
            **settings,
            "version": task.version,
        },
    }


def grade(task: Task, document: Mapping[str, Any], answer: str) -> dict[str, Graded]:
    """What the score and each metric of the task need of an answer."""
    pair = pair_of(record_of(document), answer, task)
    own = {name: value_of(get_metric(name), [pair]) for name in task.metrics}
    graded = {name: Graded(value, pair) for name, value in own.items()}
    return {SCORE: Graded(100 * own[task.metrics[0]], pair), **graded}


def aggregations(task: Task) -> dict[str, Callable[[Sequence[Graded]], float]]:
    """What makes the score, in per cent, and each metric, in [0, 1], of all answers of the task."""

    def over_all(name: str, scale: int = 1) -> Callable[[Sequence[Graded]], float]:
        return lambda all_: scale * value_of(get_metric(name), [one.pair for one in all_])

    return {
        SCORE: over_all(task.metrics[0], 100),
        **{name: over_all(name) for name in task.metrics},
    }


def value_of(metric: Metric, pairs: Sequence[Pair]) -> float:
    """The value of a metric for all of these answers together."""
    return float(metric.score(metric.statistics(pairs).sum(axis=0)))
