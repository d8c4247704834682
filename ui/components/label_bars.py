"""Label probabilities of several models as a table with bars."""

from collections.abc import Mapping, Sequence
from html import escape

from evals.tasks import Language
from ui.components.answering_models import AnsweringModel
from ui.components.html import quiet, row, table
from ui.components.texts import text

_TOP = 6
"""How many labels are shown: those with the highest probability of any model."""


def label_bars(
    labels: Sequence[str],
    shares: Mapping[AnsweringModel, Sequence[float]],
    right: str,
    language: Language,
) -> str:
    """A row for each of the most probable labels, a bar for each model.

    Args:
        labels: All L labels of the task.
        shares: The L probabilities of each model.
        right: The reference label, which is marked; empty if there is none.
        language: Of the words around it.
    """
    if not shares:
        return ""
    peak = [max(values) for values in zip(*shares.values(), strict=True)]
    top = sorted(range(len(labels)), key=lambda place: -peak[place])[:_TOP]
    rows = (
        row(
            labels[place],
            (bar_cell(values[place], model.colour) for model, values in shares.items()),
            "right" if labels[place] == right else "",
        )
        for place in top
    )
    rest = len(labels) - len(top)
    columns = ["", *(escape(model.title) for model in shares)]
    caption = f"<caption>{text('label_shares', language)}</caption>"
    return (
        f'<div class="label-bars table">{table(columns, rows, caption=caption)}'
        f"{quiet(text('more_labels', language, count=rest)) if rest else ''}</div>"
    )


def bar_cell(share: float, colour: str) -> str:
    """A table cell with a share in [0, 1] as a bar and as a percentage."""
    width = f"width:{share:.1%};background:{colour}"
    return f'<td><span class="bar"><i style="{width}"></i></span><b>{share:.0%}</b></td>'
