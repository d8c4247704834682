"""The drawing of the expert layer with what is chosen in it; choosing needs no server."""

from __future__ import annotations

from html import escape

from cgclora.storage.layer_shapes import layer_kinds
from evals.methods import method_of
from evals.tasks import Language
from ui.components import answering_models, forms
from ui.components.texts import text
from ui.engine.engine import Engine
from ui.tabs.about import parts as about_parts
from ui.tabs.about.drawing import Drawn, drawing, shortened

# Everything is in the page; the script shows what belongs to the choice. The address holds it, too.
SCRIPT = """
const names = ["adapter", "layer", "task", "part"];
const asked = new URL(location).searchParams;
const state = Object.fromEntries(names.map((name) => [name, asked.get(`about-${name}`) || ""]));

const fit = (select, wanted) => {
  if ([...select.options].some((option) => option.value === wanted)) select.value = wanted;
  return select.value;
};

const apply = () => {
  const blocks = [...element.querySelectorAll("[data-adapter]")];
  const shown = blocks.find((block) => block.dataset.adapter === state.adapter) || blocks[0];
  for (const block of blocks) {
    fit(block.querySelector("[data-choice=adapter]"), block.dataset.adapter);
    block.toggleAttribute("hidden", block !== shown);
  }
  if (shown) draw(shown);
};

const draw = (block) => {
  const layer = fit(block.querySelector("[data-choice=layer]"), state.layer);
  const tasks = block.querySelector("[data-choice=task]");
  const task = fit(tasks, state.task);
  const parts = [...block.querySelectorAll(".part")];
  const chosen = parts.find((part) => part.dataset.part === state.part)
    || parts.find((part) => part.dataset.part === "sum");
  const foreign = (one) => Boolean(one.dataset.task) && one.dataset.task !== task;
  for (const one of block.querySelectorAll("svg [data-task]")) {
    one.classList.toggle("faded", foreign(one));
  }
  const sign = block.querySelector(".chosen");
  if (sign) say(sign, tasks.selectedOptions[0].dataset.short);
  for (const part of parts) {
    const written = part.querySelector(foreign(part) ? ".unused" : ".used")?.textContent;
    if (written) part.setAttribute("aria-label", `${part.dataset.says} ${written}`);
    part.setAttribute("aria-pressed", part === chosen);
    part.setAttribute("tabindex", part === chosen ? 0 : -1);
  }
  for (const one of block.querySelectorAll("[data-layer]")) {
    one.toggleAttribute("hidden", !one.dataset.layer.split("|").includes(layer));
  }
  for (const panel of block.querySelectorAll("[data-explains]")) {
    panel.toggleAttribute("hidden", panel.dataset.explains !== chosen.dataset.panel);
    panel.classList.toggle("faded", foreign(chosen));
  }
  say(block.querySelector(".explained-name"), chosen.getAttribute("aria-label"));
};

// Not when nothing changes: what is written is noticed below.
const say = (node, words) => { if (node.textContent !== words) node.textContent = words; };

const choose = (name, value) => {
  const before = document.activeElement;
  state[name] = value;
  apply();
  if (name === "adapter" && before?.dataset.choice === name) {
    element.querySelector(".layer:not([hidden]) [data-choice=adapter]").focus();
  }
  const address = new URL(location);
  address.searchParams.set(`about-${name}`, value);
  history.replaceState(null, "", address);
};

element.addEventListener("change", (event) => {
  const name = event.target.dataset.choice;
  if (name) choose(name, event.target.value);
});
element.addEventListener("click", (event) => {
  const part = event.target.closest(".part");
  if (part) choose("part", part.dataset.part);
});
element.addEventListener("keydown", (event) => {
  const part = event.target.closest(".part");
  if (!part) return;
  const parts = [...part.ownerSVGElement.querySelectorAll(".part")];
  const last = parts.length - 1;
  const here = parts.indexOf(part);
  const next = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1,
    ArrowUp: here - 1, Home: 0, End: last, Enter: here, " ": here }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  const found = parts[Math.min(Math.max(next, 0), last)];
  choose("part", found.dataset.part);
  found.focus();
});
new MutationObserver(apply).observe(element, { childList: true, subtree: true });
apply();
"""


def adapter_title(engine: Engine, name: str, language: Language) -> str:
    """What an adapter is called where all of them are listed: its cluster and its method."""
    method = method_of(engine.configs[name], engine.manifests[name])
    if name not in engine.clusters():
        return text("about_compared", language, method=method)
    return f"{answering_models.title(engine, name, language)} · {method}"


def drawn_adapters(engine: Engine, language: Language) -> list[Drawn]:
    """All adapters whose files can be read."""
    found = []
    for name in engine.adapters():
        try:
            kinds = layer_kinds(engine.path(name))
        except ValueError:  # found damaged in a moment, when it is loaded; the page says so then
            continue
        titles = {
            task: forms.title(forms.task_named(task), language) for task in engine.tasks(name)
        }
        title = adapter_title(engine, name, language)
        found.append(Drawn(name, title, engine.configs[name], kinds, titles))
    return found


def layer(engine: Engine, language: Language) -> str:
    """The drawing of each adapter, its explanations and what can be chosen."""
    drawn = drawn_adapters(engine, language)
    if not drawn:
        return f'<p class="quiet">{text("about_no_adapter", language)}</p>'
    return "".join(_block(place, drawn, language) for place in range(len(drawn)))


def _block(place: int, all_drawn: list[Drawn], language: Language) -> str:
    """One of the adapters; all of them are in the page, the first is shown."""
    drawn = all_drawn[place]
    adapters = "".join(
        f'<option value="{escape(one.name)}"{" selected" if one is drawn else ""}>'
        f"{escape(one.title)}</option>"
        for one in all_drawn
    )
    tasks = "".join(
        f'<option value="{escape(name)}" data-short="{escape(shortened(title, 18))}">'
        f"{escape(title)}</option>"
        for name, title in drawn.titles.items()
    )
    # A plain LoRA asks nobody which task it is.
    same = "" if drawn.has_gate else f'<p class="quiet">{text("about_same_for_all", language)}</p>'
    return (
        f'<div class="layer" data-adapter="{escape(drawn.name)}"{" hidden" if place else ""}>'
        f'<div class="choices"><label>{text("about_adapter", language)}'
        f'<select data-choice="adapter">{adapters}</select></label>'
        f"<label>{text('about_linear', language)}"
        f'<select data-choice="layer">{about_parts.kind_options(drawn)}</select></label>'
        f'<label>{text("about_task", language)}<select data-choice="task"'
        f"{' disabled' if same else ''}>{tasks}</select></label>{same}"
        f'</div><div class="drawing" role="toolbar" aria-label="{text("about_drawing", language)}">'
        f"{drawing(drawn, language)}</div>"
        f'<section class="explanation" aria-live="polite"><h3 class="explained-name">'
        f"{text('about sum', language)}</h3>{about_parts.panels(drawn, language)}"
        f"</section></div>"
    )
