"""Drafts of what an answer may say next, copied from what was read and said before.

Extraction tasks quote their prompt, and a task's answers have a form whose phrases they share. So
where the last words stood before, in this prompt and answer or in the task's earlier answers, what
followed them there is a good guess (prompt lookup decoding). A draft costs next to nothing, and the
backbone reads several tokens in about the time of one: it says which of them it would have said
itself. Drafts are tried only where such a pass rounds each token as a pass of that token alone
(`FastDecoder.keeps_apart`), so that an answer is the same with drafts as without, bit for bit.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from threading import Lock

_LONGEST, _SHORTEST = 4, 2
"""Words by which a place is found again; in the own text one word is enough."""

_KEPT = 8
"""Words that are kept of what followed."""

_START = -1
"""Stands before an answer's first word."""


class Phrases:
    """What earlier answers said, by whose they were; in memory only, and not much of it.

    Args:
        most: Places that are kept, the latest ones.
    """

    def __init__(self, most: int = 1 << 16) -> None:
        self._most = most
        self._after: dict[tuple[Hashable, ...], Sequence[int]] = {}
        self._lock = Lock()  # answers may end in several threads

    def remember(self, whose: Hashable, ids: Sequence[int]) -> None:
        """Keep an answer's phrases.

        Args:
            whose: Answers of one form have the same.
            ids: Its tokens.
        """
        said = [*[_START] * _LONGEST, *ids]
        with self._lock:
            for place in range(_LONGEST, len(said)):
                follows = said[place : place + _KEPT]
                for length in range(_SHORTEST, _LONGEST + 1):
                    key = (whose, *said[place - length : place])
                    self._after.pop(key, None)  # so that it counts as late
                    self._after[key] = follows
            while len(self._after) > self._most:
                del self._after[next(iter(self._after))]

    def forget(self) -> None:
        """Keep nothing of what was said so far."""
        with self._lock:
            self._after.clear()

    def after(self, whose: Hashable, words: Sequence[int]) -> Sequence[int]:
        """What followed these words the last time; nothing if they are unknown."""
        return self._after.get((whose, *words), ())


class Drafts:
    """Guesses for one answer.

    Args:
        prompt: Its token ids.
        phrases: Of earlier answers.
        whose: Which of them are like this one.
    """

    def __init__(
        self, prompt: Sequence[int], phrases: Phrases | None = None, whose: Hashable = None
    ) -> None:
        self._phrases = phrases or Phrases()
        self._whose = whose
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        for token in prompt:
            self._read(token)
        self._said = [_START] * _LONGEST

    def add(self, token: int) -> None:
        """Take the answer's next token."""
        self._read(token)
        self._said.append(token)

    def next(self, most: int) -> list[int]:
        """Up to so many tokens that may come next; none without a trace."""
        for length in range(_LONGEST, 0, -1):
            place = self._after.get(tuple(self._ids[-length:]))
            if place is not None:
                return self._ids[place : place + most]
            if length >= _SHORTEST:
                follows = self._phrases.after(self._whose, self._said[-length:])
                if follows:
                    return list(follows[:most])
        return []

    def _read(self, token: int) -> None:
        ids = self._ids
        # What ends just before this token is followed by it; the last place counts.
        for length in range(1, _LONGEST + 1):
            if len(ids) >= length:
                self._after[tuple(ids[-length:])] = len(ids)
        ids.append(token)
