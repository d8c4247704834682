"""The colour and the marker of each method: the registry's, or chosen by the name's hash.

All colours have a contrast of at least 3:1 on white and on near-black.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from evals.methods import METHODS

_OTHER_COLOURS = ("#b3445a", "#2e93a3", "#8f5fd0", "#7f8a3a")
_OTHER_SYMBOLS = ("star", "hexagon", "pentagon", "bowtie", "hourglass")
_VARIANTS = ("", "-dot", "-open-dot", "-open")


def colour(method: str) -> str:
    """The method's colour as `#rrggbb`."""
    return METHODS[method].colour if method in METHODS else _by_hash(_OTHER_COLOURS, method)


def symbol(method: str, place: int = 0) -> str:
    """The method's marker in plotly.

    Args:
        method: Any name.
        place: The number of earlier entries of this method on the board: they share the colour,
            the marker's filling tells them apart.
    """
    base = METHODS[method].symbol if method in METHODS else _by_hash(_OTHER_SYMBOLS, method)
    return base + _VARIANTS[place % len(_VARIANTS)]


def faded(colour: str, share: float) -> str:
    """A colour `#rrggbb` as CSS's `rgba`, with its opacity in [0, 1]."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


def _by_hash(options: Sequence[str], name: str) -> str:
    """The same option in every process, which Python's `hash` does not guarantee."""
    return options[zlib.crc32(name.encode()) % len(options)]
