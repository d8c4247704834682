"""Drafts of what an answer may say next, copied from what was read and said before.

Extraction tasks quote their prompt, and answers of one format repeat its phrases. So where the last
words stood before, what followed them there is a good guess (prompt lookup decoding). A draft costs
next to nothing, and the backbone reads several tokens in about the time of one: it says which of
them it would have said itself, so that an answer is the same with drafts as without.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST, _SHORTEST = 4, 2


class Drafts:
    """Guesses for one answer.

    Args:
        known: Token ids of the prompt.
    """

    def __init__(self, known: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        for token in known:
            self.add(token)

    def add(self, token: int) -> None:
        """Take the next token."""
        ids = self._ids
        # What ends just before this token is followed by it; the last place counts.
        for length in range(_SHORTEST, _LONGEST + 1):
            if len(ids) >= length:
                self._after[tuple(ids[-length:])] = len(ids)
        ids.append(token)

    def next(self, most: int) -> list[int]:
        """Up to so many tokens that may come next; none without a trace."""
        for length in range(_LONGEST, _SHORTEST - 1, -1):
            place = self._after.get(tuple(self._ids[-length:]))
            if place is not None:
                return self._ids[place : place + most]
        return []
