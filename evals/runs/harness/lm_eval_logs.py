"""Logs of lm-evaluation-harness, as its `--output_path` and `--log_samples` leave them.

    results_<date>.json             scores, configs and versions of the tasks
    samples_<task>_<date>.jsonl     a line for each item and filter: `doc_id`, `doc`, `doc_hash`,
                                    `filter`, `filtered_resps`, and its value by metric

Two models may see one item in different chat templates, so items are told apart by `doc_hash`. The
tasks of `pack` are scored again, by the judge; of others a metric is compared that is the mean of
its values, which excludes those of pooled counts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cgclora.data.records import Record, data_hash
from evals.runs.harness import pack
from evals.runs.harness.logs import Log, LoggedTask, choose, in_range, judged, scored
from evals.runs.run_dir import RunError
from evals.runs.score import pair_of
from evals.runs.scored_run import TaskFacts
from evals.scoring.metrics import get_metric
from evals.tasks import TASKS, Task

RESULTS = re.compile(r".+_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json")
"""Name of a file of results; the group is the date that the files of samples share."""

Sample = Mapping[str, Any]


def read_results(path: Path, results: Mapping[str, Any], metric: str | None) -> Log:
    """The log of a file of results and the files of samples beside it.

    Args:
        path: Of the results.
        results: Its content.
        metric: The one to compare, maybe with its filter (`exact_match,strict`); None takes the
            first of each task.

    Raises:
        RunError: No samples were logged.
        LookupError, TypeError, ValueError: The content is not what the harness writes.
    """
    date = RESULTS.fullmatch(path.name)
    files = {
        name: path.with_name(f"samples_{name}_{date[1]}.jsonl" if date else "")
        for name in results["configs"]
    }
    files = {name: file for name, file in files.items() if file.is_file()}
    if not files:
        raise RunError(
            f"there are no samples_*.jsonl beside {path}: evaluate with --log_samples, and keep "
            "the files together as they were written."
        )
    tasks: dict[str, LoggedTask] = {}
    left_out: dict[str, str] = {}
    records: list[Record] = []
    for name, file in files.items():
        samples = list(_lines(file))
        task = TASKS[pack.NAMES[name]] if name in pack.NAMES else None
        if task is None:
            found = _scored(name, results, samples, metric)
        else:
            asked = [pack.record_of(sample["doc"]) for sample in samples]
            records += asked
            found = _judged(task, asked, samples, metric)
        own_name = name if task is None else task.name
        if isinstance(found, str):
            left_out[own_name] = found
        else:
            tasks[own_name] = found
    title = f"{results.get('model_name') or results['config']['model']} ({path})"
    return Log(title, tasks, left_out, tuple(records))


def _lines(file: Path) -> Iterator[Sample]:
    with file.open(encoding="utf-8") as stream:
        yield from (json.loads(line) for line in stream if line.strip())


def _judged(
    task: Task, records: Sequence[Record], samples: Sequence[Sample], wanted: str | None
) -> LoggedTask | str:
    """A task of the pack, by one of its metrics; the reason where it does not have the wanted."""
    chosen = choose(task.metrics, None if wanted == pack.SCORE else wanted)
    if chosen is None:
        return f"it has no metric {wanted!r}, but {', '.join(task.metrics)}"
    answers = [str(sample["filtered_resps"][0]) for sample in samples]
    return judged(
        TaskFacts(
            *(task.name, chosen, len(samples), data_hash(records)),
            *(task.version, get_metric(chosen).version),
        ),
        records,
        [pair_of(record, answer, task) for record, answer in zip(records, answers, strict=True)],
    )


def _scored(
    name: str, results: Mapping[str, Any], samples: Sequence[Sample], wanted: str | None
) -> LoggedTask | str:
    """A task with a metric that is a mean over its items; the reason where it has none."""
    reported = {
        key: float(value)
        for key, value in results["results"][name].items()
        if "," in key and "_stderr," not in key and isinstance(value, int | float)
    }
    better = results.get("higher_is_better", {}).get(name) or {}
    usable = {}
    for key, value in reported.items():
        metric, _, filter_ = key.partition(",")
        items = [
            (str(sample["doc_id"]), str(sample["doc_hash"]), float(sample[metric]))
            for sample in samples
            if sample["filter"] == filter_ and isinstance(sample.get(metric), int | float)
        ]
        scores = [score for *_, score in items]
        is_mean = math.isclose(math.fsum(scores) / max(1, len(scores)), value, abs_tol=1e-6)
        if items and is_mean and in_range(scores) and better.get(metric) is not False:
            usable[key] = items
    chosen = choose([*usable], wanted)
    if chosen is None:
        names = ", ".join(reported) or "none"
        return (
            f"it has no metric {wanted!r}, but {names}"
            if wanted and choose([*reported], wanted) is None
            else f"of its metrics ({names}) none that is wanted is a mean over items within 0 and "
            "1 of which more is better"
        )
    return scored(name, chosen, str(results["versions"][name]), usable[chosen])
