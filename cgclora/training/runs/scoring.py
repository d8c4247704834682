"""Scores of dev answers while training, by which the weights to save can be chosen.

The loss is not what is reported. So at each evaluation some dev records of every task are answered,
greedily, as the saved adapter would answer them, and a judge scores the answers. Nothing is kept
from one evaluation to the next, so that a resumed run gets the same scores.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from cgclora.adapter import Adapter
from cgclora.data.records import DataError, Record, sample_per_task
from cgclora.inference.engine import answers_of
from cgclora.inference.request import DecodingError, encode_requests
from cgclora.models.backbone import Backbone
from cgclora.storage.run_dir import TrainingError
from cgclora.training.distributed import Processes, wants_fsdp
from cgclora.training.settings import Judge, TrainingRun

_NAME = "scored"
"""Of the adapter that answers, beside the one that is trained."""


class DevScores:
    """Scores the dev answers of a run.

    Attributes:
        metrics: Name and version of each task's metric.
        records: Number of records that are answered, by task.
        seconds: Time spent on answering and scoring so far.

    Args:
        run: With `judge`.
        backbone: That of the run's adapter. What it keeps for decoding is left alone.
        processes: They share the records.

    Raises:
        TrainingError: The backbone is sharded, and cannot answer.
        DataError: A task has no dev record that the backbone has room to answer.
        ConfigError: As `Judge.metrics`.
    """

    def __init__(
        self, run: TrainingRun, judge: Judge, backbone: Backbone, processes: Processes
    ) -> None:
        if wants_fsdp():
            raise TrainingError(
                "a sharded backbone cannot answer while it is trained: leave best_by at 'loss', or "
                "train with a DDP config."
            )
        self.adapter, self.judge, self.processes = run.adapter, judge, processes
        self.backbone = backbone
        self.seconds = 0.0
        tasks = run.adapter.config.tasks if run.only is None else tuple(run.only)
        self.metrics = dict(judge.metrics(tasks))
        fitting = [record for record in run.dev_records if self._fits(record)]
        most = dict.fromkeys(tasks, run.settings.score_records)
        self.chosen = sample_per_task(fitting, most, run.settings.seed)
        self.records = dict(Counter(record.task for record in self.chosen))
        if lacking := [task for task in tasks if task not in self.records]:
            raise DataError(
                f"{lacking} have no dev record that leaves room for an answer: give shorter ones, "
                "or leave best_by at 'loss'."
            )
        if left_out := len(run.dev_records) - len(fitting):
            print(f"not scored, no room for an answer: {left_out} dev records", file=sys.stderr)

    def facts(self) -> dict[str, Any]:
        """For the manifest: metrics and numbers of records by task, and seconds."""
        seconds = round(self.seconds, 3)
        return {"metrics": self.metrics, "records": self.records, "seconds": seconds}

    def __call__(self) -> dict[str, float]:
        """The score of each task with the adapter's present weights."""
        started = time.monotonic()
        places = range(self.processes.index, len(self.chosen), self.processes.count)
        texts = self.processes.gather(self._answers([*places]))
        answers: dict[str, list[tuple[Record, str]]] = {task: [] for task in self.records}
        for place, record in enumerate(self.chosen):
            answers[record.task].append((record, texts[place]))
        scores = {task: float(self.judge.score(task, own)) for task, own in answers.items()}
        self.seconds += time.monotonic() - started
        return scores

    def _answers(self, places: Sequence[int]) -> dict[int, str]:
        """The answers to some of the records, by a copy that is laid out for inference."""
        model, trained = self.backbone.model, self.adapter
        copy = Adapter.attach(model, trained.config, name=f"{trained.name}-{_NAME}")
        try:
            with torch.no_grad():
                for (_, ours), (_, theirs) in zip(
                    copy.named_parameters(), trained.named_parameters(), strict=True
                ):
                    ours.copy_(theirs)
            fresh = Backbone(model, self.backbone.tokenizer, self.backbone.name, "")
            requests = [self.judge.request(self.chosen[place]) for place in places]
            answers = answers_of(fresh, requests, [copy] * len(requests))
            return {places[i]: answer.text for i, answer in answers}
        finally:
            copy.detach()

    def _fits(self, record: Record) -> bool:
        try:
            encode_requests(self.backbone, [self.judge.request(record)], self.adapter)
        except DecodingError:
            return False
        return True
