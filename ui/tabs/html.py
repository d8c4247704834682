"""HTML that several tabs share. Cells and contents are HTML already; captions are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import gradio as gr

from evals.tasks import Language
from ui.components.texts import text


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = ""
) -> str:
    """A table that scrolls sideways where it is too wide.

    Args:
        caption: Read out by screen readers.
        columns: Titles as HTML; empty for a table without a head.
        rows: The first cell of each is the row's title.
        kind: CSS class.
    """
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    head = f"<thead><tr>{head}</tr></thead>" if columns else ""
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="{kind}"><caption class="unseen">{escape(caption)}</caption>'
        f"{head}<tbody>{body}</tbody></table></div>"
    )


def block(content: str) -> Any:
    """An update of a `gr.HTML`, which takes no room while it is empty."""
    return gr.update(value=content, visible=bool(content))


def quiet(key: str, language: Language) -> str:
    """A line of explanation."""
    return f'<p class="quiet">{text(key, language)}</p>'
