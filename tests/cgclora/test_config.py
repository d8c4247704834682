"""The config: counts, scales, methods as values, refusals, and its saved form."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgclora.config import BEFORE_TEMPLATE, FORMAT, AdapterConfig, ConfigError

ABC = ("a", "b", "c")
LETTERS = 'ab 甲\U0001f600"\\\n\u2028'


@st.composite
def configs(draw) -> AdapterConfig:
    """Any valid config."""
    common = draw(st.integers(0, 5))
    return AdapterConfig(
        tasks=tuple(
            draw(
                st.lists(
                    st.text(LETTERS, min_size=1, max_size=5).filter(str.strip),
                    min_size=1,
                    max_size=5,
                    unique=True,
                )
            )
        ),
        common=common,
        specific=draw(st.integers(0 if common else 1, 3)),
        expert_rank=draw(st.integers(1, 8)),
        gate=draw(st.sampled_from(["task", "uniform", "none"])),
        gate_scope=draw(st.sampled_from(["layer", "model"])),
        embedding_size=draw(st.integers(1, 64)),
        alpha=draw(st.floats(0.1, 100)),
        scale_rule=draw(st.sampled_from(["expert", "active", "total", "sqrt"])),
        dropout=draw(st.floats(0, 0.9)),
        target_modules=draw(st.none() | st.just(("q_proj", "v_proj"))),
        separator=draw(st.text(LETTERS, max_size=3)),
        template=draw(st.none() | st.text(LETTERS, min_size=1)),
        template_options=draw(st.dictionaries(st.text(LETTERS), st.booleans() | st.integers())),
        system=draw(st.none() | st.text(LETTERS, min_size=1)),
    )


@pytest.mark.parametrize(
    ("tasks", "common", "specific", "rank", "experts", "active", "total"),
    [
        (16, 4, 1, 2, 20, 10, 40),
        (2, 0, 3, 1, 6, 3, 6),
        (5, 8, 0, 2, 8, 16, 16),
        (1, 1, 1, 4, 2, 8, 8),
    ],
)
def test_ranks_are_those_of_the_formulas(tasks, common, specific, rank, experts, active, total):
    config = AdapterConfig(tuple(map(str, range(tasks))), common, specific, rank)
    assert (config.num_experts, config.active_rank, config.total_rank) == (experts, active, total)


def test_a_task_may_use_the_common_experts_and_its_own():
    config = AdapterConfig(("a", "b"), common=1, specific=2)
    assert config.access() == [
        [True, True, True, False, False],
        [True, False, False, True, True],
    ]
    assert config.expert_names() == ["common 1", "a 1", "a 2", "b 1", "b 2"]


@given(configs())
@settings(max_examples=25, deadline=None)
def test_every_specific_expert_has_one_task(config):
    columns = list(zip(*config.access(), strict=True))
    assert len(columns) == len(config.expert_names()) == config.num_experts
    assert all(all(column) for column in columns[: config.common])
    assert all(sum(column) == 1 for column in columns[config.common :])
    assert all(sum(row) == config.experts_per_task for row in config.access())


@pytest.mark.parametrize(
    ("rule", "scale"),
    [
        ("expert", 12 / 2),
        ("active", 12 / (4 * 2)),
        ("total", 12 / (6 * 2)),
        ("sqrt", 12 / math.sqrt(4 * 2)),
    ],
)
def test_scale_follows_its_rule(rule, scale):
    config = AdapterConfig(ABC, common=3, specific=1, expert_rank=2, alpha=12, scale_rule=rule)
    assert config.scale == pytest.approx(scale)


def test_uniform_experts_are_scaled_like_a_lora_of_the_active_rank():
    config = AdapterConfig(ABC, common=3, specific=1, expert_rank=2, alpha=12, gate="uniform")
    lora = AdapterConfig.lora(ABC, config.active_rank, alpha=12)
    assert config.scale / config.experts_per_task == pytest.approx(lora.scale)


def test_trained_values_counted_by_hand():
    shapes = [(10, 20), (20, 5)]
    experts = 6 * 2 * (10 + 20) + 6 * 2 * (20 + 5)  # E = 3 + 3 * 1, k = 2
    settings = {"tasks": ABC, "common": 3, "specific": 1, "expert_rank": 2, "embedding_size": 7}
    for changes, gate in (
        ({}, 3 * 7 + 2 * 6 * 7),
        ({"gate_scope": "model"}, 3 * 7 + 6 * 7),
        ({"gate": "uniform"}, 0),
        ({"gate": "none"}, 0),
    ):
        config = AdapterConfig(**settings, **changes)
        assert config.trainable_parameters(iter(shapes)) == experts + gate


def test_lora_is_one_expert_for_all_tasks_without_gate():
    lora = AdapterConfig.lora(ABC, rank=8)
    assert lora.access() == [[True], [True], [True]]
    assert (lora.gate, lora.total_rank, lora.active_rank, lora.scale) == ("none", 8, 8, 2)
    assert AdapterConfig.lora(ABC, 8, alpha=4).scale == 0.5


def test_moe_lora_has_its_published_settings():
    config = AdapterConfig.moe_lora(ABC)
    assert (config.num_experts, config.expert_rank, config.total_rank) == (8, 2, 16)
    assert config.scale == 32 / 16
    assert (config.gate, config.gate_scope, config.embedding_size) == ("task", "model", 64)
    assert config.dropout == 0.1


@pytest.mark.parametrize(("experts", "rank"), [(3, 16), (0, 16), (32, 16)])
def test_moe_lora_refuses_a_rank_that_does_not_divide(experts, rank):
    with pytest.raises(ConfigError, match=str(experts)):
        AdapterConfig.moe_lora(ABC, experts=experts, rank=rank)


@given(configs())
@settings(max_examples=25, deadline=None)
def test_matched_lora_has_the_rank_that_it_matches(config):
    for to in ("total", "active"):
        lora = config.matched_lora(to)
        assert lora.total_rank == lora.active_rank == getattr(config, f"{to}_rank")
        for kept in ("tasks", "dropout", "target_modules", "separator"):
            assert getattr(lora, kept) == getattr(config, kept)


def test_a_task_has_its_place_and_an_unknown_one_is_named():
    config = AdapterConfig(ABC)
    assert [config.task_index(task) for task in ABC] == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"'d'.*a, b, c"):
        config.task_index("d")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tasks", ()),
        ("tasks", ("a", "")),
        ("tasks", ("a", " ")),
        ("tasks", ("a", 3)),
        ("tasks", ("a", "a")),
        ("tasks", "NER"),
        ("common", -1),
        ("common", 1.0),
        ("common", True),
        ("specific", -1),
        ("specific", None),
        ("expert_rank", 0),
        ("expert_rank", "2"),
        ("embedding_size", 0),
        ("gate", "softmax"),
        ("gate", ["task"]),
        ("gate_scope", "token"),
        ("scale_rule", ""),
        ("alpha", 0.0),
        ("alpha", -1.0),
        ("alpha", math.inf),
        ("alpha", math.nan),
        ("alpha", "16"),
        ("alpha", True),
        ("dropout", -0.1),
        ("dropout", 1.0),
        ("dropout", math.nan),
        ("dropout", None),
        ("target_modules", ()),
        ("target_modules", "q_proj"),
        ("target_modules", (3,)),
        ("separator", None),
    ],
)
def test_an_impossible_value_is_refused_by_its_name(field, value):
    with pytest.raises(ConfigError, match=field) as caught:
        AdapterConfig(**{"tasks": ABC, field: value})
    assert isinstance(caught.value, ValueError)


def test_a_task_without_any_expert_is_refused():
    with pytest.raises(ConfigError, match="common and specific"):
        AdapterConfig(ABC, common=0, specific=0)


@given(configs())
@settings(max_examples=25, deadline=None)
def test_a_config_survives_json(config):
    saved = json.loads(json.dumps(config.to_dict(), ensure_ascii=False))
    new = {"template", "template_options", "system", "shared_A"}
    is_new = any(getattr(config, name) for name in new)
    assert saved["format"] == (FORMAT if is_new else BEFORE_TEMPLATE)
    assert is_new or saved.keys().isdisjoint(new)
    assert AdapterConfig.from_dict(saved) == config


def test_a_newer_format_is_refused():
    saved = AdapterConfig(ABC).to_dict()
    for written in (FORMAT + 1, "1", None):
        with pytest.raises(ConfigError, match="format"):
            AdapterConfig.from_dict(saved | {"format": written})


def test_unknown_keys_are_named_in_a_warning():
    config = AdapterConfig(ABC)
    with pytest.warns(UserWarning, match="colour"):
        assert AdapterConfig.from_dict(config.to_dict() | {"colour": "blue"}) == config


def test_a_saved_config_with_a_wrong_type_or_without_tasks_is_refused():
    saved = AdapterConfig(ABC).to_dict()
    for broken in (saved | {"tasks": None}, saved | {"alpha": "16"}, {"format": FORMAT}):
        with pytest.raises(ConfigError, match=r"tasks|alpha|type"):
            AdapterConfig.from_dict(broken)


def test_fields_left_out_of_a_saved_config_take_their_defaults():
    assert AdapterConfig.from_dict({"format": FORMAT, "tasks": list(ABC)}) == AdapterConfig(ABC)


def test_a_config_cannot_be_changed_behind_an_adapters_back():
    config = AdapterConfig(list(ABC), target_modules=["q_proj"])
    assert (config.tasks, config.target_modules) == (ABC, ("q_proj",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.common = 2
