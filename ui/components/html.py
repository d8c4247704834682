"""Tables and quiet lines as HTML."""

from collections.abc import Iterable
from html import escape


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
