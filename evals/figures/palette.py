"""One colour and one marker for each method, in every picture.

A hue stands for a family: grey nothing trained, blue LoRA, green LoRAHub, pink MOE-LoRA, orange
CGC-LoRA, brown its ablations. Members of a family differ in lightness and in the marker's shape.
Families stay apart for every kind of colour vision, and each colour has a contrast of at least 3:1
against white and against the dark theme's near-black; a test computes both.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

METHOD_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "Backbone": "#646e76",
        "LoRA (Single)": "#4060d0",
        "LoRA (Full)": "#1c80ff",
        "LoRA (Full+TP)": "#778edc",
        "LoRA (total rank)": "#2c5cff",
        "LoRA (active rank)": "#4874cb",
        "LoRAHub": "#17a77a",
        "MOE-LoRA": "#ca71a9",
        "CGC-LoRA": "#e57505",
        "CGC-LoRA w/o gate": "#a38545",
        "CGC-LoRA w/o common": "#886c3a",
        "CGC-LoRA w/o specific": "#77681a",
    }
)
"""`#rrggbb` by method."""

METHOD_SYMBOLS: Mapping[str, str] = MappingProxyType(
    {
        "Backbone": "x",
        "LoRA (Single)": "circle",
        "LoRA (Full)": "square",
        "LoRA (Full+TP)": "diamond",
        "LoRA (total rank)": "triangle-up",
        "LoRA (active rank)": "triangle-down",
        "LoRAHub": "cross",
        "MOE-LoRA": "square",
        "CGC-LoRA": "circle",
        "CGC-LoRA w/o gate": "diamond",
        "CGC-LoRA w/o common": "triangle-up",
        "CGC-LoRA w/o specific": "triangle-down",
    }
)
"""Plotly's marker by method; unique within a hue."""

_OTHER_COLOURS = ("#b3445a", "#2e93a3", "#8f5fd0", "#7f8a3a")
_OTHER_SYMBOLS = ("star", "hexagon", "pentagon", "bowtie", "hourglass")
_VARIANTS = ("", "-dot", "-open-dot", "-open")


def colour(method: str) -> str:
    """The method's colour as `#rrggbb`; an unknown name always gets the same one."""
    return METHOD_COLOURS.get(method) or _chosen(_OTHER_COLOURS, method)


def symbol(method: str, place: int = 0) -> str:
    """The method's marker, by its name in plotly.

    Args:
        method: Any name; an unknown one always gets the same marker.
        place: How many entries of the same method come before this one on the board: they share
            the colour, so the marker's filling tells them apart.
    """
    own = METHOD_SYMBOLS.get(method) or _chosen(_OTHER_SYMBOLS, method)
    return own + _VARIANTS[place % len(_VARIANTS)]


def faded(colour: str, share: float) -> str:
    """A colour `#rrggbb` as CSS's `rgba`, with this share of its strength in [0, 1]."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


def _chosen(options: Sequence[str], name: str) -> str:
    """The same option in every process, which Python's own hash does not promise."""
    return options[zlib.crc32(name.encode()) % len(options)]
