"""The tab of the gates, without a browser."""

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch

from cgclora.adapter import Adapter
from cgclora.analysis.gates import GatePath, entropy
from cgclora.analysis.probe import contributions, label_probabilities, scaled_gates
from cgclora.config import AdapterConfig
from cgclora.inference.engine import generate
from cgclora.inference.request import Request
from evals.tasks import CHOICES, TASKS
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_models import tiny_models
from tests.ui.test_app import loaded_engine
from ui.components import forms
from ui.components.texts import text
from ui.components.theme import COMMON, SPECIFIC
from ui.engine.client import EngineError
from ui.engine.engine import AppEngine
from ui.engine.models import Models
from ui.engine.task_gates import AdapterGates
from ui.shell import Shell
from ui.tabs.gates import render as gates_render
from ui.tabs.gates.changes import SLIDERS
from ui.tabs.gates.figures import entropy_lines, path_lines, path_map, similarity_map
from ui.tabs.gates.tab import Gates
from ui.tabs.gates.what_if import MAX_TOKENS, Outcome, WhatIf, labels_of

LABELLED, FREE = "SentimentAnalyze", "Couplet"
TASK_NAMES = (LABELLED, "NER", FREE, "<b>bold</b>")

METHODS = {
    "cgc": AdapterConfig(tasks=TASK_NAMES, common=2, specific=1),
    "lora": AdapterConfig.lora(TASK_NAMES, 4),
    "moe": AdapterConfig.moe_lora(TASK_NAMES, experts=4, rank=4),
    "uniform": AdapterConfig(tasks=TASK_NAMES, gate="uniform"),
    "sum": AdapterConfig(tasks=TASK_NAMES, gate="none"),
    "apart": AdapterConfig(tasks=TASK_NAMES, common=0, specific=2),
    "single": AdapterConfig(tasks=(LABELLED,)),
    "many": AdapterConfig(tasks=TASK_NAMES, common=14, expert_rank=1),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> AppEngine:
    folder = tmp_path_factory.mktemp("adapters")
    for name, config in METHODS.items():
        adapter = Adapter.attach(make_backbone(), config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _, parameter in adapter.named_parameters():
                parameter.normal_(0, 0.3, generator=generator)
        adapter.save(folder / name)
    return loaded_engine(folder)


def visitor(session: str = "one", **query: str) -> gr.Request:
    return SimpleNamespace(session_hash=session, query_params=query, headers={}, client=None)  # type: ignore[return-value]


def tab_of(engine: AppEngine) -> Gates:
    with gr.Blocks() as page:
        shell = Shell(page)
        with shell.tab("gates"):
            return Gates(shell, engine)


def shown(tab: Gates, **query: str) -> dict[Any, Any]:
    return tab.show(visitor(**query), None, None, None, None)


def prompt_of(task: str) -> str:
    form = TASKS[task]
    return form.prompt(forms.samples(form)[0].fields)


def path_of(config: AdapterConfig, steps: int = 50) -> GatePath:
    access = np.array(config.access())
    gates = np.random.default_rng(0).uniform(0.1, 1, (steps, *access.shape)) * access
    gates /= gates.sum(-1, keepdims=True)
    return GatePath(tuple(range(10, 10 * steps + 1, 10)), gates)


# Effects --------------------------------------------------------------------------------------


def score_of(value: float, difference: float | None = None, adjusted: float = 1) -> dict[str, Any]:
    score: dict[str, Any] = {"value": value, "low": 0.0, "high": 1.0, "samples": 50}
    if difference is not None:
        ends = {"low": difference - 0.1, "high": difference + 0.1}
        score["difference"] = {"value": difference, "adjusted": adjusted, **ends}
    return score


def test_the_page_says_first_what_changes_of_the_gates_do(engine, monkeypatch) -> None:
    report = {
        "variants": {
            "learned": {"NER": score_of(0.7), "overall": score_of(0.7)},
            "uniform": {"NER": score_of(0.69, -0.01), "overall": score_of(0.69, -0.01)},
            "no specific experts": {
                "NER": score_of(0.1, -0.6, 0.001),
                "overall": score_of(0.68, -0.02),
            },
        }
    }
    monkeypatch.setitem(engine.manifests["cgc"], "gate effects", report)
    tab = tab_of(engine)
    one = shown(tab, cluster="cgc", task="NER", lang="en")[tab.ablation]
    change = "-60.0 (-70.0 … -50.0)"
    variant = text("gates no specific experts", "en")
    assert text("gates_effect", "en", variant=variant, change=change) in one
    assert "70.0" in one
    assert text("gates no common experts", "en") not in one
    other = shown(tab, cluster="cgc", task=FREE, lang="en")[tab.ablation]
    assert escape(text("gates_unmeasured", "en")) in other
    whole = shown(tab, cluster="cgc", view="cluster", lang="en")[tab.overall]
    assert text("gates_no_effect", "en") in whole
    assert escape(text("gates_unmeasured", "zh")) in shown(tab, cluster="moe")[tab.ablation]


def test_what_looks_wrong_with_learned_gates_is_said_with_what_to_try(engine) -> None:
    config = METHODS["cgc"]
    names = {task: f"<{task}>" for task in TASK_NAMES}
    even = np.array(config.access(), dtype=float)[None]
    layers = ("model.layers.0.self_attn.q_proj",)
    said = gates_render.health(AdapterGates(config, layers, even), names, "en")
    assert escape(text("gates_uniform", "en")) in said
    alone = np.zeros_like(even)
    alone[:, :, 0] = 1
    said = gates_render.health(AdapterGates(config, layers, alone), names, "en")
    assert escape(names["NER"]) in said
    assert "number 2, 3, 4, 5, 6 is" in said
    assert gates_render.health(engine.all_gates("lora"), names, "en") == ""


# Numbers --------------------------------------------------------------------------------------


def test_shares_of_a_cluster_are_those_of_its_tasks(engine: AppEngine) -> None:
    gates = engine.all_gates("cgc")
    for row, task in zip(gates.shares(), TASK_NAMES, strict=True):
        assert row == pytest.approx(gates.of(task).shares())
        assert gates.of(task).weights == pytest.approx(engine.gates("cgc", task).weights)


def test_entropy_of_a_transformer_layer_is_the_mean_over_its_linear_layers(
    engine: AppEngine,
) -> None:
    gates = engine.gates("cgc", "NER")
    depths, values = gates.entropy()
    assert depths == (0, 1)
    of_one = [w for path, w in zip(gates.layers, gates.weights, strict=True) if ".1." in path]
    assert values[1] == pytest.approx(float(entropy(of_one).mean()))
    (single,) = [w for path, w in zip(gates.layers, gates.weights, strict=True)
                 if path.endswith("layers.1.mlp.up_proj")]  # fmt: skip
    assert gates.entropy("up_proj")[1][1] == pytest.approx(float(entropy(single)))


# Figures --------------------------------------------------------------------------------------


def test_entropy_is_a_thick_line_for_the_chosen_layers_and_a_thin_one_for_each_other_kind(
    engine: AppEngine,
) -> None:
    gates = engine.gates("cgc", "NER")
    for module in (None, "up_proj"):
        lines = entropy_lines(gates, module, "en").data
        assert len(lines) == 1 + len(gates.modules())
        assert [line.line.width > 2 for line in lines] == [False] * len(gates.modules()) + [True]
        assert list(lines[-1].y) == pytest.approx(list(gates.entropy(module)[1]))


def test_the_similarity_map_keeps_pairs_together_and_every_value_in_its_place() -> None:
    cosines = np.array([[1, -0.5, 0.9], [-0.5, 1, -0.4], [0.9, -0.4, 1]])
    tiles, tree = similarity_map(["a", "b", "c"], cosines, "en").data
    names = ["a", "b", "c"]
    for row, names_of_row in zip(tiles.z, tiles.customdata, strict=True):
        for value, (one, other) in zip(row, names_of_row, strict=True):
            assert value == cosines[names.index(one), names.index(other)]
    order = [pair[0] for pair in (row[0] for row in tiles.customdata)]
    assert abs(order.index("a") - order.index("c")) == 1
    assert max(height for height in tree.y if height is not None) == pytest.approx(1.45)


def test_the_path_s_lines_are_the_shares_of_one_task(engine: AppEngine) -> None:
    gates, path = engine.all_gates("cgc"), path_of(METHODS["cgc"])
    lines = path_lines(path, gates, "NER", "en").data
    assert [line.line.color for line in lines] == [COMMON, COMMON, SPECIFIC]
    assert len({line.line.dash for line in lines[:2]}) == 2
    assert list(lines[2].y) == pytest.approx(path.gates[:, 1, 3].tolist())
    assert list(lines[0].x) == list(path.steps)


def test_the_path_s_slider_stops_at_the_first_and_the_last_step(engine: AppEngine) -> None:
    gates, path = engine.all_gates("cgc"), path_of(METHODS["cgc"])
    names = {task: f"<i>{task}" for task in reversed(TASK_NAMES)}
    figure = path_map(path, gates, names, "en")
    (slider,) = figure.layout.sliders
    assert [slider.steps[0].label, slider.steps[-1].label] == ["10", "500"]
    assert len(slider.steps) <= 40
    common, specific = figure.data
    assert common.y[-1] == "&lt;i&gt;SentimentAnalyze"
    assert common.z[-1][:2] == pytest.approx(path.gates[-1, 0, :2], abs=1e-4)
    assert specific.z[-1][2] == pytest.approx(path.gates[-1, 0, 2], abs=1e-4)
    first = slider.steps[0].args[0]["z"]
    assert first[0][-1][:2] == pytest.approx(path.gates[0, 0, :2], abs=1e-4)
    assert first[0][0][2] is None
    assert first[1][0][0] is None


# HTML -----------------------------------------------------------------------------------------


def test_the_matrix_is_a_table_with_a_row_a_task_and_no_markup_from_names(
    engine: AppEngine,
) -> None:
    gates = engine.all_gates("cgc")
    names = {task: task for task in TASK_NAMES}
    table = gates_render.matrix(gates, names, "NER", "en")
    assert table.count('<th scope="row">') == len(TASK_NAMES)
    assert table.count("<td ") == 3 * len(TASK_NAMES)
    assert "<b>bold" not in table
    assert re.findall(r'class="now"><th scope="row">([^<]*)', table) == ["NER"]
    for share in gates.of("NER").shares():
        assert f">{share:.0%}</td>" in table


def test_what_a_model_says_is_never_markup(engine: AppEngine) -> None:
    gates = engine.gates("cgc", FREE)
    side = gates_render.Side((0.5, 0.3, 0.2), (), "<img src=x onerror=alert(1)>", "done")
    other = gates_render.Side((0.5, 0.3, 0.2), (), "<img src=x onerror=alert(2)>", "done")
    page = gates_render.outcome(Outcome(96, (), (side, other)), gates, "en")
    assert "<img" not in page
    assert text("gates_different", "en") in page


# What if --------------------------------------------------------------------------------------


Case = tuple[str, str, str]  # cluster, task, prompt


def compared(
    engine: AppEngine, case: Case, *factors: float, keep_sum: bool = True
) -> list[Outcome]:
    return list(WhatIf(engine).compare(*case, factors, keep_sum=keep_sum))


@pytest.mark.parametrize("keep_sum", [False, True])
@pytest.mark.parametrize("task", [LABELLED, FREE])
def test_the_comparison_ends_with_what_the_model_says_under_both_weights(
    engine: AppEngine, task: str, keep_sum: bool
) -> None:
    prompt = prompt_of(task)
    found = compared(engine, ("cgc", task, prompt), 0, 1, 2, keep_sum=keep_sum)[-1]
    backbone, adapter = engine.models.backbone, engine.models.adapter("cgc")
    gates = scaled_gates(adapter, task, (0, 1, 2), keep_sum=keep_sum)
    most = min(TASKS[task].max_new_tokens, MAX_TOKENS)
    requests = [Request(task, prompt, most), Request(task, prompt, most, gates=gates)]
    assert found.changed is not None
    sides = (found.original, found.changed)
    assert [side.text for side in sides] == [
        answer.text for answer in generate(backbone, requests, adapter)
    ]
    assert found.labels == (TASKS[task].labels if task == LABELLED else ())
    if task == LABELLED:
        for side, request in zip(sides, requests, strict=True):
            shares = label_probabilities(backbone, request, found.labels, adapter)
            assert side.labels == pytest.approx(shares)
    assert sum(found.original.split) == pytest.approx(1)
    assert (sum(found.changed.split) == pytest.approx(1)) == keep_sum
    assert found.effects is not None
    expected = contributions(backbone, adapter, task, prompt, gates)
    assert found.effects.weights == pytest.approx(expected.relative.numpy())


def test_without_a_change_there_is_one_side(engine: AppEngine) -> None:
    found = compared(engine, ("cgc", FREE, prompt_of(FREE)), 1, 1, 1)
    assert all(outcome.changed is None for outcome in found)
    assert found[-1].original.ended


def test_what_the_learned_weights_answer_is_computed_once(
    engine: AppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(backbone: Any, requests: Any, adapter: Any) -> Any:
        asked.append(len(requests))
        return stream(backbone, requests, adapter)

    from cgclora.inference import engine as inference

    stream = inference.stream
    monkeypatch.setattr(inference, "stream", counted)
    what_if, case = WhatIf(engine), ("cgc", FREE, prompt_of(FREE))
    first, *_ = [[*what_if.compare(*case, (0, 1, 1), keep_sum=True)] for _ in range(2)]
    assert asked == [2, 1]
    assert [*what_if.compare(*case, (1, 1, 1), keep_sum=True)][-1].original == first[-1].original


def test_a_comparison_that_nobody_wants_ends_and_leaves_nothing_half_known(
    engine: AppEngine,
) -> None:
    what_if, case = WhatIf(engine), ("cgc", FREE, prompt_of(FREE))
    wanted = iter([False, True])
    given_up = [*what_if.compare(*case, (0, 1, 1), keep_sum=True, stopped=lambda: next(wanted))]
    assert len(given_up) == 1
    whole = [*what_if.compare(*case, (1, 1, 1), keep_sum=True)][-1]
    assert whole.original.text == compared(engine, case)[-1].original.text


def test_a_prompt_that_is_too_long_is_refused(engine: AppEngine) -> None:
    with pytest.raises(EngineError, match="shorten"):
        compared(engine, ("cgc", FREE, "好" * 7000))


def test_labels_are_those_that_the_prompt_offers() -> None:
    task = TASKS["KUAKE-QIC"]
    sample = forms.samples(task)[0]
    assert labels_of(task, task.prompt(sample.fields)) == task.answers(sample.choices)
    one, two = task.labels[:2]
    fewer = task.prompt({**sample.fields, CHOICES: f"{one}，{two}"})
    assert set(labels_of(task, fewer)) == {one, two, task.catch_all} - {""}


def test_a_label_that_a_prompt_of_the_visitor_s_own_happens_to_name_counts_for_nothing() -> None:
    task = TASKS["KUAKE-QIC"]
    assert labels_of(task, f"孕妇{task.labels[0]}有哪些？") == task.answers()
    assert labels_of(TASKS["CHIP-STS"], "你是的") == TASKS["CHIP-STS"].answers()
    assert labels_of(TASKS["NER"], "你好") == ()


# The tab --------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("view", ["task", "cluster"])
@pytest.mark.parametrize("cluster", sorted(METHODS))
def test_the_gates_of_every_method_can_be_seen(
    engine: AppEngine, cluster: str, view: str, language: str
) -> None:
    tab = tab_of(engine)
    page = shown(tab, cluster=cluster, task=LABELLED, view=view, lang=language)
    assert page[tab.cluster]["value"] == cluster
    assert page[tab.task]["value"] == LABELLED
    assert page[tab.task_view]["visible"] == (view == "task")
    config = METHODS[cluster]
    if view == "task":
        there = [page[row]["visible"] for row, _, _ in tab.changes.slots]
        assert sum(there) == min(config.experts_per_task, SLIDERS)
        assert page[tab.entropy]["visible"] == (config.experts_per_task > 1)
    else:
        comparable = config.gate == "task" and config.common > 1 and len(config.tasks) > 1
        assert page[tab.similarity]["visible"] == comparable
        assert text("gates_path_none", language) in page[tab.path_words]  # type: ignore[arg-type]


@pytest.mark.parametrize("cluster", sorted(METHODS))
def test_experts_of_every_method_can_be_knocked_out(engine: AppEngine, cluster: str) -> None:
    case = (cluster, LABELLED, prompt_of(LABELLED))
    found = compared(engine, case, *[0.0] * SLIDERS)[-1]
    assert found.changed is not None
    gates = engine.gates(cluster, LABELLED)
    assert gates_render.outcome(found, gates, "en")
    assert found.gates is not None
    assert found.effects is not None
    words = gates_render.effects(found.gates, found.effects, "en")
    # Those beyond the sliders keep their weights.
    nothing = METHODS[cluster].experts_per_task <= SLIDERS
    assert (text("gates_effects_nothing", "en") in words) == nothing


def test_the_address_says_what_is_seen(engine: AppEngine) -> None:
    tab = tab_of(engine)
    page = shown(tab, cluster="cgc", task="NER", module="up_proj")
    assert page[tab.module]["value"] == "up_proj"
    assert page[tab.changes.prompt] == prompt_of("NER")
    page = shown(tab, cluster="nothing", task="nothing", module="nothing", view="nothing")
    assert page[tab.cluster]["value"] == engine.clusters()[0]
    assert page[tab.module]["value"] == ""
    assert page[tab.view]["value"] == "task"


def test_coming_back_to_the_tab_keeps_what_was_changed_there(engine: AppEngine) -> None:
    tab = tab_of(engine)
    again = tab.show(visitor(cluster="moe"), "cgc", "NER", "", "task")
    assert set(again) == {tab.cluster}
    assert "value" not in again[tab.cluster]


def test_a_task_of_the_cluster_before_changes_nothing(engine: AppEngine) -> None:
    tab = tab_of(engine)
    assert tab.pick_module("single", "NER", "", visitor()) == gr.skip()
    assert tab.pick(visitor(), "gone", "NER", "", "task") == gr.skip()
    other = tab.pick(visitor(), "single", "NER", "", "task")
    assert other[tab.task]["value"] == LABELLED


def test_nothing_is_seen_until_the_model_is_loaded(engine: AppEngine) -> None:
    waiting = AppEngine(engine.folder, tiny_models())
    tab = tab_of(waiting)
    page = shown(tab)
    assert text("gates_loading", "zh") in page[tab.notice]["value"]
    assert page[tab.timer].active
    assert tab.watch(visitor(), None, None, None, None) == gr.skip()
    waiting.start()
    assert waiting.wait(60)
    page = tab.watch(visitor(), None, None, None, None)
    assert page[tab.body]["visible"]
    assert not page[tab.timer].active


def test_without_an_adapter_or_a_model_the_tab_says_so(tmp_path: Path, engine: AppEngine) -> None:
    tab = tab_of(loaded_engine(tmp_path))
    assert text("gates_none", "zh") in shown(tab)[tab.notice]["value"]

    def fail(progress: Any) -> Any:
        raise OSError("no such file")

    broken = AppEngine(engine.folder, Models(fail))
    broken.start()
    assert broken.wait(60)
    tab = tab_of(broken)
    assert text("gates_never", "zh") in shown(tab)[tab.notice]["value"]


# Events of the what-if ------------------------------------------------------------------------


def computed(
    tab: Gates, begun: dict[Any, Any], *factors: float, task: str = FREE, prompt: str | None = None
) -> Iterator[dict[Any, Any]]:
    padded = [*factors, *[1.0] * (SLIDERS - len(factors))]
    words = prompt_of(task) if prompt is None else prompt
    ticket = begun[tab.ticket]
    return tab.changes.compute(visitor(), ticket, "cgc", task, words, True, *padded)


def test_the_newest_sliders_alone_are_answered(engine: AppEngine) -> None:
    tab = tab_of(engine)
    old = computed(tab, tab.changes.begin(visitor(), *[1.0] * SLIDERS), 0)
    next(old)
    newer = tab.changes.begin(visitor(), *[1.0] * SLIDERS)
    assert list(old) == []
    *_, last = computed(tab, newer, 0)
    assert last[tab.changes.pending] == ""
    assert last[tab.changes.effect_map]["visible"]


def test_another_task_gives_up_what_was_asked(engine: AppEngine) -> None:
    tab = tab_of(engine)
    old = computed(tab, tab.changes.begin(visitor(), *[1.0] * SLIDERS), 0)
    next(old)
    tab.pick(visitor(), "cgc", "NER", "", "task")
    assert list(old) == []


def test_knocking_out_twice_restores(engine: AppEngine) -> None:
    tab = tab_of(engine)
    changes = tab.changes
    pressed: Any = SimpleNamespace(target=changes.slots[2][2])
    factors = [1.0] * SLIDERS
    out = changes.knock_out(pressed, visitor(), *factors)
    assert out[changes.slots[2][1]] == 0
    assert out[changes.slots[2][2]] == text("gates_restore", "zh")
    factors[2] = 0
    back = changes.knock_out(pressed, visitor(), *factors)
    assert back[changes.slots[2][1]] == 1
    assert back[changes.slots[2][2]] == text("gates_knock", "zh")


def test_a_button_that_is_none_of_the_sliders_knocks_nothing_out(engine: AppEngine) -> None:
    changes = tab_of(engine).changes
    for target in (changes.run, None):
        pressed: Any = SimpleNamespace(target=target)
        assert changes.knock_out(pressed, visitor(), *[1.0] * SLIDERS) == gr.skip()


def test_a_sample_that_the_task_does_not_have_is_passed_over(engine: AppEngine) -> None:
    changes = tab_of(engine).changes
    ones = [1.0] * SLIDERS
    assert changes.choose_sample(visitor(), "cgc", FREE, 99, *ones) == gr.skip()
    chosen = changes.choose_sample(visitor(), "cgc", FREE, 0, *ones)
    assert chosen[changes.prompt] == prompt_of(FREE)


@pytest.mark.parametrize(
    ("prompt", "words"), [(" ", "gates_empty_prompt"), ("好" * 7000, "gates_refused")]
)
def test_what_cannot_be_computed_is_said(engine: AppEngine, prompt: str, words: str) -> None:
    tab = tab_of(engine)
    begun = tab.changes.begin(visitor(), *[1.0] * SLIDERS)
    *_, last = computed(tab, begun, 0, prompt=prompt)
    assert text(words, "zh") in last[tab.changes.outcome]
    assert last[tab.changes.pending] == ""


def test_a_gate_that_is_not_the_usual_kind_is_told_in_a_line(engine: AppEngine) -> None:
    for cluster, key in (
        ("lora", "gates_unlearned none"),
        ("uniform", "gates_unlearned uniform"),
        ("moe", "gates_one_scope"),
    ):
        gates: AdapterGates = engine.all_gates(cluster)
        assert escape(text(key, "en")) in gates_render.shares(gates, "NER", "en")
