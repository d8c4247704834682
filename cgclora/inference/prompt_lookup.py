"""Speculative decoding with draft tokens copied from the prompt and earlier answers.

Extraction tasks quote their prompt, and the answers of a task share phrases. So the tokens that
followed the latest n-gram when it last occurred, in this prompt and answer or in the task's earlier
answers, are a good draft (prompt lookup decoding). Drafts cost next to nothing, and the backbone
verifies several tokens in about the time of one. They are used only where a pass of several tokens
rounds each as a pass of its own (`FastDecoder.is_batch_invariant`), so the answer is bit for bit
the same with drafts as without.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from threading import Lock

_MAX_NGRAM = 4
_MIN_NGRAM = 2  # of earlier answers; in the prompt and its answer 1 is enough
_MAX_CONTINUATION = 8
_START = -1  # placeholder before the first token of an answer


class NgramCache:
    """Continuations of the n-grams of earlier answers, in memory only; safe to use from threads.

    Args:
        max_ngrams: Number of n-grams kept, the latest ones.
    """

    def __init__(self, max_ngrams: int = 1 << 16) -> None:
        self._max_ngrams = max_ngrams
        self._continuations: dict[tuple[Hashable, ...], Sequence[int]] = {}
        self._lock = Lock()

    def add(self, group: Hashable, ids: Sequence[int]) -> None:
        """Add the n-grams of an answer's token ids; answers of one group share them."""
        tokens = [*[_START] * _MAX_NGRAM, *ids]
        with self._lock:
            for position in range(_MAX_NGRAM, len(tokens)):
                continuation = tokens[position : position + _MAX_CONTINUATION]
                for length in range(_MIN_NGRAM, _MAX_NGRAM + 1):
                    key = (group, *tokens[position - length : position])
                    self._continuations.pop(key, None)  # moves the key to the end
                    self._continuations[key] = continuation
            while len(self._continuations) > self._max_ngrams:
                del self._continuations[next(iter(self._continuations))]

    def clear(self) -> None:
        """Remove all n-grams."""
        with self._lock:
            self._continuations.clear()

    def continuation(self, group: Hashable, ngram: Sequence[int]) -> Sequence[int]:
        """The tokens after the n-gram's last occurrence in a group; empty if there is none."""
        return self._continuations.get((group, *ngram), ())


class PromptLookup:
    """Draft tokens for one answer.

    Args:
        prompt: Its token ids.
        cache: N-grams of earlier answers.
        group: The answer's group in the cache.
    """

    def __init__(
        self, prompt: Sequence[int], cache: NgramCache | None = None, group: Hashable = None
    ) -> None:
        self._cache = cache or NgramCache()
        self._group = group
        self._ids: list[int] = []
        self._positions: dict[tuple[int, ...], int] = {}  # after an n-gram's last occurrence
        for token in prompt:
            self._index(token)
        self._answer = [_START] * _MAX_NGRAM

    def add(self, token: int) -> None:
        """Add the answer's next token."""
        self._index(token)
        self._answer.append(token)

    def draft(self, max_tokens: int) -> list[int]:
        """Up to `max_tokens` draft tokens; empty where no n-gram has occurred before."""
        for length in range(_MAX_NGRAM, 0, -1):
            position = self._positions.get(tuple(self._ids[-length:]))
            if position is not None:
                return self._ids[position : position + max_tokens]
            if length >= _MIN_NGRAM:
                continuation = self._cache.continuation(self._group, self._answer[-length:])
                if continuation:
                    return list(continuation[:max_tokens])
        return []

    def _index(self, token: int) -> None:
        for length in range(1, min(_MAX_NGRAM, len(self._ids)) + 1):
            self._positions[tuple(self._ids[-length:])] = len(self._ids)
        self._ids.append(token)
