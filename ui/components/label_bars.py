"""How likely each side finds each label, as a table with bars."""

from collections.abc import Mapping, Sequence
from html import escape

from evals.tasks import Language
from ui.components.answering_models import Speaker
from ui.components.texts import text

_MOST = 6
"""How many labels are shown: the likeliest, by whichever side."""


def label_bars(
    labels: Sequence[str], sides: Mapping[Speaker, Sequence[float]], right: str, language: Language
) -> str:
    """A row for each of the likeliest labels, a bar for each side.

    Args:
        labels: All L labels of the task.
        sides: Who answers, each with L probabilities.
        right: The reference label, which is marked; empty if there is none.
        language: Of the words around it.
    """
    if not sides:
        return ""
    peak = [max(shares) for shares in zip(*sides.values(), strict=True)]
    shown = sorted(range(len(labels)), key=lambda place: -peak[place])[:_MOST]
    head = "".join(f'<th scope="col">{escape(speaker.title)}</th>' for speaker in sides)
    rows = "".join(
        f'<tr class="{"right" if labels[place] == right else ""}">'
        f'<th scope="row">{escape(labels[place])}</th>'
        + "".join(bar_cell(shares[place], speaker.colour) for speaker, shares in sides.items())
        + "</tr>"
        for place in shown
    )
    rest = len(labels) - len(shown)
    more = f'<p class="quiet">{text("more_labels", language, count=rest)}</p>' if rest else ""
    return (
        f'<div class="label-bars table"><table><caption>{text("label_shares", language)}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>{more}</div>"
    )


def bar_cell(share: float, colour: str) -> str:
    """A table's cell that shows a share in [0, 1] as a bar and in figures."""
    width = f"width:{share:.1%};background:{colour}"
    return f'<td><span class="bar"><i style="{width}"></i></span><b>{share:.0%}</b></td>'
