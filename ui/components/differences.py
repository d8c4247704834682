"""Marks the differences between two answers."""

from difflib import SequenceMatcher
from functools import lru_cache
from html import escape

_ALIKE = 0.25
"""Texts with a lower similarity are not marked: all of one would be."""


_LONG = 40_000
"""Above this product of lengths, frequent characters are skipped: a repetitive answer would take
seconds to compare."""


@lru_cache(maxsize=256)
def marked(text: str, other: str) -> str:
    """A text as HTML, with `<mark>` around what the other one lacks."""
    if not other:
        return escape(text)
    matcher = SequenceMatcher(None, other, text, autojunk=len(text) * len(other) > _LONG)
    if text != other and matcher.ratio() < _ALIKE:
        return escape(text)
    return "".join(
        escape(text[start:end]) if same == "equal" else f"<mark>{escape(text[start:end])}</mark>"
        for same, _, _, start, end in matcher.get_opcodes()
        if end > start
    )
