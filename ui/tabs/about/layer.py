"""The expert layer: its parts, drawn so that each can be chosen, and what each part is.

The drawing is a group of radio buttons, so that the browser itself handles mouse and arrow keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape

from cgclora.config import AdapterConfig
from cgclora.storage.layer_shapes import LayerKind
from evals.tasks import Language
from ui.components.texts import text

# Shows the explanation of the chosen part; the address holds the choice.
SCRIPT = """
const show = () => {
  const wanted = new URL(location).searchParams.get("about-part");
  const parts = [...element.querySelectorAll(".part input")];
  const chosen = parts.find((part) => part.value === wanted)
    || parts.find((part) => part.value === "sum");
  if (chosen) chosen.checked = true;
  for (const panel of element.querySelectorAll("[data-part]")) {
    panel.hidden = panel.dataset.part !== chosen.value;
  }
};
element.addEventListener("change", (event) => {
  const address = new URL(location);
  address.searchParams.set("about-part", event.target.value);
  history.replaceState(null, "", address);
  show();
});
new MutationObserver(show).observe(element, { childList: true, subtree: true });
show();
"""

_TOKEN = re.compile(r"([\d.]+|[^\W_]+|\S)(?:([_^])(?:\{([^}]*)\}|(\S)))?")


@dataclass(frozen=True)
class LayerView:
    """What is drawn.

    Attributes:
        config: Of the adapter.
        kind: Shape of the linear layer, and how many there are of it.
        titles: The adapter's tasks' titles by name, in the order in which they are drawn.
        task: The chosen task.
    """

    config: AdapterConfig
    kind: LayerKind
    titles: dict[str, str]
    task: str

    @property
    def has_gate(self) -> bool:
        """Whether tasks or experts differ in weight."""
        return self.config.gate != "none" or self.config.specific > 0


@dataclass(frozen=True)
class Part:
    """A part of the layer.

    Attributes:
        key: Names it in the address.
        name: Its name on the page.
        sign: What is written on it in the drawing.
        formula: See `formula`.
        why: What it does.
        shape: Of its value or weight.
        count: Parameters in one layer; None if there are none.
        is_shared: Whether the whole model shares these parameters.
    """

    key: str
    name: str
    sign: str
    formula: str
    why: str
    shape: str
    count: int | None = None
    is_shared: bool = False


@dataclass(frozen=True)
class Expert:
    """An expert: its name, `common` or `specific`, whether the chosen task uses it, its parts."""

    name: str
    kind: str
    is_used: bool
    parts: tuple[Part, ...]


def layer(view: LayerView, language: Language) -> str:
    """The drawing and the explanations of all parts; the script shows one of them."""
    base, gate, listed = (
        base_parts(view, language),
        gate_parts(view, language),
        experts(view, language),
    )
    x, frozen, total, scale = base
    rows = f'<div class="lane">{_radio(x)}{_radio(frozen, "frozen")}{_radio(total)}</div>'
    rows += f'<div class="lane gating">{"".join(map(_radio, gate))}{_radio(scale)}</div>'
    for expert in listed:
        unused = "" if expert.is_used else " unused"
        radios = "".join(_radio(part, expert.kind) for part in expert.parts)
        label = f'<span class="expert-name">{escape(expert.name)}</span>'
        rows += f'<div class="lane expert {expert.kind}{unused}">{radios}{label}</div>'
    parts = [*base, *gate, *(part for expert in listed for part in expert.parts)]
    panels = "".join(_panel(part, view.kind.layers, language) for part in parts)
    same = "" if view.has_gate else f'<p class="quiet">{text("about_same_for_all", language)}</p>'
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


def base_parts(view: LayerView, language: Language) -> tuple[Part, Part, Part, Part]:
    """Input, frozen weight, output and the scale of the experts."""
    config, kind = view.config, view.kind
    gate = "g_{t,e}" if view.has_gate else ""
    whole = f"h = W_0 x + s ∑_e {gate} B_e A_e x"
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


def gate_parts(view: LayerView, language: Language) -> list[Part]:
    """Gate and task id; none where all tasks use the same weights."""
    config = view.config
    if not view.has_gate:
        return []
    learned, size = config.gate == "task", config.embedding_size
    why = text(f"about_why_gate_{config.gate}", language)
    if learned:
        why = _joined(language, why, text(f"about_gate_{config.gate_scope}", language))
    weight = {
        "task": "exp(p_e · v_t) / ∑_{j ∈ U_t} exp(p_j · v_t)",
        "uniform": f"1 / {config.experts_per_task}",
        "none": "1",
    }[config.gate]
    usable = ", e ∈ U_t" if config.specific else ""
    n = config.num_experts
    return [
        Part(
            "gate",
            text("about gate", language),
            text("about gate", language),
            f"g_{{t,e}} = {weight}{usable}",
            why,
            _sizes(n, size) if learned else _sizes(n),
            n * size if learned else None,
            is_shared=config.gate_scope == "model",
        ),
        Part(
            "task",
            f"{text('about task', language)} · {view.titles[view.task]}",
            view.titles[view.task],
            "v_t = V [ t ]" if learned else "t",
            text("about_why_task" if learned else "about_why_task_id", language),
            _sizes(len(config.tasks), size) if learned else _sizes("batch"),
            len(config.tasks) * size if learned else None,
            is_shared=True,
        ),
    ]


def experts(view: LayerView, language: Language) -> list[Expert]:
    """The common experts, then those of each task."""
    config = view.config
    alone = config.num_experts == 1
    found = []
    for n in range(1, config.common + 1):
        name = text("about_one", language) if alone else text("common_n", language, n=n)
        whose = text("about_whose_one" if alone else "about_whose_common", language)
        parts = _expert_parts(f"common-{n}", name, whose, view, language, is_used=True)
        found.append(Expert(name, "common", True, parts))
    for place, (task, title) in enumerate(view.titles.items()):
        for n in range(1, config.specific + 1):
            name = f"{title} {n}" if config.specific > 1 else title
            is_used, whose = task == view.task, text("about_whose_specific", language)
            key = f"specific-{place}-{n}"
            parts = _expert_parts(key, name, whose, view, language, is_used=is_used)
            found.append(Expert(name, "specific", is_used, parts))
    return found


def _expert_parts(
    key: str, name: str, whose: str, view: LayerView, language: Language, *, is_used: bool
) -> tuple[Part, ...]:
    rank, kind = view.config.expert_rank, view.kind

    def part(what: str, sign: str, formula: str, why: str, *shape: int, count: int | None) -> Part:
        label = text(f"about {what}", language, expert=name)
        return Part(f"{key}-{what}", label, sign, formula, why, _sizes(*shape), count)

    why_a = _joined(language, whose, text("about_why_A", language, rank=rank))
    why_b = _joined(language, whose, text("about_why_B", language))
    matrices = (
        part("A", "A", "z_e = A_e x", why_a, rank, kind.inner, count=rank * kind.inner),
        part("B", "B", "B_e z_e", why_b, kind.outer, rank, count=kind.outer * rank),
    )
    if not view.has_gate:
        return matrices
    why = text("about_why_weight" if is_used else "about_why_zero", language)
    sign = "g" if is_used else "0"
    return *matrices, part("weight", sign, "g_{t,e} · B_e z_e", why, 1, count=None)


def _joined(language: Language, *sentences: str) -> str:
    return ("" if language == "zh" else " ").join(sentences)


def _sizes(*sizes: str | int) -> str:
    return " × ".join(f"{size:,}" if isinstance(size, int) else size for size in sizes)


# HTML -----------------------------------------------------------------------------------------


def _radio(part: Part, kind: str = "") -> str:
    what = part.key.rpartition("-")[2]
    return (
        f'<label class="part {kind} {what}" title="{escape(part.name)}"><input type="radio" '
        f'name="about-part" value="{part.key}" aria-label="{escape(part.name)}">'
        f"<span>{escape(part.sign)}</span></label>"
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
