"""The predictions of a run: one method answers the tasks of one split.

Predictions need a model and the data; scores need the predictions, the data and the scoring
packages (`evals.runs.score`). So the two can be made on different machines.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cgclora.data.records import DataError, Record, data_hash
from cgclora.inference.request import Answer, Request, longest_first
from evals.data.datasets import Dataset
from evals.runs import run_dir
from evals.runs.run_dir import Prediction, Run, RunError, Unfinished
from evals.runs.time_left import TimeLeft
from evals.tasks import TASKS, Task

FLUSH_SECONDS = 10.0
"""Interval between two entries of the progress log."""


PROMPTS: Mapping[str, Callable[[str, Task], str]] = {
    "plain": lambda prompt, _: prompt,
    "task name": lambda prompt, task: f"任务：{task.title_zh}\n{prompt}",
}
"""What makes a prompt of a record's: as it is, or the task's name before it (LoRA (Full+TP))."""


class ModelAPI(Protocol):
    """A model in this process, or a server."""

    @property
    def parallel(self) -> int:
        """Maximum number of requests that are answered at the same time."""

    def facts(self, tasks: Sequence[str]) -> Mapping[str, Any]:
        """Entries of the manifest: `backbone`, `adapters`, `decoding` and the like."""

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Each request's index with its answer, in any order, as soon as it is known."""


@dataclass(frozen=True)
class PendingRun:
    """A run that is to be answered.

    Attributes:
        run: Folder of the run.
        engine: The answering model.
        dataset: The records; all of their tasks must be known.
        method: Name on the leaderboard.
        label: Tells runs of one method apart.
        seed: Of its training.
        prompt: One of `PROMPTS`.
        facts: More for the manifest, such as the recipe.

    Raises:
        DataError: The dataset has a task that is not known.
        RunError: There is no such prompt.
    """

    run: Path
    engine: ModelAPI
    dataset: Dataset
    method: str
    label: str = ""
    seed: int | None = None
    prompt: str = "plain"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check tasks and prompt."""
        if unknown := [name for name in self.dataset.tasks if name not in self._tasks]:
            raise DataError(
                f"{', '.join(unknown)}: no such task is built in, and no record has a target that "
                "shows what is asked for. Give targets, or leave such records out."
            )
        if self.prompt not in PROMPTS:
            raise RunError(f"prompt is {self.prompt!r}: choose one of {', '.join(PROMPTS)}.")

    @property
    def _tasks(self) -> Mapping[str, Task]:
        return self.dataset.descriptions

    def requests(self) -> list[Request]:
        """The request of each record."""
        return [
            request_of(record, self.prompt, self._tasks[record.task])
            for record in self.dataset.records
        ]

    def identity(self) -> dict[str, Any]:
        """The manifest without the entries that come of answering."""
        requests, known = self.requests(), self.engine.facts(self.dataset.tasks)
        described = {entry["name"]: {"description": dict(entry)} for entry in self.dataset.own}
        return {
            **self.facts,
            "method": self.method,
            "label": self.label,
            "seed": self.seed,
            "split": self.dataset.split,
            "prompt": self.prompt,
            **{name: known[name] for name in ("backbone", "adapters", "decoding") if name in known},
            "data": _data_facts(self.dataset),
            "tasks": {
                name: {
                    "version": self._tasks[name].version,
                    "prompts": _hash([_told(r) for r in requests if r.task == name]),
                    **described.get(name, {}),
                }
                for name in self.dataset.tasks
            },
        }


def predict(
    run: str | Path,
    engine: ModelAPI,
    dataset: Dataset,
    *,
    to_be_scored: bool = False,
    progress: Callable[[Mapping[str, Any]], None] = lambda _: None,
    **identity: Any,
) -> Run:
    """Answer every record of a dataset, or continue an interrupted run.

    Args:
        run: Folder of the run.
        engine: The answering model.
        dataset: The records.
        to_be_scored: Whether a finished run with the same identity and without scores is returned
            instead of refused.
        progress: Called with `done` records, of `total`, and `seconds_left`, see `TimeLeft`.
        identity: `method`, `label`, `seed`, `prompt` and `facts`, as for `PendingRun`.

    Raises:
        DataError, RunError: See `PendingRun` and `Unfinished`.
    """
    pending = PendingRun(Path(run), engine, dataset, **identity)
    if to_be_scored and (answered := _answered(pending)) is not None:
        return answered
    (made,) = predict_together(
        [pending], lambda asked: engine.answers([request for _, request in asked]), progress
    )
    return made


def predict_together(
    runs: Sequence[PendingRun],
    answers: Callable[[Sequence[tuple[ModelAPI, Request]]], Iterator[tuple[int, Answer]]],
    progress: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Iterator[Run]:
    """`predict` for several runs at once; yields each run when its last request is answered.

    Args:
        runs: The runs, each with a model of its own.
        answers: Answers all remaining requests, each with its model; yields index and answer.
        progress: As for `predict`, over all runs.
    """
    with ExitStack() as stack:
        unfinished = [stack.enter_context(Unfinished(one.run, one.identity())) for one in runs]
        asked = [
            (number, record, request)
            for number, one in enumerate(runs)
            for record, request in zip(one.dataset.records, one.requests(), strict=True)
            if (record.task, record.id) not in unfinished[number].done
        ]
        left = Counter(number for number, _, _ in asked)
        requests = [request for _, _, request in asked]
        time_left = TimeLeft(
            [record for _, record, _ in asked],
            [request.max_new_tokens for request in requests],
            longest_first(requests),
            max((one.engine.parallel for one in runs), default=1),
        )
        total = sum(len(one.dataset.records) for one in runs)
        clock = _Clock(unfinished, left, total, time_left, progress)

        def finish(number: int) -> Run:
            one, partial = runs[number], unfinished[number]
            clock.log([number])
            return partial.finish(
                {
                    **one.identity(),
                    **one.engine.facts(one.dataset.tasks),  # time and memory are those of the end
                    "seconds": round(partial.seconds, 2),
                    "tokens": sum(each.tokens for each in partial.done.values()),
                },
                [(record.task, record.id) for record in one.dataset.records],
            )

        for number in range(len(runs)):
            if not left[number]:
                yield finish(number)
        for place, answer in answers([(runs[number].engine, r) for number, _, r in asked]):
            number, record, _ = asked[place]
            facts = (answer.text, answer.finish, answer.tokens)
            unfinished[number].add([Prediction(record.task, record.id, *facts)])
            clock.tick(place, answer)
            left[number] -= 1
            if not left[number]:
                yield finish(number)


def _answered(pending: PendingRun) -> Run | None:
    """The run, if an earlier call has answered everything and it has no scores yet."""
    if not (pending.run / run_dir.MANIFEST_FILE).exists():
        return None
    run = run_dir.read_run(pending.run)
    what = json.loads(json.dumps(pending.identity()))
    same = all(run.manifest.get(name) == value for name, value in what.items())
    if same:
        run_dir.discard_answers(pending.run)
    return run if same and run.metrics is None else None


class _Clock:
    """Logs time and progress every few seconds, so that an interrupted run loses no more of it.

    Runs that are answered together share the time in proportion to their numbers of requests.
    """

    def __init__(
        self,
        runs: Sequence[Unfinished],
        left: Mapping[int, int],
        total: int,
        time_left: TimeLeft,
        progress: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.runs = runs
        self.total = total
        self.time_left = time_left
        self.progress = progress
        self.shares = [left[number] / max(1, sum(left.values())) for number in range(len(runs))]
        self.reported = time.monotonic()
        self.logged = [self.reported] * len(runs)

    def tick(self, place: int, answer: Answer) -> None:
        """Count the answer to a request."""
        now = time.monotonic()
        self.time_left.add(place, answer.tokens, answer.seconds, now)
        if now - self.reported >= FLUSH_SECONDS:
            self.log([number for number, run in enumerate(self.runs) if run.folder.exists()])

    def log(self, runs: Sequence[int]) -> None:
        """Log the progress of some runs, and report that of all."""
        self.reported = now = time.monotonic()
        left = self.time_left.seconds(now)
        for number in runs:
            seconds = (now - self.logged[number]) * self.shares[number]
            self.runs[number].log_progress(len(self.runs[number].done), seconds, left)
            self.logged[number] = now
        done = sum(len(run.done) for run in self.runs)
        self.progress({"done": done, "total": self.total, "seconds_left": left})


def prompted(record: Record, prompt: str, task: Task) -> Record:
    """A record with another prompt, one of `PROMPTS`, to which its first question is changed."""
    text = PROMPTS[prompt]
    messages = list(record.messages)
    first = next((place for place, one in enumerate(messages) if one.role == "user"), None)
    if first is not None:
        content = text(messages[first].content, task)
        messages[first] = dataclasses.replace(messages[first], content=content)
    return dataclasses.replace(record, prompt=text(record.prompt, task), messages=tuple(messages))


def request_of(record: Record, prompt: str = "plain", task: Task | None = None) -> Request:
    """The request of a record, with its task's longest answer and stop texts.

    Args:
        record: With its prompt.
        prompt: One of `PROMPTS`.
        task: The record's; None takes the built-in one.
    """
    task = task or TASKS[record.task]
    return Request.ask(
        record.task,
        prompted(record, prompt, task).question,
        max_new_tokens=task.max_new_tokens,
        stop=("\n",) if task.kind == "classification" else (),
    )


def _data_facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "hash": dataset.hash,
        "tasks": {
            name: {"records": len(records), "hash": data_hash(records)}
            for name in dataset.tasks
            for records in [dataset.of_task(name)]
        },
    }


def _told(request: Request) -> str | list[dict[str, Any]]:
    """A request's prompt, or its messages, as JSON has them."""
    return request.prompt or [one.to_openai() for one in request.messages]


def _hash(texts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
