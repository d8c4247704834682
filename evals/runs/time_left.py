"""Remaining time of an evaluation, estimated from its answers so far.

Records differ as much as a label and a report, and those with the longest answers come first: so
prompts and answers are counted, not records. A row of the batch, or a request to a server, takes

    seconds = a * characters of the prompt + b * tokens of the answer

with a and b fitted to the answers so far. The tokens of a future answer are estimated from its
reference and from the ratio of answers to references so far, mainly in its task.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from heapq import heapify, heapreplace

import numpy as np
import numpy.typing as npt

from cgclora.data.records import Record

ANSWER_WEIGHT = 8
"""Cost of a generated token or character relative to one of the prompt."""


class TimeLeft:
    """Estimates the seconds until some records are answered.

    Args:
        records: The records to answer.
        max_tokens: Of each answer.
        order: Places of the records in the order in which they are started.
        parallel: Maximum records that are answered at once; lowered if the answers show fewer.
    """

    def __init__(
        self,
        records: Sequence[Record],
        max_tokens: Sequence[int],
        order: Sequence[int],
        parallel: int,
    ) -> None:
        names = {task: place for place, task in enumerate({one.task for one in records})}
        self._tasks = np.array([names[one.task] for one in records], dtype=int)
        self._prompts = np.array([len(one.prompt) for one in records], dtype=float)
        self._references = np.array([len(one.target) + 1 for one in records], dtype=float)
        self._max_tokens = np.array(max_tokens, dtype=float)
        self._order = np.array(order, dtype=int)
        self._turns = np.argsort(self._order)  # of each place, when it is started
        self._rows = parallel
        self._ended = np.zeros(len(records), dtype=bool)
        self._tokens = np.zeros(len(records))
        self._seconds = np.zeros(len(records))
        self._ends: list[float] = []
        self._started: float | None = None

    def add(self, place: int, tokens: int, seconds: float, now: float) -> None:
        """Add an answer.

        Args:
            place: Of its record.
            tokens: Of the answer.
            seconds: Duration of the answer.
            now: Its end, by a clock of seconds.
        """
        began = now - seconds
        if self._started is None:
            self._started = began  # excludes the compilation of the model
        if earlier := bisect(self._ends, began):  # it took the row of an answer that had ended
            self._rows = max(1, min(self._rows, int(self._turns[place]) + 1 - earlier))
        self._ends.append(now)
        self._ended[place] = True
        self._tokens[place] = tokens
        self._seconds[place] = seconds

    def seconds(self, now: float) -> float | None:
        """The time left at `now`, by the clock of `add`; None before the first answer."""
        if self._ended.all():
            return 0.0
        if self._started is None:
            return None
        costs = self._costs()
        if not costs.any():
            return None
        waiting = self._order[~self._ended[self._order]]
        # The row of the answer that has just ended is free; the others were started first, or when
        # an earlier answer ended.
        rows = waiting[: self._rows - 1]
        freed = np.clip(self._turns[rows] - self._rows + 1, 0, len(self._ends))
        began = np.array([self._started, *self._ends])[freed]
        free: list[float] = [0.0, *np.maximum(costs[rows] - (now - began), 0.0).tolist()]
        heapify(free)
        for seconds in costs[waiting[self._rows - 1 :]].tolist():
            heapreplace(free, free[0] + seconds)
        return max(free)

    def _costs(self) -> npt.NDArray[np.float64]:
        """Seconds of each record's row by the fitted model."""
        sizes = np.stack([self._prompts, self._expected_tokens()], axis=1)
        ended, seconds = sizes[self._ended], self._seconds[self._ended]
        prior = np.array([1.0, ANSWER_WEIGHT])
        prior *= seconds.sum() / (ended @ prior).sum()
        # A tenth of an answer at the prior speeds regularises the fit to few or similar answers.
        weights = 0.3 * ended.mean(axis=0)
        speeds = np.linalg.lstsq(
            np.vstack([ended, np.diag(weights)]), np.append(seconds, weights * prior), rcond=None
        )[0]
        if (speeds < 0).any():  # the other term explains the times alone
            speeds = np.where(speeds < 0, 0.0, seconds.sum() / np.maximum(ended.sum(axis=0), 1.0))
        costs: npt.NDArray[np.float64] = sizes @ speeds
        return costs

    def _expected_tokens(self) -> npt.NDArray[np.float64]:
        """Tokens of each answer; future ones in proportion to their references."""
        ended, tasks = self._ended, self._tasks
        tokens, references = (
            np.bincount(tasks[ended], values[ended], minlength=tasks.max() + 1)
            for values in (self._tokens, self._references)
        )
        # A task's answers so far, and one more like those of all tasks.
        prior = np.bincount(tasks, self._references) / np.bincount(tasks)
        rates = (tokens + prior * tokens.sum() / references.sum()) / (references + prior)
        expected = np.minimum(rates[tasks] * self._references, self._max_tokens)
        return np.where(ended, self._tokens, expected)
