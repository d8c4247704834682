"""The expert layer as a drawing: every part of it can be chosen, by mouse and by keyboard.

The signal runs from left to right: x goes into the frozen weight, above, and into the experts, one
a row; each is weighed, and all of them are added up on the right.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from cgclora.config import AdapterConfig
from cgclora.storage.layer_shapes import LayerKind
from evals.tasks import Language
from ui.components.texts import text

_WIDTH = 392
_ROW = 27  # height of an expert's row
_IN, _A, _B, _GATE, _SUM = 16, 44, 98, 172, 352  # where things stand, from the left
_LENGTH = 44  # of A and of B
_WIDE, _NARROW = 10, 4  # half the height of A at its input, and at its rank
_TOP = 36  # the frozen weight's middle


@dataclass(frozen=True)
class Drawn:
    """An adapter that is drawn.

    Attributes:
        name: Its name.
        title: What it is called on the page.
        config: What it is.
        kinds: The kinds of layers that it adapts.
        titles: Its tasks' titles by name, in the order in which they are listed.
    """

    name: str
    title: str
    config: AdapterConfig
    kinds: tuple[LayerKind, ...]
    titles: dict[str, str]

    @property
    def has_gate(self) -> bool:
        """Whether tasks or experts differ in weight at all."""
        return self.config.gate != "none" or self.config.specific > 0


@dataclass(frozen=True)
class Expert:
    """One expert as it is drawn.

    Attributes:
        key: Unlike that of any other of the adapter.
        name: What it is called.
        task: Whose it is; empty for a common one.
        label: As much of its name as there is room for.
    """

    key: str
    name: str
    task: str
    label: str

    @property
    def kind(self) -> str:
        """`common` or `specific`."""
        return "specific" if self.task else "common"


def experts(drawn: Drawn, language: Language) -> list[Expert]:
    """The adapter's experts: the common ones, then those of each task as it is listed."""
    config = drawn.config
    found = []
    for n in range(1, config.common + 1):
        alone = config.num_experts == 1
        name = text("about_one", language) if alone else text("common_n", language, n=n)
        found.append(Expert(f"common-{n}", name, "", name))
    for place, (task, title) in enumerate(drawn.titles.items()):
        for n in range(1, config.specific + 1):
            name = f"{title} {n}" if config.specific > 1 else title
            found.append(Expert(f"specific-{place}-{n}", name, task, shortened(name)))
    return found


def shortened(words: str, most: int = 22) -> str:
    """As much as there is room for, a Chinese character being twice as wide as a letter."""
    room = most
    for place, character in enumerate(words):
        room -= 2 if ord(character) > 0x2E7F else 1
        if room < 0:
            return f"{words[: max(place - 1, 1)].rstrip()}…"
    return words


def drawing(drawn: Drawn, language: Language) -> str:
    """The layer as SVG; what its parts mean stands in `ui.tabs.about.parts`."""
    listed = experts(drawn, language)
    first = _TOP + (112 if drawn.has_gate else 76)
    heights = [
        first + place * _ROW + (10 if expert.task and drawn.config.common else 0)
        for place, expert in enumerate(listed)
    ]
    rows = "".join(
        _expert(expert, y, drawn, language) for expert, y in zip(listed, heights, strict=True)
    )
    end = heights[-1]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {end + 18}" xmlns="http://www.w3.org/2000/svg">'
        f"{_wires(end)}{_input(language)}{_frozen(language)}"
        f"{_gate(drawn, end, language) if drawn.has_gate else ''}{rows}{_sum(language)}</svg>"
    )


def _part(
    key: str,
    label: str,
    shapes: str,
    *,
    panel: str = "",
    kind: str = "",
    task: str = "",
    sign: str = "",
) -> str:
    """Something that can be chosen.

    Args:
        key: Names it among the adapter's parts.
        label: What it is called.
        shapes: What is drawn.
        panel: The explanation that belongs to it; that of its key by default.
        kind: Decides its colour.
        task: The one task that uses it; empty if all do.
        sign: What is written on it, where that follows the choice; the name ends in it, too.
    """
    facts = {
        "aria-label": f"{label} {sign}".strip(),
        "data-part": key,
        "data-panel": panel or key,
        **({"data-task": task} if task else {}),
        **({"data-says": label} if sign else {}),
    }
    attributes = " ".join(f'{name}="{escape(value)}"' for name, value in facts.items())
    return (
        f'<g class="part {kind}" role="button" tabindex="-1" aria-pressed="false" {attributes}>'
        f"{shapes}</g>"
    )


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def _wires(end: float) -> str:
    """What is there for every adapter: x down the left, the sum up the right."""
    return (
        f'<path class="wire" d="M{_IN} {_TOP}H{_SUM}M{_IN} {_TOP}V{end}'
        f'M{_SUM} {end}V{_TOP}M{_SUM} {_TOP}H380"/>'
    )


def _input(language: Language) -> str:
    shapes = f'<circle class="shape" cx="{_IN}" cy="{_TOP}" r="12"/>'
    return _part("input", text("about input", language), shapes + _text(_IN, _TOP, "x", "sign"))


def _frozen(language: Language) -> str:
    width = _B + _LENGTH - _A
    box = f'<rect class="shape" x="{_A}" y="{_TOP - 24}" width="{width}" height="48" rx="4"/>'
    sign = _text(_A + width / 2, _TOP, "W₀", "sign")
    return _part("frozen", text("about frozen", language), box + sign, kind="frozen")


def _sum(language: Language) -> str:
    """Where everything is added up, and before it the experts' scale."""
    y = _TOP + 46
    scale = f'<circle class="shape" cx="{_SUM}" cy="{y}" r="10"/>'
    plus = (
        f'<circle class="shape" cx="{_SUM}" cy="{_TOP}" r="12"/>'
        f'<path class="arrow" d="M{_SUM - 5} {_TOP}h10m-5 -5v10M374 {_TOP - 4}l7 4l-7 4"/>'
    )
    return _part(
        "scale", text("about scale", language), scale + _text(_SUM, y, "×s", "sign small")
    ) + _part(
        "sum", text("about sum", language), plus + _text(_SUM + 26, _TOP - 15, "h", "sign bare")
    )


def _gate(drawn: Drawn, end: float, language: Language) -> str:
    y = _TOP + 62
    name = text("about gate", language)
    gate = _part(
        "gate",
        name,
        f'<rect class="shape" x="{_GATE - 28}" y="{y - 14}" width="56" height="28" rx="14"/>'
        + _text(_GATE, y, name, "sign"),
    )
    title = shortened(next(iter(drawn.titles.values())), 18)
    task = _part(
        "task",
        text("about task", language),
        f'<rect class="shape" x="{_GATE + 44}" y="{y - 12}" width="118" height="24" rx="4"/>'
        + _text(_GATE + 103, y, title, "sign used chosen"),
        sign=title,
    )
    wires = (
        f'<path class="wire dashed" d="M{_GATE} {y}V{end}"/>'
        f'<path class="wire" d="M{_GATE + 44} {y}H{_GATE + 28}"/>'
        f'<path class="arrow" d="M{_GATE + 35} {y - 4}l-7 4l7 4"/>'
    )
    return wires + gate + task


def _expert(expert: Expert, y: float, drawn: Drawn, language: Language) -> str:
    wire = f'<path class="wire" d="M{_IN} {y}H{_SUM}"/>'
    matrices = "".join(
        _part(
            f"{expert.key}-{matrix}",
            text(f"about {matrix}", language, expert=expert.name),
            _matrix(matrix, start, y),
            panel=f"{expert.kind}-{matrix}",
            kind=expert.kind,
            task=expert.task,
        )
        for matrix, start in (("A", _A), ("B", _B))
    )
    weight = ""
    if drawn.has_gate:
        weight = _part(
            f"{expert.key}-weight",
            text("about weight", language, expert=expert.name),
            f'<circle class="shape" cx="{_GATE}" cy="{y}" r="9.5"/>'
            f"{_text(_GATE, y, 'g', 'sign used')}{_text(_GATE, y, '0', 'sign unused')}",
            panel="weight",
            kind=f"{expert.kind} weight",
            task=expert.task,
            sign="g",
        )
    owner = f' data-task="{escape(expert.task)}"' if expert.task else ""
    label = _text(_GATE + 18, y, expert.label, "label")
    return f'<g class="row"{owner}>{wire}{label}{matrices}{weight}</g>'


def _matrix(matrix: str, x: float, y: float) -> str:
    """A narrows towards the rank, B widens from it."""
    left, right = (_WIDE, _NARROW) if matrix == "A" else (_NARROW, _WIDE)
    outline = f"M{x} {y - left}L{x + _LENGTH} {y - right}V{y + right}L{x} {y + left}Z"
    # The whole of its row answers to a finger.
    room = f'<rect class="room" x="{x - 4}" y="{y - 13}" width="{_LENGTH + 8}" height="26"/>'
    return f'{room}<path class="shape" d="{outline}"/>{_text(x + _LENGTH / 2, y, matrix, "sign")}'
