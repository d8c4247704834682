"""A plan to train: its command says what it says, and its budget is what is trained."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from cgclora import __main__ as command_line
from cgclora.adapter import Adapter
from cgclora.cli import train
from cgclora.config import ConfigError
from cgclora.storage.layer_shapes import WEIGHTS_FILE, layer_kinds
from cgclora.training.settings import TrainingSettings
from evals import __main__ as judge
from evals.experiments.training_plan import (
    Addition,
    Plan,
    budget,
    budgets,
    command,
    kinds_of_model,
    trainable,
)
from evals.methods import Sizes
from tests.helpers.tiny import make_backbone

TASKS = ("NER", "Summary", "Couplet")
SIZES = Sizes(
    common=3, specific=2, expert_rank=4, lora_rank=6, alpha=5.0, moe_experts=4, moe_rank=12
)


def plan(method: str = "CGC-LoRA", **changes: object) -> Plan:
    return dataclasses.replace(Plan(method, TASKS, SIZES), **changes)  # type: ignore[arg-type]


SETTINGS = TrainingSettings(
    epochs=0.5,
    batch_size=4,
    accumulation=3,
    learning_rate=2e-3,
    gate_learning_rate=6e-3,
    weighting="record",
    sampling="temperature",
    temperature=3.0,
    max_length=64,
    records_per_task=7,
    records_of={"NER": 3},
    dev_records_per_task=5,
    evaluations=2,
    patience=1,
    gradient_checkpointing=True,
    seed=9,
)


@pytest.mark.parametrize("method", trainable())
@pytest.mark.parametrize("modules", [None, ("q_proj", "up_proj")])
def test_the_command_trains_the_adapter_of_the_plan(
    method: str, modules: tuple[str, ...] | None
) -> None:
    wanted = plan(method, target_modules=modules)
    given = command(wanted, TrainingSettings(), "t.jsonl", "d.jsonl", "run")
    assert given[:2] == ("-m", "cgclora")
    options = command_line._parser().parse_args(given[2:])
    assert train._config(options, TASKS) == wanted.config()
    assert (options.data, options.dev, options.run) == (
        "t.jsonl",
        "d.jsonl",
        Path("run"),
    )
    assert options.half


@pytest.mark.parametrize("settings", [SETTINGS, TrainingSettings()])
def test_the_command_has_the_settings(settings: TrainingSettings) -> None:
    given = command(plan(half=False), settings, "t", "d", "r")
    options = command_line._parser().parse_args(given[2:])
    options.records_of = dict(options.records_of)
    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    assert TrainingSettings(**{name: getattr(options, name) for name in names}) == settings
    assert not options.half


@pytest.mark.parametrize("settings", [SETTINGS, TrainingSettings()])
def test_the_command_of_an_addition_trains_and_measures(settings: TrainingSettings) -> None:
    settings = dataclasses.replace(settings, records_of={})
    addition = Addition(Path("base"), plan().config(), ("MRC",))
    given = command(addition, settings, "t", "d", "r")
    assert given[:3] == ("-m", "evals", "add-task")
    options = judge._parser().parse_args(given[2:])
    assert (options.adapter, options.data, options.dev, options.run) == (
        *(Path("base"), "t", "d"),
        Path("r"),
    )
    options.records_of = dict(options.records_of)
    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    assert TrainingSettings(**{name: getattr(options, name) for name in names}) == settings


@pytest.mark.parametrize("half", [True, False])
def test_the_budget_of_an_addition_is_what_is_added(half: bool, tmp_path: Path) -> None:
    backbone = make_backbone()
    config = plan(target_modules=("q_proj", "up_proj")).config()
    adapter = Adapter.attach(backbone, config)
    dtype = torch.bfloat16 if half else None
    adapter.save(tmp_path / "base", dtype=dtype)
    addition = Addition(tmp_path / "base", config, ("MRC", "Joke"))
    more = Adapter.attach(backbone, addition.config(), name="more")
    more.save(tmp_path / "more", dtype=dtype)
    before, added, after = addition.budgets()
    sizes = [
        sum(tensor.nbytes for tensor in load_tensors(tmp_path / name / WEIGHTS_FILE).values())
        for name in ("base", "more")
    ]
    assert (before.file_bytes, added.file_bytes, after.file_bytes) == (
        *(sizes[0], sizes[1] - sizes[0]),
        sizes[1],
    )
    assert (before.parameters, after.parameters) == (
        adapter.num_parameters(),
        more.num_parameters(),
    )
    assert (before.total_rank, added.total_rank, after.total_rank) == (
        config.total_rank,
        2 * config.specific * config.expert_rank,
        addition.config().total_rank,
    )


@pytest.mark.parametrize("method", trainable())
def test_the_budget_is_what_is_trained_and_saved(method: str, tmp_path: Path) -> None:
    backbone = make_backbone()
    wanted = plan(method)
    adapter = Adapter.attach(backbone, wanted.config())
    adapter.save(tmp_path / "adapter")
    for kinds in (kinds_of_model(backbone.model), layer_kinds(tmp_path / "adapter")):
        found = budget(wanted, kinds)
        assert found.parameters == adapter.num_parameters()
        assert (found.total_rank, found.active_rank) == (
            wanted.config().total_rank,
            wanted.config().active_rank,
        )
    whole = budget(dataclasses.replace(wanted, half=False), kinds)
    stored = load_file(tmp_path / "adapter" / "adapter.safetensors")
    assert whole.file_bytes == sum(tensor.nbytes for tensor in stored.values())
    assert found.file_bytes == whole.file_bytes / 2


def test_a_budget_counts_the_chosen_layers_alone() -> None:
    backbone = make_backbone()
    kinds = kinds_of_model(backbone.model)
    wanted = plan(target_modules=("q_proj",))
    adapter = Adapter.attach(backbone, wanted.config())
    assert budget(wanted, kinds).parameters == adapter.num_parameters()


def test_without_the_layers_ranks_are_known_all_the_same() -> None:
    found = budget(plan(), None)
    assert (found.parameters, found.file_bytes) == (None, None)
    assert (found.total_rank, found.active_rank) == ((3 + 2 * 3) * 4, 5 * 4)


def test_sizes_that_no_adapter_can_have_are_said_and_do_not_hide_the_others() -> None:
    odd = dataclasses.replace(SIZES, moe_rank=13)
    found = {one.method: one for one in budgets(plan(sizes=odd), None)}
    assert [*found] == [*trainable()]
    assert "13 does not divide" in found["MOE-LoRA"].problem
    assert not found["CGC-LoRA"].problem


@pytest.mark.parametrize(("experts", "rank"), [(4, 36), (10, 40), (5, 35), (64, 64)])
def test_the_rank_of_moe_lora_fits_its_experts(experts: int, rank: int) -> None:
    sizes = dataclasses.replace(SIZES, moe_experts=experts, moe_rank=0)  # CGC-LoRA has 36
    assert plan("MOE-LoRA", sizes=sizes).config().total_rank == rank


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="'LoRAHub' is not one of"):
        plan("LoRAHub").config()
