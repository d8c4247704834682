"""Tables and lines of explanation as HTML."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import gradio as gr


def quiet(*lines: str) -> str:
    """Lines of explanation, each HTML; empty ones are left out."""
    return "".join(f'<p class="quiet">{line}</p>' for line in lines if line)


def row(header: str, cells: Iterable[str], kind: str = "") -> str:
    """A table row.

    Args:
        header: Text of the row's header.
        cells: Each a `<td>` element.
        kind: Class of the row.
    """
    start = f'<tr class="{kind}">' if kind else "<tr>"
    return f'{start}<th scope="row">{escape(header)}</th>{"".join(cells)}</tr>'


def table(columns: Iterable[str], rows: Iterable[str], *, caption: str = "", kind: str = "") -> str:
    """A table.

    Args:
        columns: Column headers as HTML; an empty one is a corner without a header.
        rows: Each a `<tr>` element.
        caption: An element such as `hidden_caption` makes; empty for none.
        kind: Class of the table.
    """
    head = "".join(f'<th scope="col">{one}</th>' if one else "<td></td>" for one in columns)
    start = f'<table class="{kind}">' if kind else "<table>"
    return f"{start}{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def hidden_caption(title: str) -> str:
    """A caption for screen readers."""
    return f'<caption class="unseen">{escape(title)}</caption>'


def hidden_table(
    title: str, columns: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]]
) -> str:
    """A figure's numbers for screen readers.

    Args:
        title: What the numbers are.
        columns: Names of the columns after the row headers.
        rows: A header and the values of each row.
    """
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
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    head = f"<thead><tr>{head}</tr></thead>" if columns else ""
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="{kind}">{hidden_caption(caption)}{head}<tbody>{body}</tbody></table></div>'
    )


def block(content: str) -> Any:
    """An update of a `gr.HTML`, which takes no room while it is empty."""
    return gr.update(value=content, visible=bool(content))
