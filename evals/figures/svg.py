"""SVG as text: figures that need no script and come out the same for the same data."""

from __future__ import annotations

from html import escape


def tag(name: str, *content: str, **attributes: str | float) -> str:
    """An element with escaped text or elements in it.

    A keyword `class_` gives the attribute `class`, and `text_anchor` gives `text-anchor`.
    """
    written = ""
    for key, value in attributes.items():
        words = value if isinstance(value, str) else f"{value:g}"
        written += f' {key.rstrip("_").replace("_", "-")}="{words}"'
    return f"<{name}{written}>{''.join(content)}</{name}>" if content else f"<{name}{written}/>"


def text(words: str, **attributes: str | float) -> str:
    """A `text` element; the words are escaped here."""
    return tag("text", escape(words, quote=False), **attributes)


def tooltip(words: str) -> str:
    """A `title` element, which browsers show under the pointer; the words are escaped here."""
    return tag("title", escape(words, quote=False))


def drawing(width: float, height: float, /, *lines: str, **attributes: str | float) -> str:
    """A whole file, an element a line, drawn in units of a pixel."""
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width:g} {height:g}"}
    return tag("svg", "\n".join(["", *lines, ""]), **box, **attributes) + "\n"
