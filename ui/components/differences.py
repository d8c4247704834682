"""Two answers side by side: what one says and the other does not."""

from difflib import SequenceMatcher
from functools import lru_cache
from html import escape

_ALIKE = 0.25
"""Texts that share less are simply two texts: marking all of one says nothing."""


_LONG = 40_000
"""From this product of lengths on, what recurs everywhere is passed over: a model that repeats
itself would take seconds."""


@lru_cache(maxsize=256)
def marked(text: str, other: str) -> str:
    """A text as HTML, with `<mark>` around what does not stand in the other one."""
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
