"""The registry of methods: what a method is called; one from outside is found everywhere."""

import dataclasses
from collections.abc import Iterator

import gradio as gr
import pytest

from cgclora.config import AdapterConfig, ConfigError
from cgclora.layer import TaskGate
from evals import methods
from evals.experiments.recipe import read_recipe
from evals.experiments.training_plan import Plan, budgets
from evals.figures import charts, palette
from evals.leaderboard.board import boards
from evals.methods import (
    BACKBONE,
    C_POLY,
    CGC_LORA,
    FAMILIES,
    LORAHUB,
    METHODS,
    MTL_LORA,
    SINGLE,
    Method,
    Sizes,
    compared,
    description,
    family,
    method_of,
    register,
)
from tests.helpers.run_dirs import around, write_run
from ui.shell import Shell
from ui.tabs.train.layout import TrainForm


@pytest.mark.parametrize(
    ("config", "manifest", "method"),
    [
        (None, {}, "Backbone"),
        (AdapterConfig(("a", "b")), {"method": "cgc-lora"}, "CGC-LoRA"),
        (AdapterConfig(("a", "b")), {}, "CGC-LoRA"),
        (AdapterConfig(("a", "b"), gate="uniform"), {"method": "cgc-lora"}, "CGC-LoRA w/o gate"),
        (AdapterConfig(("a", "b"), common=0), {"method": "cgc-lora"}, "CGC-LoRA w/o common"),
        (AdapterConfig(("a", "b"), specific=0), {"method": "cgc-lora"}, "CGC-LoRA w/o specific"),
        (AdapterConfig(("a", "b")), {"method": "My own"}, "My own"),
        (AdapterConfig.lora(("a", "b"), 4), {"method": "lora"}, "LoRA (Full)"),
        (AdapterConfig.lora(("a",), 4), {"method": "lora"}, "LoRA (Single)"),
        (AdapterConfig.moe_lora(("a", "b"), 4, 8), {}, "MOE-LoRA"),
        (AdapterConfig.mtl_lora(("a", "b"), 1, 8), {}, "MTL-LoRA"),
        (AdapterConfig.mtl_lora(("a", "b")), {"method": "mtl-lora"}, "MTL-LoRA"),
        (AdapterConfig.c_poly(("a", "b")), {}, "C-Poly"),
    ],
)
def test_a_method_is_called_as_on_the_leaderboard(config, manifest, method):
    assert method_of(config, manifest) == method


@pytest.fixture
def mine() -> Iterator[Method]:
    method = Method(
        "Mine",
        "lora",
        "#123456",
        "star",
        "我的方法。",
        "My method.",
        config=lambda tasks, sizes: AdapterConfig.lora(tasks, 2 * sizes.lora_rank),
        sizes=("lora_rank",),
        is_main=True,
    )
    yield register(method)
    del methods._METHODS["Mine"]


def test_a_method_from_outside_is_in_recipes_plans_boards_and_forms(mine, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "r"\nmethods = ["Mine"]\n[clusters]\ngeneral = ["NER"]\n')
    assert read_recipe(recipe).config("Mine", ("NER",)).total_rank == 16
    assert compared()[-1] == "Mine"
    (*_, budget) = budgets(Plan("Mine", ("NER",), Sizes(lora_rank=3)), None)
    assert (budget.method, budget.total_rank) == ("Mine", 6)

    write_run(tmp_path / "run", {"NER": around(0.6)}, method="Mine")
    (board,) = boards(tmp_path).boards
    (drawn,) = charts.overall(board).data
    assert (drawn.marker.color, drawn.marker.symbol[0]) == ("#123456", "star")
    assert (palette.colour("Mine"), family("Mine")) == ("#123456", "lora")
    assert description("Mine", "zh") == "我的方法。"

    with gr.Blocks() as page:
        form = TrainForm(Shell(page).bilingual)
    assert ("Mine", "Mine") in form.settings["method"].choices


def test_an_unregistered_recipe_method_is_refused_with_the_known_ones(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "r"\nmethods = ["Mine"]\n[clusters]\ngeneral = ["NER"]\n')
    with pytest.raises(ConfigError, match=r"not known; there are .*CGC-LoRA"):
        read_recipe(recipe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "CGC-LoRA"}, "already"),
        ({"name": " "}, "needs a name"),
        ({"family": "none"}, "is not one of cgc-lora"),
        ({"colour": "red"}, "not of the form"),
        ({"config": None}, "needs a config"),
        ({"adapters": "none"}, "takes no config"),
    ],
)
def test_what_is_no_method_is_refused(mine, changes, message):
    with pytest.raises(ValueError, match=message):
        register(dataclasses.replace(mine, **changes))


def test_every_method_has_a_family_and_two_descriptions():
    assert {family(name) for name in METHODS} == {*FAMILIES} - {"other"}
    assert family("CGC-LoRA w/o gate") == "ablation"
    assert family("something new") == "other"
    assert all(description(name, lang) for name in METHODS for lang in ("zh", "en"))
    assert description("something new", "en") == ""


def test_peers_cost_what_cgc_lora_does_and_start_as_strong():
    tasks, shapes = tuple(map(str, range(16))), [(640, 640)] * 7
    cgc, mtl, poly = (METHODS[name].config(tasks, Sizes()) for name in (CGC_LORA, MTL_LORA, C_POLY))
    costs = [config.trainable_parameters(shapes) for config in (cgc, mtl, poly)]
    assert max(costs) < 1.1 * min(costs)
    assert (poly.total_rank, poly.active_rank) == (cgc.total_rank, cgc.active_rank)
    sums = [TaskGate(config, 1)()[0, 0].detach().sum() for config in (cgc, poly)]
    strength = [float(config.scale * one) for config, one in zip((cgc, poly), sums, strict=True)]
    assert strength[0] == pytest.approx(strength[1])
    assert not {MTL_LORA, C_POLY} & {*compared()}


def test_a_method_shares_where_an_adapter_for_all_tasks_has_common_experts():
    tasks = ("a", "b", "c", "d")
    of_all = [one for one in METHODS.values() if one.adapters == "one for all"]
    assert {one.name for one in of_all if one.shares} == {
        one.name for one in of_all if one.config(tasks, Sizes()).common
    }
    assert not METHODS[SINGLE].shares
    assert not METHODS[BACKBONE].shares
    assert METHODS[LORAHUB].shares
