"""Tables and lines of explanation as HTML, and the scripts that the browser runs."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

_SCRIPTS = Path(__file__).resolve().parents[2] / "assets" / "scripts"


def script(name: str) -> str:
    """A script of `assets/scripts`."""
    return (_SCRIPTS / f"{name}.js").read_text(encoding="utf-8")


def quiet(*lines: str) -> str:
    """Lines of explanation, each HTML; empty ones are left out."""
    return "".join(f'<p class="quiet">{line}</p>' for line in lines if line)


def row(header: str, cells: Iterable[str], kind: str = "") -> str:
    """A table row: the text of its header, then `<td>` elements."""
    start = f'<tr class="{kind}">' if kind else "<tr>"
    return f'{start}<th scope="row">{escape(header)}</th>{"".join(cells)}</tr>'


def table(columns: Iterable[str], rows: Iterable[str], *, caption: str = "", kind: str = "") -> str:
    """A table.

    Args:
        columns: Column headers as HTML; an empty one is a corner. Without columns there is no head.
        rows: Each a `<tr>` element.
        caption: An element such as `hidden_caption` makes.
        kind: Class of the table.
    """
    head = "".join(f'<th scope="col">{one}</th>' if one else "<td></td>" for one in columns)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    start = f'<table class="{kind}">' if kind else "<table>"
    return f"{start}{caption}{head}<tbody>{''.join(rows)}</tbody></table>"


def hidden_caption(title: str) -> str:
    """A caption for screen readers."""
    return f'<caption class="unseen">{escape(title)}</caption>'


def hidden_table(
    title: str, columns: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]]
) -> str:
    """A figure's numbers for screen readers: a header and the values of each row."""
    lines = (row(header, (f"<td>{value}</td>" for value in values)) for header, values in rows)
    caption = f"<caption>{escape(title)}</caption>"
    return table(["", *map(escape, columns)], lines, caption=caption, kind="unseen")


def wide_table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = ""
) -> str:
    """A table that scrolls sideways where it is too wide.

    Args:
        caption: Text for screen readers.
        columns: Titles as HTML; empty for a table without a head.
        rows: Cells as HTML; the first of each is the row's title.
        kind: Class of the table.
    """
    body = (
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"{table(columns, body, caption=hidden_caption(caption), kind=kind)}</div>"
    )


def block(content: str) -> Any:
    """An update of a `gr.HTML`, which takes no room while it is empty."""
    return gr.update(value=content, visible=bool(content))
