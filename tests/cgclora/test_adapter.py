"""Adapters on whole backbones, against merged float64 models and PEFT's own LoRA."""

import hashlib
import json
import pickle
import shutil
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from cgclora.adapter import Adapter, expert_layers
from cgclora.config import FORMAT, AdapterConfig, ConfigError
from cgclora.inference.request import Request
from cgclora.layer import ExpertLinear
from cgclora.models.gates import read_gates
from cgclora.storage import adapter_dir, atomic_io
from cgclora.storage.adapter_dir import (
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    AdapterError,
    annotate,
    read_manifest,
)
from tests.helpers.reference import (
    METHODS,
    TASKS,
    Operations,
    adapter_gates,
    allowed_experts,
    experts,
    logits,
    merged,
    scatter,
    token_ids,
)
from tests.helpers.tiny import ARCHITECTURES, make_backbone, make_model

ALL_METHODS = pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)
ALL_ARCHITECTURES = pytest.mark.parametrize("architecture", ARCHITECTURES)
CGC = METHODS["CGC-LoRA"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def attach(model: PreTrainedModel, config: AdapterConfig = CGC, **options: object) -> Adapter:
    """An adapter that changes what the backbone says."""
    return scatter(Adapter.attach(model, config, **options))


def routed(adapter: Adapter, tasks: object, ids: Tensor, **options: object) -> Tensor:
    """Logits in float64 with a task a row."""
    with adapter.route(tasks, **options):
        return logits(adapter.model, ids)


def structure(model: nn.Module) -> list[tuple[str, type]]:
    """Every module's path and class, in order."""
    return [(path, type(module)) for path, module in model.named_modules()]


def digest(parameters: dict[str, Tensor]) -> dict[str, str]:
    """A hash of each tensor's bytes."""
    return {
        name: hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
        for name, value in parameters.items()
    }


def frozen_parameters(adapter: Adapter) -> dict[str, nn.Parameter]:
    """Everything in the backbone that is not the adapter's."""
    own = {id(parameter) for _, parameter in adapter.named_parameters()}
    return {name: value for name, value in adapter.model.named_parameters() if id(value) not in own}


# Outputs ----------------------------------------------------------------------------------


@ALL_ARCHITECTURES
def test_each_row_is_answered_as_by_a_backbone_with_its_task_merged_in(architecture):
    bare = make_model(architecture)
    adapter = attach(deepcopy(bare))
    tasks = ["summary", "names", "mood", "names"]
    ids = token_ids(len(tasks))
    found = routed(adapter, tasks, ids)
    for row, task in enumerate(tasks):
        expected = logits(merged(bare, adapter, task), ids[row : row + 1])
        torch.testing.assert_close(found[row : row + 1], expected, **CLOSE)
        assert not torch.allclose(expected, logits(bare, ids[row : row + 1]), **CLOSE)


@ALL_METHODS
def test_every_method_is_answered_as_by_its_merged_backbone(config):
    bare = make_model()
    adapter = attach(deepcopy(bare), config)
    ids = token_ids(3)
    found = routed(adapter, TASKS, ids)
    for row, task in enumerate(TASKS):
        expected = logits(merged(bare, adapter, task), ids[row : row + 1])
        torch.testing.assert_close(found[row : row + 1], expected, **CLOSE)


@given(rows=st.lists(st.tuples(st.sampled_from(TASKS), st.integers(0, 20)), min_size=1, max_size=5))
@settings(max_examples=10, deadline=None)
def test_a_row_does_not_depend_on_the_rest_of_its_batch_nor_on_its_place(rows):
    tasks, starts = zip(*rows, strict=True)
    ids = torch.stack([token_ids(1)[0] + start for start in starts])
    adapter = attach(make_model())
    together = routed(adapter, tasks, ids)
    backwards = routed(adapter, tasks[::-1], ids.flip(0))
    torch.testing.assert_close(backwards.flip(0), together, **CLOSE)
    for row, task in enumerate(tasks):
        alone = routed(adapter, [task], ids[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, **CLOSE)


def test_tasks_may_be_named_or_given_as_ids():
    adapter = attach(make_model())
    ids = token_ids(2)
    named = routed(adapter, ["summary", "names"], ids)
    assert torch.equal(routed(adapter, torch.tensor([2, 0]), ids), named)


@ALL_ARCHITECTURES
def test_rows_without_a_task_equal_the_bare_backbone_bit_for_bit(architecture):
    model = make_model(architecture)
    ids = token_ids(3)
    bare = logits(model, ids)
    adapter = attach(model)
    found = routed(adapter, ["names", None, None], ids)
    assert torch.equal(found[1:], bare[1:])
    assert not torch.allclose(found[0], bare[0], **CLOSE)
    assert torch.equal(logits(model, ids), bare)


@ALL_ARCHITECTURES
def test_a_new_adapter_changes_nothing(architecture):
    model = make_model(architecture)
    ids = token_ids(3)
    bare = logits(model, ids)
    adapter = Adapter.attach(model, CGC)
    assert torch.equal(routed(adapter, TASKS, ids), bare)


def test_autocast_to_bf16_is_close_to_fp32():
    adapter = attach(make_model())
    ids = token_ids(3)
    exact = routed(adapter, TASKS, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = routed(adapter, TASKS, ids)
    assert not torch.equal(found, exact)
    assert (found - exact).norm() < 0.05 * exact.norm()


def peft_lora(model: PreTrainedModel, paths: list[str], rank: int, alpha: float) -> nn.Module:
    """PEFT's LoRA on the given layers, in eval mode."""
    import peft

    return peft.get_peft_model(
        model, peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=paths, lora_dropout=0.0)
    ).eval()


@ALL_ARCHITECTURES
def test_lora_equals_pefts_lora(architecture):
    model = make_model(architecture)
    config = AdapterConfig.lora(TASKS, rank=3, alpha=5.0)
    adapter = attach(deepcopy(model), config)
    theirs = peft_lora(model, list(adapter.layers), 3, 5.0)
    for path, layer in adapter.layers.items():
        lora = theirs.base_model.model.get_submodule(path)
        lora.lora_A["default"].weight.data.copy_(layer.expert_A["default"])
        lora.lora_B["default"].weight.data.copy_(layer.expert_B["default"])
    ids = token_ids(3)
    torch.testing.assert_close(routed(adapter, TASKS, ids), logits(theirs, ids), **CLOSE)
    assert adapter.num_parameters() == theirs.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("task", TASKS)
def test_each_task_equals_a_peft_lora_of_the_active_rank(task):
    model = make_model()
    adapter = attach(deepcopy(model))
    theirs = peft_lora(model, list(adapter.layers), CGC.active_rank, CGC.active_rank)
    allowed = allowed_experts(CGC, TASKS.index(task))
    for row, (path, layer) in enumerate(adapter.layers.items()):
        gates = adapter_gates(adapter, row, TASKS.index(task))
        pairs = list(experts(layer.expert_A["default"], layer.expert_B["default"], 2))
        lora = theirs.base_model.model.get_submodule(path)
        A = torch.cat([pairs[e][0] for e in allowed])
        B = torch.cat([CGC.scale * gates[e] * pairs[e][1] for e in allowed], dim=1)
        lora.lora_A["default"].weight.data.copy_(A)
        lora.lora_B["default"].weight.data.copy_(B)
    ids = token_ids(2)
    torch.testing.assert_close(routed(adapter, [task] * 2, ids), logits(theirs, ids), **CLOSE)


# Training ---------------------------------------------------------------------------------


def gradients(adapter: Adapter, ids: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """The adapter's gradients of a language model loss in training mode."""
    adapter.model.train()
    adapter.model.zero_grad()
    torch.manual_seed(seed)
    with adapter.route(TASKS):
        adapter.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in adapter.named_parameters()}


@ALL_ARCHITECTURES
def test_gradient_checkpointing_gives_the_same_gradients(architecture):
    adapter = attach(make_model(architecture), replace(CGC, dropout=0.2))
    runs = []
    next(iter(adapter.layers.values())).register_forward_pre_hook(lambda *_: runs.append(1))
    ids = token_ids(3)
    plain = gradients(adapter, ids)
    adapter.model.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed = gradients(adapter, ids)
    assert len(runs) == 3  # once, then once more in the backward pass
    for name, gradient in plain.items():
        assert gradient.any(), name
        torch.testing.assert_close(checkpointed[name], gradient)


@ALL_METHODS
def test_a_training_step_changes_the_adapter_and_no_frozen_bit(config):
    model = make_model().requires_grad_(True)
    adapter = attach(model, config)
    frozen, own = frozen_parameters(adapter), dict(adapter.named_parameters())
    before, own_before = digest(frozen), digest(own)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(2):
        gradients(adapter, token_ids(3))
        optimizer.step()
    assert all(parameter.grad is None for parameter in frozen.values())
    assert digest(frozen) == before
    after = digest(own)
    assert all(after[name] != own_before[name] for name in own)


def test_a_task_sends_no_gradient_to_other_tasks_experts():
    adapter = attach(make_model())
    ids = token_ids(2)
    with adapter.route(["mood", "mood"]):
        adapter.model(input_ids=ids, labels=ids).loss.backward()
    used = allowed_experts(CGC, TASKS.index("mood"))
    for layer in adapter.layers.values():
        touched = layer.expert_B["default"].grad.unflatten(1, (-1, 2)).abs().sum(dim=(0, 2)) > 0
        assert touched.nonzero().flatten().tolist() == used


@pytest.mark.parametrize("ids", [[7], [3, 11], [5, 5, 0]])
def test_few_rows_among_many_tasks_learn_as_by_way_of_all_experts(ids, monkeypatch):
    config = AdapterConfig([f"task {number}" for number in range(12)], common=2, specific=2)
    tokens = token_ids(len(ids))

    def learned(few: bool) -> tuple[Tensor, dict[str, Tensor]]:
        adapter = attach(make_model().double(), config)
        monkeypatch.setattr(Adapter, "selects_experts", lambda self, rows, few=few: few)
        with adapter.route(torch.tensor(ids)):
            loss = adapter.model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in adapter.named_parameters()}

    loss, found = learned(few=True)
    expected, gradients_of_all = learned(few=False)
    torch.testing.assert_close(loss, expected)
    for name, gradient in gradients_of_all.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_experts_of_few_rows_are_picked_where_they_are_at_most_half():
    adapter = attach(make_model(), AdapterConfig([f"task {n}" for n in range(12)], specific=2))
    for rows, ranks in ((5, 2 * 14), (6, 2 * 28)):  # 4 + 2 a row, of 28 experts of rank 2
        route = adapter.plan(torch.arange(rows))
        assert {len(experts[0].A) for experts in route.experts.values()} == {ranks}


@pytest.mark.parametrize("training", [True, False])
def test_an_adapter_takes_over_the_mode_that_its_backbone_is_in(training):
    model = make_model().train(training)
    adapter = Adapter.attach(model, replace(CGC, dropout=0.5))
    assert {layer.training for layer in adapter.layers.values()} == {training}
    scatter(adapter)
    ids = token_ids(3)
    same = torch.equal(routed(adapter, TASKS, ids), routed(adapter, TASKS, ids))
    assert same != training


# Cost -------------------------------------------------------------------------------------


def test_a_forward_pass_adds_two_products_a_layer_and_no_wait_for_a_value():
    model = make_model()
    ids = token_ids(3)
    with Operations() as bare:
        logits(model, ids)
    totals = set()
    for common in (1, 40):
        adapter = attach(model, replace(CGC, common=common))
        tasks = torch.tensor([2, 0, 1])
        route = adapter.plan(tasks)
        with Operations() as operations:
            routed(adapter, route, ids)
        assert operations.products() == bare.products() + 2 * len(adapter.layers)
        totals.add(operations.count.total())
        with Operations() as operations:
            routed(adapter, tasks, ids)
        for name in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal"):
            assert operations.count[name] == bare.count[name]
        adapter.detach()
    assert len(totals) == 1


@ALL_METHODS
@pytest.mark.parametrize("architecture", ["qwen2", "gpt_neox"])
def test_ranks_and_counts_are_those_that_are_attached(config, architecture):
    adapter = attach(make_model(architecture), config)
    shapes = [
        (layer.base_layer.in_features, layer.base_layer.out_features)
        for layer in adapter.layers.values()
    ]
    trained = sum(p.numel() for p in adapter.model.parameters() if p.requires_grad)
    assert trained == adapter.num_parameters() == config.trainable_parameters(shapes)
    layer = next(iter(adapter.layers.values()))
    assert layer.expert_A["default"].shape[0] == config.rank_of_A
    assert layer.expert_B["default"].shape[1] == config.total_rank
    update = layer.update("default", adapter.rank_weights(TASKS[0])[0])
    assert torch.linalg.matrix_rank(update) == min(config.active_rank, *shapes[0])


# Attach, detach ---------------------------------------------------------------------------


def test_parameters_require_gradients_again_once_the_last_adapter_is_off():
    model = make_model()
    layers, norm = model.get_decoder().layers, model.get_decoder().norm
    model.requires_grad_(False)
    layers.requires_grad_(True)
    first, second = (Adapter.attach(model, CGC, name=name) for name in "ab")
    weight = first.layers[next(iter(first.layers))].base_layer.weight
    first.detach()
    assert not weight.requires_grad
    second.detach()
    assert all(parameter.requires_grad for parameter in layers.parameters())
    assert not norm.weight.requires_grad


@ALL_ARCHITECTURES
def test_detaching_leaves_the_backbone_as_it_came(architecture):
    model = make_model(architecture)
    ids = token_ids(2)
    modules, bare = structure(model), logits(model, ids)
    tensors = {name: value.data_ptr() for name, value in model.state_dict().items()}
    adapter = attach(model)
    routed(adapter, ["names", "mood"], ids)
    adapter.fold("mood")
    adapter.detach()
    assert structure(model) == modules
    assert [*model.state_dict()] == [*tensors]
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == tensors
    assert torch.equal(logits(model, ids), bare)


@ALL_ARCHITECTURES
def test_every_linear_layer_but_the_head_is_found(architecture):
    model = make_model(architecture)
    adapter = Adapter.attach(model, CGC)
    inside = {
        path
        for path, module in make_model(architecture).named_modules()
        if type(module) is nn.Linear and ".layers." in path
    }
    assert set(adapter.layers) == inside
    assert not isinstance(model.get_output_embeddings(), ExpertLinear)


def test_fused_query_key_value_is_one_layer():
    names = {path.rpartition(".")[2] for path in Adapter.attach(make_model("gpt_neox"), CGC).layers}
    assert names == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("q_proj",), ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]),
        (("model.layers.1.mlp.up_proj",), ["model.layers.1.mlp.up_proj"]),
        (
            ("1.mlp.up_proj", "0.self_attn.k_proj"),
            ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.up_proj"],
        ),
    ],
)
def test_layers_are_chosen_by_name_or_path(names, found):
    adapter = Adapter.attach(make_model(), replace(CGC, target_modules=names))
    assert list(adapter.layers) == found


@pytest.mark.parametrize("name", ["proj", "q_pro", "lm_head", "embed_tokens", "model.layers.7"])
def test_a_name_without_a_linear_layer_is_refused_and_nothing_is_wrapped(name):
    model = make_model()
    modules = structure(model)
    with pytest.raises(AdapterError, match=rf"'{name}'.*q_proj"):
        Adapter.attach(model, replace(CGC, target_modules=("q_proj", name)))
    assert structure(model) == modules


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "名", "train", "training", "_keys", "update"])
def test_a_name_that_a_module_cannot_have_is_refused_and_nothing_is_wrapped(name):
    model = make_model()
    modules = structure(model)
    with pytest.raises(AdapterError, match="name"):
        Adapter.attach(model, CGC, name=name)
    assert structure(model) == modules


def test_the_seed_gives_the_weights_and_the_global_generator_goes_on_undisturbed():
    before = torch.get_rng_state()
    first, again, other = (
        Adapter.attach(make_model(), CGC, seed=seed).state_dict() for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["gate.embedding"], other["gate.embedding"])
    path = "model.layers.0.mlp.up_proj.expert_A"
    assert not torch.equal(first[path], other[path])


# Several adapters -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@ALL_METHODS
def test_answers_for_inference_are_the_same(config, dtype):
    adapter = attach(make_model().to(dtype), config)
    tasks, ids = list(config.tasks), token_ids(len(config.tasks))
    weights = {name: tensor.to(dtype) for name, tensor in adapter.state_dict().items()}
    before = routed(adapter, tasks, ids)
    assert adapter.for_inference() is adapter
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(routed(adapter, tasks, ids), before, **close)
    for name, tensor in adapter.state_dict().items():
        assert torch.equal(tensor.to(dtype), weights[name])
    for layer in adapter.layers.values():
        for table in (layer.expert_A, layer.expert_B):
            assert table[adapter.name].dtype == dtype
            assert not table[adapter.name].requires_grad


@pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)
def test_gates_that_are_given_stand_in_for_every_kind_of_gate(config):
    adapter = attach(make_model(), config)
    given = torch.rand(len(adapter.layers), len(TASKS), config.num_experts)
    expected = routed(adapter, TASKS, token_ids(3), gates=given)
    found = routed(adapter.for_inference(), TASKS, token_ids(3), gates=given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    rows = [Request(task, "x", gates=one) for task, one in zip(TASKS, given.unbind(1), strict=True)]
    assert torch.equal(adapter.gates_of(rows), given)
    changed = adapter.gates_of([Request(TASKS[0], "x"), rows[1], Request(TASKS[2], "x")])
    assert torch.equal(changed[:, 0], adapter.gates()[:, 0])
    assert torch.equal(changed[:, 1], given[:, 1])


def test_weights_that_are_loaded_for_inference_count_at_once():
    model, ids = make_model("gemma3"), token_ids(3)
    other = scatter(Adapter.attach(model, CGC, name="other"), seed=2)
    expected = routed(other, TASKS, ids)
    adapter = attach(model).for_inference()
    assert not torch.allclose(routed(adapter, TASKS, ids), expected, atol=1e-3)
    adapter.load_state_dict(other.state_dict())
    torch.testing.assert_close(routed(adapter, TASKS, ids), expected)


def test_an_adapter_for_inference_works_under_autocast_too():
    adapter = attach(make_model("gemma3"))
    with torch.autocast("cpu", torch.bfloat16):
        before = routed(adapter, TASKS, token_ids(3))
        after = routed(adapter.for_inference(), TASKS, token_ids(3))
    torch.testing.assert_close(after, before)


def test_moving_the_backbone_moves_the_experts_for_inference_too():
    adapter = attach(make_model("gemma3")).for_inference()
    expected = routed(adapter, TASKS, token_ids(3))
    adapter.model.double()
    found = routed(adapter, TASKS, token_ids(3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_hook_that_keeps_a_frozen_layers_output_sees_no_expert_in_it():
    adapter = attach(make_model())
    layer = next(iter(adapter.layers.values()))
    outputs: list[Tensor] = []
    layer.base_layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    routed(adapter, TASKS, token_ids(3))
    kept = outputs[0].clone()
    with adapter.route([None] * 3):
        logits(adapter.model, token_ids(3))
    assert torch.equal(outputs[0], kept)
    assert torch.equal(outputs[0], outputs[1])  # the first layer reads the same without experts


def test_a_fold_that_fails_leaves_the_frozen_weights(monkeypatch):
    adapter = attach(make_model())
    tasks, ids = [adapter.config.tasks[1]] * 2, token_ids(2)
    bare, before = logits(adapter.model, ids), routed(adapter, tasks, ids)
    adapter.fold(adapter.config.tasks[0])
    fold, calls = expert_layers.fold_layer, iter(range(100))

    def fail(layer, *arguments):
        if next(calls) == 3:
            raise torch.OutOfMemoryError("too much")
        fold(layer, *arguments)

    monkeypatch.setattr("cgclora.adapter.adapter.fold_layer", fail)
    with pytest.raises(torch.OutOfMemoryError):
        adapter.fold(adapter.config.tasks[1])
    assert adapter.folded_task is None
    assert torch.equal(logits(adapter.model, ids), bare)
    assert torch.equal(routed(adapter, tasks, ids), before)


@pytest.mark.parametrize(
    ("folder", "name"), [("v1.0", "v1_0"), ("医疗", "default"), ("my adapter", "my_adapter")]
)
def test_any_folder_name_loads(folder, name, tmp_path, monkeypatch):
    attach(make_model()).save(tmp_path / folder)
    assert Adapter.load(tmp_path / folder, make_model()).name == name
    monkeypatch.chdir(tmp_path / folder)
    assert Adapter.load(".", make_model()).name == name


def test_a_folder_that_only_looks_like_an_adapter_is_kept(tmp_path):
    for name in ("manifest.json", "predictions.parquet"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(AdapterError, match="something other than an adapter"):
        attach(make_model()).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        "predictions.parquet",
    ]


def test_layers_that_see_tokens_without_their_rows_are_left_alone(monkeypatch):
    sizes = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    monkeypatch.setitem(ARCHITECTURES, "qwen2_moe", sizes)
    model = make_model("qwen2_moe")
    adapter = attach(model)
    tasks, ids = list(adapter.config.tasks), token_ids(len(adapter.config.tasks))
    assert not torch.equal(routed(adapter, tasks, ids), logits(model, ids))
    assert not any(".mlp." in path for path in adapter.layers)


def two_adapters() -> tuple[Adapter, Adapter]:
    """One on all layers, one on some, with other tasks and sizes."""
    model = make_model()
    wide = attach(model, name="wide")
    few = AdapterConfig(("red", "blue"), common=1, expert_rank=3, target_modules=("q_proj",))
    return wide, scatter(Adapter.attach(model, few, name="few"), seed=2)


def alone(adapter: Adapter, tasks: list[str], ids: Tensor) -> Tensor:
    """What an adapter says on a backbone of its own."""
    single = Adapter.attach(make_model(), adapter.config)
    single.load_state_dict(adapter.state_dict())
    return routed(single, tasks, ids)


def test_adapters_on_one_backbone_do_not_see_each_other():
    wide, few = two_adapters()
    ids = token_ids(2)
    for adapter, tasks in ((wide, ["names", "mood"]), (few, ["blue", "red"])) * 2:
        assert torch.equal(routed(adapter, tasks, ids), alone(adapter, tasks, ids))


@pytest.mark.parametrize("first", ["wide", "few"])
def test_detaching_one_adapter_leaves_the_other(first):
    wide, few = two_adapters()
    gone, left = (wide, few) if first == "wide" else (few, wide)
    ids = token_ids(1)
    expected = routed(left, [left.config.tasks[0]], ids)
    gone.detach()
    assert torch.equal(routed(left, [left.config.tasks[0]], ids), expected)
    left.detach()
    assert structure(left.model) == structure(make_model())


def test_a_name_is_free_again_once_its_adapter_is_off():
    model = make_model()
    adapter = Adapter.attach(model, CGC, name="x")
    with pytest.raises(AdapterError, match="'x' is attached already"):
        Adapter.attach(model, CGC, name="x")
    adapter.detach()
    Adapter.attach(model, CGC, name="x")


def test_folding_one_adapter_takes_the_place_of_what_another_folded():
    wide, few = two_adapters()
    ids = token_ids(1)
    expected = logits(merged(make_model(), few, "blue"), ids)
    wide.fold("names")
    few.fold("blue")
    torch.testing.assert_close(logits(few.model, ids), expected, **CLOSE)
    assert (wide.folded_task, few.folded_task) == (None, "blue")
    few.unfold()
    assert torch.equal(logits(few.model, ids), logits(make_model(), ids))


def test_what_one_adapter_folded_is_safe_from_another():
    wide, few = two_adapters()
    ids = token_ids(1)
    wide.fold("names")
    folded = logits(wide.model, ids)
    few.unfold()
    assert torch.equal(logits(wide.model, ids), folded)
    few.detach()
    assert torch.equal(logits(wide.model, ids), folded)
    assert wide.folded_task == "names"


def test_no_adapter_is_routed_while_any_is_folded():
    model = make_model()
    one, other = (
        attach(model, replace(CGC, target_modules=(target,)), name=target)
        for target in ("q_proj", "v_proj")
    )
    one.fold("names")
    for adapter in (one, other):
        with pytest.raises(AdapterError, match="unfold"), adapter.route(["names"]):
            pass


# Routes -----------------------------------------------------------------------------------


def test_routes_nest_and_survive_exceptions():
    adapter = attach(make_model())
    ids = token_ids(1)
    bare = logits(adapter.model, ids)
    names, mood = (routed(adapter, [task], ids) for task in ("names", "mood"))
    with adapter.route(["names"]):
        assert torch.equal(routed(adapter, ["mood"], ids), mood)
        with pytest.raises(ValueError, match="2 rows"), adapter.route(["mood"]):
            logits(adapter.model, token_ids(2))
        assert torch.equal(logits(adapter.model, ids), names)
        with pytest.raises(ConfigError), adapter.route(["nothing"]):
            pass
        assert torch.equal(logits(adapter.model, ids), names)
    assert torch.equal(logits(adapter.model, ids), bare)


def test_a_plan_is_a_route_made_ahead():
    adapter = attach(make_model())
    ids = token_ids(2)
    plan = adapter.plan(["mood", None])
    for _ in range(2):
        assert torch.equal(routed(adapter, plan, ids), routed(adapter, ["mood", None], ids))


def test_an_unknown_task_is_refused():
    with pytest.raises(ConfigError, match=r"'colour'.*names, mood, summary"):
        Adapter.attach(make_model(), CGC).plan(["names", "colour"])


def test_a_batch_of_another_size_is_refused():
    adapter = Adapter.attach(make_model(), CGC)
    with pytest.raises(ValueError, match=r"2 rows.*3 tasks"):
        routed(adapter, TASKS, token_ids(2))


def test_gates_given_for_a_request_take_the_place_of_the_gate():
    adapter = attach(make_model())
    ids, tasks = token_ids(2), ["names", "summary"]
    usual = routed(adapter, tasks, ids)
    own = adapter.gates()[:, [0, 2]]
    assert own.shape == (len(adapter.layers), 2, CGC.num_experts)
    assert torch.equal(routed(adapter, tasks, ids, gates=own), usual)

    one = torch.zeros(2, CGC.num_experts)
    one[0, 4], one[1, 0] = 1.0, 0.5
    found = routed(adapter, tasks, ids, gates=one)
    everywhere = one.expand(len(adapter.layers), -1, -1)
    assert torch.equal(routed(adapter, tasks, ids, gates=everywhere), found)
    for row, (expert, weight) in enumerate([(4, 1.0), (0, 0.5)]):
        model = make_model().double()
        for path, layer in adapter.layers.items():
            pairs = list(experts(layer.expert_A["default"], layer.expert_B["default"], 2))
            A_e, B_e = pairs[expert]
            model.get_submodule(path).weight.data += CGC.scale * weight * (B_e @ A_e).detach()
        expected = logits(model, ids[row : row + 1])
        torch.testing.assert_close(found[row : row + 1], expected, **CLOSE)


@pytest.mark.parametrize("shape", [(9,), (1, 9), (2, 8), (14, 1, 9), (13, 2, 9), (1, 2, 9)])
def test_gates_of_a_wrong_shape_are_refused(shape):
    adapter = Adapter.attach(make_model(), CGC)
    with pytest.raises(AdapterError, match=r"\[2, 9\] or \[14, 2, 9\]"):
        adapter.plan(["names", "mood"], gates=torch.ones(shape))


# Folding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@ALL_ARCHITECTURES
def test_a_folded_task_gives_the_same_logits(architecture, task):
    adapter = attach(make_model(architecture))
    ids = token_ids(2)
    expected = routed(adapter, [task] * 2, ids)
    adapter.fold(task)
    assert adapter.folded_task == task
    torch.testing.assert_close(logits(adapter.model, ids), expected, **CLOSE)


def test_unfolding_is_exact():
    model = make_model()
    adapter = attach(model)
    ids = token_ids(2)
    bare, frozen = logits(model, ids), frozen_parameters(adapter)
    before = digest(frozen)
    for task in ("names", "names", "mood"):
        adapter.fold(task)
    for _ in range(2):
        adapter.unfold()
        assert adapter.folded_task is None
        assert {n: id(p) for n, p in frozen_parameters(adapter).items()} == {
            n: id(p) for n, p in frozen.items()
        }
        assert digest(frozen) == before
        assert torch.equal(logits(model, ids), bare)
    routed(adapter, ["names", "mood"], ids)


def test_nothing_is_folded_under_an_open_route():
    adapter = attach(make_model())
    with adapter.route(["names"]), pytest.raises(AdapterError, match="route"):
        adapter.fold("names")
    assert adapter.folded_task is None


def test_an_unknown_task_leaves_the_folded_one():
    adapter = attach(make_model())
    ids = token_ids(1)
    adapter.fold("mood")
    folded = logits(adapter.model, ids)
    with pytest.raises(ConfigError):
        adapter.fold("colour")
    assert adapter.folded_task == "mood"
    assert torch.equal(logits(adapter.model, ids), folded)


def test_folding_in_bf16_is_close_and_undone_exactly():
    model = make_model().bfloat16()
    adapter = attach(model)
    ids = token_ids(2)
    bare, expected = logits(model, ids), routed(adapter, ["mood"] * 2, ids)
    adapter.fold("mood")
    assert next(iter(adapter.layers.values())).base_layer.weight.dtype == torch.bfloat16
    assert (logits(model, ids) - expected).norm() < 0.05 * expected.norm()
    adapter.unfold()
    assert torch.equal(logits(model, ids), bare)


# Folders ----------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> Path:
    """A saved adapter of the tiny qwen2."""
    folder = tmp_path / "medical"
    attach(make_model()).save(folder, facts={"seed": 3})
    return folder


@ALL_METHODS
def test_a_saved_adapter_comes_back_bit_for_bit(config, tmp_path):
    adapter = attach(make_model(), config)
    ids = token_ids(3)
    adapter.save(tmp_path / "x")
    loaded = Adapter.load(tmp_path / "x", make_backbone())
    assert (loaded.config, loaded.name) == (config, "x")
    assert digest(loaded.state_dict()) == digest(adapter.state_dict())
    assert torch.equal(routed(loaded, TASKS, ids), routed(adapter, TASKS, ids))
    assert torch.equal(read_gates(tmp_path / "x"), adapter.gates())


def test_an_adapter_saved_in_bf16_comes_back_rounded(tmp_path):
    adapter = attach(make_model())
    adapter.save(tmp_path / "x", dtype=torch.bfloat16)
    loaded = Adapter.load(tmp_path / "x", make_model())
    for name, value in adapter.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.bfloat16().float())
    assert {value.dtype for value in load_file(tmp_path / "x" / WEIGHTS_FILE).values()} == {
        torch.bfloat16
    }
    assert torch.equal(read_gates(tmp_path / "x"), loaded.gates())


def test_the_manifest_says_what_the_adapter_is(saved):
    manifest, config = read_manifest(saved)
    assert config == CGC
    assert manifest == Adapter.load(saved, make_backbone()).manifest
    assert manifest["backbone"]["fingerprint"] == make_backbone().fingerprint
    assert manifest["backbone"]["model_type"] == "qwen2"
    assert manifest["tasks"] == list(TASKS)
    assert (manifest["total_rank"], manifest["active_rank"]) == (18, 10)
    assert manifest["seed"] == 3
    assert manifest["versions"]["torch"] == torch.__version__
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        content = (saved / name).read_bytes()
        assert manifest["files"][name] == {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    assert {path.name for path in saved.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE}
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_facts_added_later_leave_the_adapter_loadable(saved):
    annotate(saved, {"results": {"names": 0.5}})
    assert Adapter.load(saved, make_model()).manifest["results"] == {"names": 0.5}
    for fixed in ("format", "backbone", "tasks", "files"):
        with pytest.raises(AdapterError, match=fixed):
            annotate(saved, {fixed: 1})


def test_an_adapter_is_saved_alike_whether_or_not_something_is_folded(tmp_path):
    wide, few = two_adapters()
    wide.fold("names")
    for adapter in (wide, few):
        manifest = adapter.save(tmp_path / adapter.name)
        assert manifest["backbone"]["fingerprint"] == make_backbone().fingerprint
        loaded = Adapter.load(tmp_path / adapter.name, wide.model, name=f"{adapter.name}-again")
        assert digest(loaded.state_dict()) == digest(adapter.state_dict())


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pickled")

    adapter = attach(make_model())
    for module, names in (
        (pickle, ("dump", "dumps", "load", "loads", "Pickler", "Unpickler")),
        (torch, ("save", "load")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    adapter.save(tmp_path / "x")
    Adapter.load(tmp_path / "x", make_model())
    read_gates(tmp_path / "x")


def test_saving_again_replaces_the_old_adapter(saved):
    other = scatter(Adapter.attach(make_model(), METHODS["LoRA"]), seed=5)
    other.save(saved)
    loaded = Adapter.load(saved, make_model())
    assert loaded.config == METHODS["LoRA"]
    assert digest(loaded.state_dict()) == digest(other.state_dict())


def test_a_save_that_fails_leaves_the_old_adapter(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        attach(make_model(), METHODS["LoRA"]).save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_saving_over_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear reader", encoding="utf-8")
    with pytest.raises(AdapterError, match="letters"):
        attach(make_model()).save(tmp_path / "letters")
    assert (tmp_path / "letters" / "dear.txt").read_text(encoding="utf-8") == "Dear reader"


def flip_a_bit(path: Path, place: float) -> None:
    """Damage one bit of a file, at a fraction of its length."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file."""
    value = atomic_io.read_sealed(path)
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def rehash(folder: Path) -> None:
    """Make the manifest agree with changed files, so that what lies behind the hashes is tested."""

    def take_hashes(manifest: dict) -> None:
        for name, entry in manifest["files"].items():
            entry["sha256"] = atomic_io.sha256_file(folder / name)

    edit_json(folder / MANIFEST_FILE, take_hashes)


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the weights and their hash."""
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)
    rehash(folder)


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    """Change the config and its hash."""
    edit_json(folder / CONFIG_FILE, change)
    rehash(folder)


def cut(path: Path, end: int) -> None:
    """Keep the beginning of a file."""
    path.write_bytes(path.read_bytes()[:end])


A_NAME = "model.layers.1.mlp.up_proj.expert_A"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "bit in the weights' header": (lambda f: flip_a_bit(f / WEIGHTS_FILE, 0.01), WEIGHTS_FILE),
    "bit in the weights": (lambda f: flip_a_bit(f / WEIGHTS_FILE, 0.5), WEIGHTS_FILE),
    "last bit of the weights": (lambda f: flip_a_bit(f / WEIGHTS_FILE, 1), WEIGHTS_FILE),
    "bit in the config": (lambda f: flip_a_bit(f / CONFIG_FILE, 0.5), CONFIG_FILE),
    "weights cut short": (lambda f: cut(f / WEIGHTS_FILE, -1), WEIGHTS_FILE),
    "weights cut short, hashed": (
        lambda f: (cut(f / WEIGHTS_FILE, -1), rehash(f)),
        f"{WEIGHTS_FILE} is damaged",
    ),
    "empty config, hashed": (lambda f: (cut(f / CONFIG_FILE, 0), rehash(f)), CONFIG_FILE),
    "config a list, hashed": (
        lambda f: ((f / CONFIG_FILE).write_text("[]"), rehash(f)),
        CONFIG_FILE,
    ),
    "manifest cut short": (lambda f: cut(f / MANIFEST_FILE, -9), f"{MANIFEST_FILE} is damaged"),
    "manifest a list": (
        lambda f: (f / MANIFEST_FILE).write_text("[]"),
        f"{MANIFEST_FILE} is damaged",
    ),
    "no weights": (lambda f: (f / WEIGHTS_FILE).unlink(), WEIGHTS_FILE),
    "no config": (lambda f: (f / CONFIG_FILE).unlink(), CONFIG_FILE),
    "no manifest": (lambda f: (f / MANIFEST_FILE).unlink(), MANIFEST_FILE),
    "no folder": (shutil.rmtree, "no adapter"),
    "a newer manifest": (
        lambda f: edit_json(f / MANIFEST_FILE, lambda m: m.update(format=99)),
        "format 99.*update",
    ),
    "a newer config": (
        lambda f: edit_config(f, lambda c: c.update(format=FORMAT + 1)),
        f"format {FORMAT + 1}.*update",
    ),
    "a config that cannot be": (
        lambda f: edit_config(f, lambda c: c.update(expert_rank=0)),
        "expert_rank",
    ),
    "another backbone": (
        lambda f: edit_json(
            f / MANIFEST_FILE, lambda m: m["backbone"].update(fingerprint="0" * 64)
        ),
        "0{12}.*load that one",
    ),
    "another backbone without a name": (
        lambda f: edit_json(
            f / MANIFEST_FILE, lambda m: m.update(backbone={"fingerprint": "0" * 64})
        ),
        "0{12}",
    ),
    "another rank": (
        lambda f: edit_config(f, lambda c: c.update(expert_rank=3)),
        r"shape \[18, 32\].*expected \[27, 32\]",
    ),
    "one task less": (lambda f: edit_config(f, lambda c: c["tasks"].pop()), "shape"),
    "a tensor too few": (lambda f: edit_tensors(f, lambda t: t.pop(A_NAME)), f"missing.*{A_NAME}"),
    "a tensor too many": (
        lambda f: edit_tensors(f, lambda t: t.update(more=torch.ones(1))),
        "unknown.*more",
    ),
    "a tensor of another shape": (
        lambda f: edit_tensors(f, lambda t: t.update({A_NAME: t[A_NAME].T.contiguous()})),
        f"{A_NAME} has shape",
    ),
    "a value that is no number": (
        lambda f: edit_tensors(f, lambda t: t[A_NAME][0].fill_(torch.nan)),
        f"{A_NAME} has a value that is not a finite number",
    ),
    "an infinite value": (
        lambda f: edit_tensors(f, lambda t: t["gate.embedding"][0].fill_(torch.inf)),
        r"gate\.embedding has a value that is not a finite number",
    ),
    "layers that the backbone lacks": (
        lambda f: edit_config(f, lambda c: c.update(target_modules=["c_attn"])),
        "c_attn",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_folder_that_does_not_fit_is_refused_and_leaves_the_backbone_alone(
    saved, damage, message
):
    damage(saved)
    model = make_model()
    modules, parameters = structure(model), digest(dict(model.named_parameters()))
    with pytest.raises(AdapterError, match=message):
        Adapter.load(saved, model)
    assert structure(model) == modules
    assert digest(dict(model.named_parameters())) == parameters


@pytest.mark.parametrize(("architecture", "seed"), [("qwen2", 1), ("llama", 0)])
def test_an_adapter_of_another_backbone_is_refused(saved, architecture, seed):
    backbone = make_backbone(architecture, seed=seed)
    for carrier in (backbone, backbone.model):
        with pytest.raises(AdapterError, match=backbone.fingerprint[:12]):
            Adapter.load(saved, carrier)


def test_weights_that_do_not_fit_change_nothing():
    adapter = attach(make_model())
    before = digest(adapter.state_dict())
    for change in (
        lambda t: t.pop("gate.embedding"),
        lambda t: t.update(more=torch.ones(1)),
        lambda t: t.update({"gate.embedding": torch.ones(1)}),
    ):
        tensors = {name: value + 1 for name, value in adapter.state_dict().items()}
        change(tensors)
        with pytest.raises(AdapterError, match=r"gate\.embedding|more"):
            adapter.load_state_dict(tensors)
        assert digest(adapter.state_dict()) == before


def test_gates_are_read_without_a_backbone_and_with_the_same_care(saved):
    flip_a_bit(saved / WEIGHTS_FILE, 0.5)
    with pytest.raises(AdapterError, match=WEIGHTS_FILE):
        read_gates(saved)


def test_a_manifest_with_a_flipped_bit_is_refused(saved: Path) -> None:
    path = saved / MANIFEST_FILE
    content = path.read_text(encoding="utf-8")
    assert content.count('"seed": 3') == 1
    path.write_text(content.replace('"seed": 3', '"seed": 2'), encoding="utf-8")
    with pytest.raises(AdapterError, match=rf"{MANIFEST_FILE} is damaged.*fetch the folder again"):
        Adapter.load(saved, make_model())


def test_what_a_killed_note_left_does_not_keep_an_adapter_from_being_saved(saved: Path) -> None:
    (saved / f".{MANIFEST_FILE}.{'0' * 16}").write_text("half a no")
    attach(make_model()).save(saved)
    assert {path.name for path in saved.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE}


def test_a_note_waits_for_who_replaces_the_adapter(saved: Path) -> None:
    note = threading.Thread(target=annotate, args=(saved, {"note": 1}))
    with atomic_io.hold_folder(saved):
        note.start()
        note.join(0.5)
        assert note.is_alive()
        edit_json(saved / MANIFEST_FILE, lambda manifest: manifest.update(newer=True))
    note.join()
    manifest, _ = adapter_dir.read_manifest(saved)
    assert (manifest["note"], manifest["newer"]) == (1, True)


def test_a_full_disk_is_the_system_s_error_and_leaves_the_adapter(saved, monkeypatch) -> None:
    def full(tensors: object, path: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    before = adapter_dir.read_manifest(saved)
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="free room there or choose another folder: No space left"):
        attach(make_model()).save(saved)
    assert adapter_dir.read_manifest(saved) == before
