"""The training pass against transformers' own, and each of its pieces against autograd."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.autograd import gradcheck

import cgclora.training.forward as tested
import cgclora.training.loss
from cgclora.adapter import Adapter
from cgclora.layer import LayerExperts, Route
from cgclora.models import hardware
from cgclora.models.dropout import RowDropout
from cgclora.training import expert_linears
from cgclora.training.loss import TargetLoss
from tests.helpers.reference import METHODS, TASKS, Operations, scatter
from tests.helpers.tiny import VOCABULARY, make_model

KNOWN = pytest.mark.parametrize("architecture", ["gemma3", "llama", "qwen2", "qwen3"])
CGC = METHODS["CGC-LoRA"]


def adapted(architecture: str, config=CGC, **changes) -> Adapter:
    """An adapter that matters, on a tiny model whose norms and biases matter too, in float64."""
    model = make_model(architecture, **changes)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    adapter = scatter(Adapter.attach(model, config))
    model.double()
    return adapter


def batch(tokens: int) -> dict[str, Tensor]:
    """Three rows padded on the right, one of them not; a position stands there twice."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, VOCABULARY, (3, tokens), generator=generator)
    for row, length in enumerate((tokens, tokens - 3, tokens // 2)):
        ids[row, length:] = 0
    positions = [tokens - 2, tokens - 2, tokens, tokens + 3, 2 * tokens - 5, 2 * tokens + 1]
    return {
        "input_ids": ids,
        "positions": torch.tensor(positions),
        "targets": torch.tensor([5, 299, 0, 7, 8, 9]),
    }


def found(adapter: Adapter, tokens: int) -> tuple[Tensor, list[Tensor]]:
    """Losses, and the gradients of all trained weights by a sum of them."""
    loss = TargetLoss(adapter.model)
    with adapter.route(TASKS):
        losses = loss(**batch(tokens))
    upstream = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.2, 0.7])
    parameters = [parameter for _, parameter in adapter.named_parameters()]
    return losses, [*torch.autograd.grad((losses * upstream).sum(), parameters)]


def check(ours: tuple[Tensor, list[Tensor]], theirs: tuple[Tensor, list[Tensor]], bound=1e-5):
    torch.testing.assert_close(ours[0], theirs[0], rtol=bound, atol=bound)
    for our, their in zip(ours[1], theirs[1], strict=True):
        assert (our - their).norm() <= bound * their.norm()


@KNOWN
@pytest.mark.parametrize("tokens", [9, 40])
@pytest.mark.parametrize("longest", [8, 64])
def test_losses_and_gradients_are_those_of_transformers(architecture, tokens, longest, monkeypatch):
    """With attention as plain products and fused; Gemma's window is of 16 tokens."""
    monkeypatch.setattr(tested, "PLAIN_TOKENS", longest)
    adapter = adapted(architecture)
    assert tested.can_pass(adapter.model)
    ours = found(adapter, tokens)
    monkeypatch.setattr(cgclora.training.loss, "can_pass", lambda model: False)
    check(ours, found(adapter, tokens))


@pytest.mark.parametrize("heads", [1, 4])
def test_any_number_of_heads_may_share_a_key(heads, monkeypatch):
    adapter = adapted("qwen3", num_key_value_heads=heads)
    ours = found(adapter, 9)
    monkeypatch.setattr(cgclora.training.loss, "can_pass", lambda model: False)
    check(ours, found(adapter, 9))


def test_layers_without_experts_stay_as_they_are(monkeypatch):
    adapter = adapted("gemma3", replace(CGC, target_modules=("v_proj", "gate_proj")))
    ours = found(adapter, 9)
    monkeypatch.setattr(cgclora.training.loss, "can_pass", lambda model: False)
    check(ours, found(adapter, 9))


def test_a_backbone_without_adapters_has_the_same_losses(monkeypatch):
    loss = TargetLoss(make_model("llama"))
    ours = loss(**batch(9))
    monkeypatch.setattr(cgclora.training.loss, "can_pass", lambda model: False)
    torch.testing.assert_close(ours, loss(**batch(9)))


def test_in_bf16_it_is_as_close_to_fp32_as_transformers_is(monkeypatch):
    adapter = adapted("gemma3")
    adapter.model.float()
    for module in adapter.model.modules():
        if not isinstance(module, nn.ParameterDict):
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.bfloat16()  # both start from the rounded weights
    ours = found(adapter, 40)
    monkeypatch.setattr(cgclora.training.loss, "can_pass", lambda model: False)
    theirs = found(adapter, 40)
    adapter.model.float()
    exact = found(adapter, 40)

    def distance(to: tuple[Tensor, list[Tensor]]) -> float:
        pairs = zip(to[1], exact[1], strict=True)
        return sum(float((one - other).square().sum()) for one, other in pairs) ** 0.5

    assert distance(ours) < 1.5 * distance(theirs)


@pytest.mark.parametrize(
    ("reason", "architecture"),
    [
        ("unknown", "glm"),
        ("a trained norm", "llama"),
        ("gradient checkpointing", "qwen2"),
        ("another library's layer", "qwen2"),
        ("two dtypes", "gemma3"),
    ],
)
def test_what_it_does_not_know_takes_the_path_of_transformers(reason, architecture):
    adapter = adapted(architecture)
    model = adapter.model
    assert tested.can_pass(model) == (reason != "unknown")
    layer = model.get_decoder().layers[1]
    match reason:
        case "a trained norm":
            layer.input_layernorm.weight.requires_grad_(True)
        case "gradient checkpointing":
            model.gradient_checkpointing_enable()
        case "another library's layer":
            layer.mlp.up_proj = nn.Sequential(layer.mlp.up_proj)
        case "two dtypes":
            layer.mlp.up_proj.base_layer.float()
    with adapter.route(TASKS):
        assert not tested.can_pass(model)


def test_autocast_takes_the_path_of_transformers():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not tested.can_pass(make_model("qwen2"))


def test_a_route_of_another_number_of_rows_is_refused():
    adapter = adapted("qwen2")
    loss = TargetLoss(adapter.model)
    with adapter.route(TASKS[:2]), pytest.raises(ValueError, match="3 rows but the route names 2"):
        loss(**batch(9))


def test_members_keep_their_blocks_of_rows_to_the_end():
    """Three members with a row each, whose experts are the same, are as one adapter."""
    adapter = adapted("gemma3")
    one = found(adapter, 9)

    def stacked(part: LayerExperts) -> tuple[LayerExperts, ...]:
        return (replace(part, A=part.A.expand(3, -1, -1), B=part.B.expand(3, -1, -1)),)

    def apart(part: LayerExperts) -> tuple[LayerExperts, ...]:
        rows = (slice(0, 1), slice(1, 3))
        return tuple(replace(part, weights=part.weights[own], rows=own) for own in rows)

    loss, whole = TargetLoss(adapter.model), adapter.plan(TASKS)
    for change in (stacked, apart):
        experts = {layer: change(*parts) for layer, parts in whole.experts.items()}
        with adapter.route(Route(experts)):
            torch.testing.assert_close(loss(**batch(9)), one[0])


def test_experts_drop_out_while_training_only():
    adapter = adapted("llama", replace(CGC, dropout=0.5))
    whole = found(adapter, 9)
    adapter.model.train()
    assert not torch.allclose(found(adapter, 9)[0], whole[0])
    adapter.model.eval()
    check(found(adapter, 9), whole)


# Pieces -----------------------------------------------------------------------------------


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def test_the_gradient_of_a_norm():
    weight = random(6, seed=1).detach()
    norm = tested._NormAndTurn.apply
    assert gradcheck(lambda x: norm(x, weight, 0.1, None, None), [random(2, 3, 6)])


@pytest.mark.parametrize("weight", [None, random(6, seed=1).detach()])
def test_the_gradient_of_a_rotation(weight):
    angle = random(4, 1, 3, seed=2).detach()
    cos, sin = angle.cos().repeat(1, 1, 2), torch.cat([-angle.sin(), angle.sin()], -1)
    turn = tested._NormAndTurn.apply
    assert gradcheck(lambda x: turn(x, weight, 0.1, cos, sin), [random(2, 4, 3, 6)])


@pytest.mark.parametrize("gelu", [True, False])
def test_the_gradient_of_a_gated_unit(gelu):
    inputs = [random(2, 5), random(2, 5, seed=1)]
    assert gradcheck(lambda gate, up: tested._Gated.apply(gate, up, gelu), inputs)


def test_the_gradient_of_attention():
    bias = torch.zeros(10, 5).double().masked_fill(torch.ones(10, 5).triu(1) > 0, -torch.inf)
    inputs = [random(2, count, 4, seed=count) for count in (10, 5)] + [random(2, 5, 4, seed=3)]
    assert gradcheck(lambda *qkv: tested._PlainAttention.apply(*qkv, bias, 0.7), inputs)


ROWS = torch.arange(4, dtype=torch.int32)
"""Seeds of dropout, one a row."""


def expected_linears(
    x: Tensor, modules: list[nn.Linear], parts: list[LayerExperts | None], dropped: Tensor
) -> list[Tensor]:
    """Formula by formula, for experts of one adapter; a matrix a row where A is shared."""
    return [
        layer(x)
        if part is None
        else layer(x) + torch.einsum("bti,ri,brk,ko->bto", dropped, part.A, maps(part), part.B)
        for layer, part in zip(modules, parts, strict=True)
    ]


def maps(part: LayerExperts) -> Tensor:
    """Weights as a matrix of each row, [batch, r, R]."""
    ranks = (part.A.shape[-2], part.B.shape[-2])
    is_diagonal = part.weights.shape[1] == 1 and ranks[0] == ranks[1]
    return torch.stack([row[0].diag() if is_diagonal else row for row in part.weights])


def linears(
    monkeypatch,
    *,
    members: int | None = None,
    dropout: float = 0.0,
    biased: bool = True,
    shared: Mapping[int, int] = MappingProxyType({}),
) -> tuple[Tensor, list[nn.Linear], list[LayerExperts | None]]:
    """Four rows of five tokens, and three layers that read them, of which one has no experts.

    `shared` has the ranks of A that experts share, by the outputs of their layer.
    """
    lead = () if members is None else (members,)
    modules = [nn.Linear(6, out, bias=biased).double().requires_grad_(False) for out in (4, 2, 3)]
    parts = [
        None
        if out == 2
        else LayerExperts(
            random(*lead, shared.get(out, out - 1), 6, seed=out),
            random(*lead, out - 1, out, seed=10 + out),
            random(4, shared.get(out, 1), out - 1, seed=20 + out),
            dropout=RowDropout(dropout, ROWS) if dropout else None,
        )
        for out in (4, 2, 3)
    ]
    own = {
        layer: () if part is None else (part,) for layer, part in zip(modules, parts, strict=True)
    }
    monkeypatch.setattr(expert_linears, "experts_of", own.__getitem__)
    return random(4, 5, 6), modules, parts


def gradients(outputs, x: Tensor, parts: list[LayerExperts | None]) -> tuple[Tensor, ...]:
    tensors = [x]
    for part in parts:
        tensors += [] if part is None else [part.A, part.B, part.weights]
    upstream = [random(*y.shape, seed=30 + place) for place, y in enumerate(outputs)]
    return torch.autograd.grad(outputs, tensors, upstream)


@pytest.mark.parametrize("shared", [{}, {3: 4}, {4: 1}, {4: 1, 3: 1}, {4: 3, 3: 2}], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("biased", [True, False])
def test_layers_that_read_the_same_input(dropout, biased, shared, monkeypatch):
    x, modules, parts = linears(monkeypatch, dropout=dropout, biased=biased, shared=shared)
    ours = expert_linears.linears(modules, x)
    kept = RowDropout(dropout, ROWS)(x)
    assert bool((kept == 0).any()) == bool(dropout)
    theirs = expected_linears(x, modules, parts, x * kept)
    torch.testing.assert_close([*ours], theirs)
    torch.testing.assert_close(gradients(ours, x, parts), gradients(theirs, x, parts))


def test_each_member_reads_its_own_rows(monkeypatch):
    x, modules, parts = linears(monkeypatch, members=2)
    ours = expert_linears.linears(modules, x)
    halves = []
    for member in range(2):
        rows = slice(2 * member, 2 * member + 2)
        own = [
            part and LayerExperts(part.A[member], part.B[member], part.weights[rows])
            for part in parts
        ]
        halves.append(expected_linears(x[rows], modules, own, x[rows]))
    theirs = [torch.cat(pair) for pair in zip(*halves, strict=True)]
    torch.testing.assert_close([*ours], theirs)
    torch.testing.assert_close(gradients(ours, x, parts), gradients(theirs, x, parts))


def test_segments_of_rows_are_as_batches_of_their_own(monkeypatch):
    x, modules, parts = linears(monkeypatch)
    whole = expert_linears.linears(modules, x)
    expected = gradients(whole, x, parts)
    cuts = (slice(0, 1), slice(1, 4))
    own = {
        layer: ()
        if part is None
        else tuple(replace(part, weights=part.weights[rows], rows=rows) for rows in cuts)
        for layer, part in zip(modules, parts, strict=True)
    }
    monkeypatch.setattr(expert_linears, "experts_of", own.__getitem__)
    ours = expert_linears.linears(modules, x)
    torch.testing.assert_close(ours, whole)
    torch.testing.assert_close(gradients(ours, x, parts), expected)


def test_the_first_layer_computes_no_gradient_of_the_embedding(monkeypatch):
    x, modules, parts = linears(monkeypatch)
    with Operations() as whole:
        gradients(expert_linears.linears(modules, x), x, parts)
    outputs = expert_linears.linears(modules, x.detach())
    with Operations() as first:
        torch.autograd.grad([y.sum() for y in outputs], parts[0].A)
    assert first.products() <= whole.products() - len(modules) - 1


# Compiled ---------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gemma3", "qwen3"])
def test_compiled_steps_between_products_give_the_same(architecture, monkeypatch):
    torch._dynamo.reset()
    adapter = adapted(architecture)
    plain = [found(adapter, tokens) for tokens in (9, 40)]
    monkeypatch.setitem(hardware.FUSED, "cpu", "aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        check(found(adapter, 9), plain[0])
        before = counters["stats"]["unique_graphs"]
        assert before > 0
        check(found(adapter, 40), plain[1])
    assert counters["stats"]["unique_graphs"] <= before + 2  # sizes do not make new ones


def test_where_compiling_fails_each_function_says_so_once_and_goes_on(monkeypatch):
    def no_compiler(*_):
        raise RuntimeError("no C++ compiler found")

    torch._dynamo.reset()
    adapter = adapted("llama")
    plain = found(adapter, 9)
    monkeypatch.setitem(hardware.FUSED, "cpu", no_compiler)
    with pytest.warns(RuntimeWarning, match=r"compile failed.*no C\+\+ compiler") as warned:
        check(found(adapter, 9), plain)
    said = len(warned)
    assert said == 5  # one for each function that is compiled
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        check(found(adapter, 9), plain)
