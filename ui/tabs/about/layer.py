"""The expert layer: its parts, drawn so that each can be chosen, and what each part is.

The drawing is a group of radio buttons, so that the browser itself handles mouse and arrow keys.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from cgclora.config import AdapterConfig
from cgclora.storage.layer_shapes import LayerKind
from evals.tasks import Language
from ui.components.html import quiet, script
from ui.components.texts import text

SCRIPT = script("layer_parts")

_TOKEN = re.compile(r"([\d.]+|[^\W_]+|\S)(?:([_^])(?:\{([^}]*)\}|(\S)))?")


@dataclass(frozen=True)
class LayerView:
    """An adapter's layer as it is drawn."""

    config: AdapterConfig
    kind: LayerKind  # shape of the linear layer, and how many there are of it
    titles: dict[str, str]  # of the adapter's tasks by name, in the order in which they are drawn
    task: str  # the chosen one

    @property
    def has_gate(self) -> bool:
        """Whether tasks or experts differ in weight."""
        config = self.config
        return config.gate != "none" or config.specific > 0 or config.shared_A


@dataclass(frozen=True)
class Part:
    """A part of the layer."""

    key: str  # names it in the address
    name: str  # its name on the page
    sign: str  # drawn on it
    formula: str  # see `formula`
    why: str  # what it does
    shape: str  # of its value or weight
    count: int | None = None  # parameters in one layer; None if there are none
    is_shared: bool = False  # whether the whole model shares these parameters


def layer(view: LayerView, language: Language) -> str:
    """The drawing and the explanations of all parts; the script shows one of them."""
    x, frozen, total, scale = _base_parts(view, language)
    gate = _gate_parts(view, language)
    rows = f'<div class="lane">{_radio(x)}{_radio(frozen, "frozen")}{_radio(total)}</div>'
    rows += f'<div class="lane gating">{"".join(map(_radio, gate))}{_radio(scale)}</div>'
    parts = [x, frozen, total, scale, *gate]
    for kind, key, name, is_used in _experts(view, language):
        of_expert = _expert_parts(f"{kind}-{key}", kind, name, view, language, is_used=is_used)
        radios = "".join(_radio(part, kind) for part in of_expert)
        unused = "" if is_used else " unused"
        label = f'<span class="expert-name">{escape(name)}</span>'
        rows += f'<div class="lane expert {kind}{unused}">{radios}{label}</div>'
        parts += of_expert
    panels = "".join(_panel(part, view.kind.layers, language) for part in parts)
    same = "" if view.has_gate else quiet(text("about_same_for_all", language))
    gated = " gated" if view.has_gate else ""
    return (
        f'{same}<div class="layer"><div class="drawing{gated}" role="radiogroup" '
        f'aria-label="{text("about_drawing", language)}">{rows}</div>'
        f'<div class="explanation" aria-live="polite">{panels}</div></div>'
    )


def formula(source: str) -> str:
    """MathML of a formula with indices as in TeX, such as `h = W_0 x + s ∑_e g_{t,e} B_e A_e x`."""
    return f'<math display="block">{_row(source)}</math>'


def _row(source: str) -> str:
    nodes = []
    for base, mark, group, single in _TOKEN.findall(source):
        tag = "mn" if base[0].isdigit() else "mi" if base.isalpha() else "mo"
        node = f"<{tag}>{escape(base)}</{tag}>"
        if mark:
            tag = "munder" if base == "∑" else {"_": "msub", "^": "msup"}[mark]
            node = f"<{tag}>{node}{_row(group or single)}</{tag}>"
        nodes.append(node)
    return f"<mrow>{''.join(nodes)}</mrow>"


# Parts ----------------------------------------------------------------------------------------


def _base_parts(view: LayerView, language: Language) -> tuple[Part, Part, Part, Part]:
    """Input, frozen weight, output and the scale of the experts."""
    config, kind = view.config, view.kind
    gate = "g_{t,e}" if view.has_gate else ""
    whole = f"h = W_0 x + s ∑_e {gate} B_e {'M_t A' if config.shared_A else 'A_e'} x"
    if config.num_experts == 1 and not view.has_gate:
        whole = "h = W_0 x + s B A x"
    rank, scale = config.active_rank, f"{config.scale:g}"

    def part(key: str, sign: str, formula: str, *shape: str | int, **more: object) -> Part:
        why = text(f"about_why_{key}", language, rank=rank, scale=scale)
        name = text(f"about {key}", language)
        return Part(key, name, sign, formula, why, _sizes(*shape), **more)  # type: ignore[arg-type]

    return (
        part("input", "x", "x ∈ ℝ^{in}", "batch", "tokens", kind.inner),
        part("frozen", "W₀", "W_0 x", kind.outer, kind.inner, count=kind.outer * kind.inner),
        part("sum", "+", whole, "batch", "tokens", kind.outer),
        part("scale", "×s", f"s = {config.alpha:g} / {config.alpha / config.scale:g} = {scale}", 1),
    )


def _gate_parts(view: LayerView, language: Language) -> list[Part]:
    """Gate and task id; none where all tasks use the same weights."""
    config = view.config
    if not view.has_gate:
        return []
    embeds, size = config.gate == "task", config.embedding_size
    why = text(f"about_why_gate_{config.gate}", language)
    if config.learns_gate:
        why = _joined(language, why, text(f"about_gate_{config.gate_scope}", language))
    weight = {
        "task": "exp(p_e · v_t) / ∑_{j ∈ U_t} exp(p_j · v_t)",
        "skills": "σ(z_{t,e}) / ∑_{j ≤ C} σ(z_{t,j})",
        "uniform": f"1 / {config.experts_per_task}",
        "none": "1",
    }[config.gate]
    usable = ", e ≤ C" if config.gate == "skills" else ", e ∈ U_t" if config.specific else ""
    n, k = config.num_experts, config.expert_rank
    turn = Part(
        "turn",
        text("about turn", language),
        "M",
        "z_e = M_t A x",
        text("about_why_turn", language),
        _sizes(len(config.tasks), k, k),
        len(config.tasks) * k**2,
    )
    shape = {"task": (n, size), "skills": (len(config.tasks), config.common)}.get(config.gate, (n,))
    return [
        Part(
            "gate",
            text("about gate", language),
            text("about gate", language),
            f"g_{{t,e}} = {weight}{usable}",
            why,
            _sizes(*shape),
            math.prod(shape) if config.learns_gate else None,
            is_shared=config.gate_scope == "model",
        ),
        Part(
            "task",
            f"{text('about task', language)} · {view.titles[view.task]}",
            view.titles[view.task],
            "v_t = V [ t ]" if embeds else "t",
            text("about_why_task" if embeds else "about_why_task_id", language),
            _sizes(len(config.tasks), size) if embeds else _sizes("batch"),
            len(config.tasks) * size if embeds else None,
            is_shared=True,
        ),
        *([turn] if config.shared_A else []),
    ]


def _experts(view: LayerView, language: Language) -> Iterator[tuple[str, str, str, bool]]:
    """Kind, key and name of each expert, and whether the task uses it; the common ones first."""
    config = view.config
    for n in range(1, config.common + 1):
        is_only = config.num_experts == 1
        name = text("about_one", language) if is_only else text("common_n", language, n=n)
        yield "common", f"{n}", name, True
    for place, (task, title) in enumerate(view.titles.items()):
        for n in range(1, config.specific + 1):
            name = f"{title} {n}" if config.specific > 1 else title
            yield "specific", f"{place}-{n}", name, task == view.task


def _expert_parts(
    key: str, kind: str, name: str, view: LayerView, language: Language, *, is_used: bool
) -> list[Part]:
    """The two matrices and the weight of an expert."""
    rank, inner, outer = view.config.expert_rank, view.kind.inner, view.kind.outer
    is_only = kind == "common" and view.config.num_experts == 1
    whose = text(f"about_whose_{'one' if is_only else kind}", language)
    why_a = _joined(language, whose, text("about_why_A", language, rank=rank))
    why_b = _joined(language, whose, text("about_why_B", language))
    why = text("about_why_weight" if is_used else "about_why_zero", language)

    def part(what: str, sign: str, formula: str, why: str, shape: str, count: int | None) -> Part:
        label = text(f"about {what}", language, expert=name)
        return Part(f"{key}-{what}", label, sign, formula, why, shape, count)

    sign = "g" if is_used else "0"
    down, is_shared = "z_e = A_e x", view.config.shared_A
    count = None if is_shared and key != "common-1" else rank * inner  # one for all, counted once
    if is_shared:
        down, why_a = "z_e = M_t A x", text("about_why_shared_A", language, rank=rank)
    parts = [
        part("A", "A", down, why_a, _sizes(rank, inner), count),
        part("B", "B", "B_e z_e", why_b, _sizes(outer, rank), outer * rank),
        part("weight", sign, "g_{t,e} · B_e z_e", why, _sizes(1), None),
    ]
    return parts if view.has_gate else parts[:2]


def _joined(language: Language, *sentences: str) -> str:
    return ("" if language == "zh" else " ").join(sentences)


def _sizes(*sizes: str | int) -> str:
    return " × ".join(f"{size:,}" if isinstance(size, int) else size for size in sizes)


# HTML -----------------------------------------------------------------------------------------


def _radio(part: Part, kind: str = "") -> str:
    what, name = part.key.rpartition("-")[2], escape(part.name)
    return (
        f'<label class="part {kind} {what}" title="{name}"><input type="radio" name="about-part" '
        f'value="{part.key}" aria-label="{name}"><span>{escape(part.sign)}</span></label>'
    )


def _panel(part: Part, layers: int, language: Language) -> str:
    hidden = "" if part.key == "sum" else " hidden"
    return (
        f'<section class="explained" data-part="{part.key}"{hidden}><h3>{escape(part.name)}</h3>'
        f"{formula(part.formula)}<p>{escape(part.why)}</p><dl>"
        f"<div><dt>{text('about_shape', language)}</dt><dd>{part.shape}</dd></div>"
        f"<div><dt>{text('about_parameters', language)}</dt>"
        f"<dd>{_count(part, layers, language)}</dd></div></dl></section>"
    )


def _count(part: Part, layers: int, language: Language) -> str:
    if part.count is None:
        return text("about_none", language)
    key = "about_frozen" if part.key == "frozen" else "about_trained"
    note = f'<span class="quiet">{text(key, language)}</span>'
    if part.is_shared:
        return f"{text('about_shared_by_all', language, count=f'{part.count:,}')} {note}"
    in_layer = text("about_in_layer", language, count=f"{part.count:,}")
    of_kind = text("about_of_kind", language, count=f"{part.count * layers:,}", layers=layers)
    return f'{in_layer} {note}<br><span class="quiet">{of_kind}</span>'
