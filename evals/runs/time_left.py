"""How long the rest of an evaluation takes, judged by its answers so far.

Records are as unlike as a label and a report, and those that may say most come first: so prompts
and answers are counted, not records. A row of the batch, or a request to a server, is held for

    seconds = a * characters of the prompt + b * tokens of the answer

with a and b fitted to the answers so far. How many tokens an answer will have is judged by its
reference, and by how answers and references compare so far, in its task above all.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from heapq import heapify, heapreplace

import numpy as np
import numpy.typing as npt

from cgclora.data.records import Record

ANSWER_WEIGHT = 8
"""A character or token that is written costs about as much time as so many that are read."""


class TimeLeft:
    """The seconds until all of some records are answered.

    Args:
        records: What is to be answered.
        most: Most tokens of each answer.
        order: Their places in the order in which they are begun.
        parallel: Most records that are under way at once; where there is no room for as many, the
            answers show it.
    """

    def __init__(
        self, records: Sequence[Record], most: Sequence[int], order: Sequence[int], parallel: int
    ) -> None:
        names = {task: place for place, task in enumerate({one.task for one in records})}
        self._tasks = np.array([names[one.task] for one in records], dtype=int)
        self._prompts = np.array([len(one.prompt) for one in records], dtype=float)
        self._references = np.array([len(one.target) + 1 for one in records], dtype=float)
        self._most = np.array(most, dtype=float)
        self._order = np.array(order, dtype=int)
        self._turns = np.argsort(self._order)  # of each place, when it is begun
        self._rows = parallel
        self._ended = np.zeros(len(records), dtype=bool)
        self._tokens = np.zeros(len(records))
        self._seconds = np.zeros(len(records))
        self._ends: list[float] = []
        self._started: float | None = None

    def add(self, place: int, tokens: int, seconds: float, now: float) -> None:
        """Take an answer.

        Args:
            place: Of its record.
            tokens: Of the answer.
            seconds: From when it was begun to its end.
            now: Its end, by a clock of seconds.
        """
        began = now - seconds
        if self._started is None:
            self._started = began  # a model that is compiled first does not count
        if earlier := bisect(self._ends, began):  # it took a row that was given up
            self._rows = max(1, min(self._rows, int(self._turns[place]) + 1 - earlier))
        self._ends.append(now)
        self._ended[place] = True
        self._tokens[place] = tokens
        self._seconds[place] = seconds

    def seconds(self, now: float) -> float | None:
        """The time left; None before an answer has ended.

        Args:
            now: By the clock of `add`.
        """
        if self._ended.all():
            return 0.0
        if self._started is None:
            return None
        costs = self._costs()
        if not costs.any():
            return None
        waiting = self._order[~self._ended[self._order]]
        # The row of the answer that has just ended is free; the others were begun at the start, or
        # when an answer ended before.
        rows = waiting[: self._rows - 1]
        given_up = np.clip(self._turns[rows] - self._rows + 1, 0, len(self._ends))
        began = np.array([self._started, *self._ends])[given_up]
        free: list[float] = [0.0, *np.maximum(costs[rows] - (now - began), 0.0).tolist()]
        heapify(free)
        for seconds in costs[waiting[self._rows - 1 :]].tolist():
            heapreplace(free, free[0] + seconds)
        return max(free)

    def _costs(self) -> npt.NDArray[np.float64]:
        """Seconds that each record's row was held, or will be, as far as they can be explained."""
        sizes = np.stack([self._prompts, self._expected_tokens()], axis=1)
        known, seconds = sizes[self._ended], self._seconds[self._ended]
        usual = np.array([1.0, ANSWER_WEIGHT])
        usual *= seconds.sum() / (known @ usual).sum()
        # A tenth of an answer of usual speeds decides where those so far are few or all alike.
        usually = 0.3 * known.mean(axis=0)
        speeds = np.linalg.lstsq(
            np.vstack([known, np.diag(usually)]), np.append(seconds, usually * usual), rcond=None
        )[0]
        if (speeds < 0).any():  # the other one explains it all
            speeds = np.where(speeds < 0, 0.0, seconds.sum() / np.maximum(known.sum(axis=0), 1.0))
        costs: npt.NDArray[np.float64] = sizes @ speeds
        return costs

    def _expected_tokens(self) -> npt.NDArray[np.float64]:
        """Tokens of each answer, those to come in proportion to their references."""
        ended, tasks = self._ended, self._tasks
        tokens, references = (
            np.bincount(tasks[ended], values[ended], minlength=tasks.max() + 1)
            for values in (self._tokens, self._references)
        )
        # A task's answers so far, and one more that is like those of all tasks.
        usual = np.bincount(tasks, self._references) / np.bincount(tasks)
        rates = (tokens + usual * tokens.sum() / references.sum()) / (references + usual)
        expected = np.minimum(rates[tasks] * self._references, self._most)
        return np.where(ended, self._tokens, expected)
