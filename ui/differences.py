"""Two answers side by side: what one says and the other does not."""

from difflib import SequenceMatcher
from html import escape

_ALIKE = 0.25
"""Texts that share less are simply two texts: marking all of one says nothing."""


def marked(text: str, other: str) -> str:
    """A text as HTML, with `<mark>` around what does not stand in the other one."""
    matcher = SequenceMatcher(None, other, text, autojunk=False)
    if not other or matcher.ratio() < _ALIKE:
        return escape(text)
    return "".join(
        escape(text[start:end]) if same == "equal" else f"<mark>{escape(text[start:end])}</mark>"
        for same, _, _, start, end in matcher.get_opcodes()
        if end > start
    )
