"""What each part of the expert layer is: formula, shape, parameters and one line about it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from cgclora.config import AdapterConfig
from cgclora.storage.layer_shapes import LayerKind
from evals.tasks import Language
from ui.components.texts import text
from ui.tabs.about import mathml as m
from ui.tabs.about.drawing import Drawn

_X, _H, _G = m.symbol("x"), m.symbol("h"), m.symbol("g")
_W0 = m.sub(m.symbol("W"), m.number(0))
_E, _T, _S = m.symbol("e"), m.symbol("t"), m.symbol("s")
_A_E, _B_E = m.sub(m.symbol("A"), _E), m.sub(m.symbol("B"), _E)
_Z_E = m.sub(m.symbol("z"), _E)
_COMMA = m.sign(",")
_IS = m.sign("=")
_G_TE = m.sub(_G, m.row(_T, _COMMA, _E))
_EMBEDDING = m.sub(m.symbol("v"), _T)  # not e, which counts experts


def _dimensions(*sizes: str | int) -> str:
    return " × ".join(f"{size:,}" if isinstance(size, int) else size for size in sizes)


@dataclass(frozen=True)
class _Part:
    """One panel.

    Attributes:
        key: Names it; parts of the drawing name it too.
        formula: As MathML.
        why: One line or more about it.
        shape: For a kind of layers.
        parameters: In one layer, for a kind of layers; None if there are none.
        unused: What holds instead where the chosen task may not use the part.
        note: Said of the parameters.
        shared: Whether the parameters are the whole model's, not one layer's.
    """

    key: str
    formula: str
    why: tuple[str, ...]
    shape: dict[LayerKind, str]
    parameters: dict[LayerKind, int] | None = None
    unused: str = ""
    note: str = "about_trained"
    shared: bool = False


def panels(drawn: Drawn, language: Language) -> str:
    """The explanations of all parts of an adapter's drawing."""
    return "".join(_panel(part, drawn, language) for part in _parts(drawn, language))


def _panel(part: _Part, drawn: Drawn, language: Language) -> str:
    """One explanation; the name of the chosen part is put above it in the browser."""
    sizes: dict[str, list[LayerKind]] = {}  # many parts are alike in all kinds of layers
    for kind in drawn.kinds:
        sizes.setdefault(_sizes(part, kind, language), []).append(kind)
    rows = "".join(
        f'<dl data-layer="{"|".join(map(_key, kinds))}"'
        f"{'' if drawn.kinds[0] in kinds else ' hidden'}>{size}</dl>"
        for size, kinds in sizes.items()
    )
    why = "".join(f"<p>{escape(line)}</p>" for line in part.why)
    if part.unused:
        why = f'<div class="used">{why}</div><p class="unused">{escape(part.unused)}</p>'
    hidden = "" if part.key == "sum" else " hidden"
    return (
        f'<div class="explained" data-explains="{part.key}"{hidden}>{part.formula}{why}{rows}</div>'
    )


def _sizes(part: _Part, kind: LayerKind, language: Language) -> str:
    return (
        f"<div><dt>{text('about_shape', language)}</dt><dd>{escape(part.shape[kind])}</dd></div>"
        f"<div><dt>{text('about_parameters', language)}</dt>"
        f"<dd>{_counts(part, kind, language)}</dd></div>"
    )


def _counts(part: _Part, kind: LayerKind, language: Language) -> str:
    if part.parameters is None:
        return text("about_none", language)
    count = part.parameters[kind]
    note = f'<span class="quiet">{text(part.note, language)}</span>'
    if part.shared:
        return f"{text('about_shared_by_all', language, count=f'{count:,}')} {note}"
    of_kind = text("about_of_kind", language, count=f"{count * kind.layers:,}", layers=kind.layers)
    own = text("about_in_layer", language, count=f"{count:,}")
    return f'{own} {note}<br><span class="quiet">{of_kind}</span>'


def _key(kind: LayerKind) -> str:
    return escape(f"{kind.name} {kind.outer}x{kind.inner}")


def kind_options(drawn: Drawn) -> str:
    """The kinds of layers as options; written as the shape of their weight, out × in."""
    return "".join(
        f'<option value="{_key(kind)}">{escape(kind.name)} · {kind.outer} × {kind.inner}</option>'
        for kind in drawn.kinds
    )


def _parts(drawn: Drawn, language: Language) -> list[_Part]:
    config, kinds = drawn.config, drawn.kinds
    tokens = ("batch", "tokens")
    rank = config.expert_rank
    parts = [
        _Part(
            "input",
            m.formula(_X, m.sign("∈"), m.sup(m.symbol("ℝ"), m.words("in"))),
            (text("about_why_input", language),),
            {kind: _dimensions(*tokens, kind.inner) for kind in kinds},
        ),
        _Part(
            "frozen",
            m.formula(_W0, _X),
            (text("about_why_frozen", language),),
            {kind: _dimensions(kind.outer, kind.inner) for kind in kinds},
            {kind: kind.outer * kind.inner for kind in kinds},
            note="about_frozen",
        ),
        _Part(
            "scale",
            m.formula(
                *(
                    _S,
                    _IS,
                    m.fraction(m.number(config.alpha), m.number(config.alpha / config.scale)),
                ),
                *(_IS, m.number(config.scale)),
            ),
            (text("about_why_scale", language),),
            dict.fromkeys(kinds, _dimensions(1)),
        ),
        _Part(
            "sum",
            _whole(drawn),
            (
                text(
                    "about_why_sum",
                    language,
                    scale=f"{config.scale:g}",
                    rank=config.active_rank,
                ),
            ),
            {kind: _dimensions(*tokens, kind.outer) for kind in kinds},
        ),
    ]
    for whose in ("common", "specific") if config.common else ("specific",):
        owner = "one" if config.num_experts == 1 else whose
        about = text(f"about_whose_{owner}", language)
        parts += [
            _Part(
                f"{whose}-A",
                m.formula(_Z_E, _IS, _A_E, _X),
                (about, text("about_why_A", language, rank=rank)),
                {kind: _dimensions(rank, kind.inner) for kind in kinds},
                {kind: rank * kind.inner for kind in kinds},
            ),
            _Part(
                f"{whose}-B",
                m.formula(_B_E, _Z_E),
                (about, text("about_why_B", language)),
                {kind: _dimensions(kind.outer, rank) for kind in kinds},
                {kind: kind.outer * rank for kind in kinds},
            ),
        ]
    return [*parts, *(_gate_parts(drawn, language) if drawn.has_gate else [])]


def _gate_parts(drawn: Drawn, language: Language) -> list[_Part]:
    config, kinds = drawn.config, drawn.kinds
    learned = config.gate == "task"
    size, tasks, all_experts = config.embedding_size, len(config.tasks), config.num_experts
    why = [text(f"about_why_gate_{config.gate}", language)]
    if learned:
        why.append(text(f"about_gate_{config.gate_scope}", language))
    table = f"{_dimensions(all_experts, size)}" if learned else _dimensions(all_experts)
    vectors = _dimensions(tasks, size) if learned else _dimensions("batch")
    return [
        _Part(
            "task",
            m.formula(
                *(
                    (_EMBEDDING, _IS, m.symbol("V"), m.sign("["), _T, m.sign("]"))
                    if learned
                    else (_T,)
                )
            ),
            (text("about_why_task" if learned else "about_why_task_id", language),),
            dict.fromkeys(kinds, vectors),
            dict.fromkeys(kinds, tasks * size) if learned else None,
            shared=True,
        ),
        _Part(
            "gate",
            _gate_formula(config),
            tuple(why),
            dict.fromkeys(kinds, table),
            dict.fromkeys(kinds, all_experts * size) if learned else None,
            shared=config.gate_scope == "model",
        ),
        _Part(
            "weight",
            m.formula(_G_TE, m.sign("·"), _B_E, _Z_E),
            (text("about_why_weight", language),),
            dict.fromkeys(kinds, _dimensions(1)),
            unused=text("about_why_zero", language),
        ),
    ]


def _gate_formula(config: AdapterConfig) -> str:
    """The weight of expert e for task t, whose experts are U_t."""
    usable = m.sub(m.symbol("U"), _T)
    other = m.symbol("j")

    def strength(expert: str) -> str:
        product = m.row(m.sub(m.symbol("p"), expert), m.sign("·"), _EMBEDDING)
        return m.row(m.symbol("exp"), m.sign("("), product, m.sign(")"))

    if config.gate == "task":
        below = m.row(m.total(m.row(other, m.sign("∈"), usable)), strength(other))
        value = m.fraction(strength(_E), below)
    elif config.gate == "uniform":
        value = m.fraction(m.number(1), m.number(config.experts_per_task))
    else:
        value = m.number(1)
    belongs = m.row(_E, m.sign("∈"), usable)
    if config.specific == 0:
        return m.formula(_G_TE, _IS, value)
    return m.formula(_G_TE, _IS, m.cases((value, belongs), (m.number(0), m.words("else"))))


def _whole(drawn: Drawn) -> str:
    """What the layer computes."""
    config = drawn.config
    if config.num_experts == 1 and not drawn.has_gate:
        return m.formula(_H, _IS, _W0, _X, m.sign("+"), _S, m.symbol("B"), m.symbol("A"), _X)
    gate = (_G_TE,) if drawn.has_gate else ()
    return m.formula(
        *(_H, _IS, _W0, _X, m.sign("+"), _S, m.total(_E), *gate, _B_E, _A_E, _X),
    )
