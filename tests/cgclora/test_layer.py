"""The expert layer and the gate against the formula, summed an expert at a time in float64."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cgclora.adapter import initial_A
from cgclora.adapter.expert_layers import fold_layer, unfold_layer
from cgclora.config import AdapterConfig
from cgclora.layer import ExpertLinear, LayerExperts, Route, Routing, TaskGate
from cgclora.models.dropout import RowDropout, logistic_noise
from tests.helpers.reference import (
    METHODS,
    TASKS,
    Operations,
    allowed_experts,
    experts,
    layer_gates,
    turn,
)

ALL_METHODS = pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)
CGC = METHODS["CGC-LoRA"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def make_gate(config: AdapterConfig, layers: int = 1) -> TaskGate:
    """A gate with random logits."""
    gate = TaskGate(config, layers)
    for name, parameter in gate.named_parameters():
        if name != "embedding":
            nn.init.normal_(parameter)
    return gate


def add_experts(layer: ExpertLinear, config: AdapterConfig, device: str = "cpu") -> None:
    """Experts as a new adapter's: A random, B zero."""
    inner, outer = layer.base_layer.in_features, layer.base_layer.out_features
    A = initial_A(config.rank_of_A, inner, torch.Generator().manual_seed(0))
    layer.expert_A["x"] = nn.Parameter(A.to(device))
    layer.expert_B["x"] = nn.Parameter(torch.zeros(outer, config.total_rank, device=device))


class Case:
    """One frozen linear layer with one adapter, all of its weights random."""

    def __init__(
        self,
        config: AdapterConfig,
        *,
        inner: int = 6,
        outer: int = 5,
        bias: bool = False,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(0)
        self.config = config
        linear = nn.Linear(inner, outer, bias=bias, dtype=dtype, device=device)
        self.layer = ExpertLinear(linear.requires_grad_(False), Routing()).eval()
        add_experts(self.layer, config, device)
        nn.init.normal_(self.layer.expert_B["x"])
        self.gate = make_gate(config).to(device)

    def weights(self, ids: list[int]) -> Tensor:
        """The weights of ranks, [batch, 1 or k, E*k]."""
        tasks = torch.tensor(ids, device=self.gate.usable.device)
        return self.gate.rank_weights(self.gate(tasks), tasks)[0]

    def __call__(self, x: Tensor, ids: list[int]) -> Tensor:
        self.layer.routing.route = self.route(self.weights(ids))
        return self.layer(x)

    def route(self, weights: Tensor) -> Route:
        """Through all experts, as an adapter plans it."""
        probability = self.config.dropout if self.layer.training else 0.0
        dropout = RowDropout.draw(probability, len(weights), weights.device)
        A, B = self.layer.expert_A["x"], self.layer.expert_B["x"].t()
        return Route({self.layer: (LayerExperts(A, B, weights, dropout=dropout),)})

    def expected(self, x: Tensor, ids: list[int]) -> Tensor:
        """W0 x + b + s * sum_e g_e B_e (A_e x), a row, a token and an expert at a time.

        Where A is shared, A_e is the task's matrix times it.
        """
        A, B = self.layer.expert_A["x"], self.layer.expert_B["x"]
        weight, bias = self.layer.base_layer.weight.double(), self.layer.base_layer.bias
        rows = []
        for row, task in zip(x.double(), ids, strict=True):
            gates = layer_gates(self.gate, 0, task)
            pairs = [*experts(A, B, self.config.expert_rank, turn(self.gate, 0, task))]
            for token in row.view(-1, row.shape[-1]):
                h = weight @ token
                if bias is not None:
                    h = h + bias.double()
                for g, (A_e, B_e) in zip(gates, pairs, strict=True):
                    h = h + self.config.scale * g * (B_e @ (A_e @ token))
                rows.append(h)
        return torch.stack(rows).view(*x.shape[:-1], -1)

    def trained(self) -> list[nn.Parameter]:
        """Experts and gate."""
        tables = (self.layer.expert_A, self.layer.expert_B)
        return [*(table["x"] for table in tables), *self.gate.parameters()]


# The gate ---------------------------------------------------------------------------------


@ALL_METHODS
def test_gate_is_that_of_its_formula_over_the_tasks_own_experts(config):
    torch.manual_seed(0)
    gate = make_gate(config, layers=3)
    found = gate()
    assert found.shape == (3, len(TASKS), config.num_experts)
    for layer in range(3):
        for task in range(len(TASKS)):
            expected = layer_gates(gate, layer, task)
            torch.testing.assert_close(found[layer, task].double(), expected, rtol=1e-5, atol=1e-6)


@given(
    tasks=st.integers(1, 5),
    common=st.integers(0, 4),
    specific=st.integers(0, 3),
    kind=st.sampled_from(["task", "uniform"]),
    spread=st.sampled_from([0.0, 1.0, 100.0]),
)
@settings(max_examples=25, deadline=None)
def test_gate_rows_sum_to_one_and_other_tasks_experts_get_exactly_zero(
    tasks, common, specific, kind, spread
):
    if common + specific == 0:
        common = 1
    config = AdapterConfig(tuple(map(str, range(tasks))), common, specific, gate=kind)
    gate = TaskGate(config, 2)
    if kind == "task":
        nn.init.normal_(gate.projection, std=spread)
    weights = gate()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, tasks))
    for task in range(tasks):
        others = set(range(config.num_experts)) - set(allowed_experts(config, task))
        assert not weights[:, task, sorted(others)].any()


def test_a_new_gate_is_uniform():
    weights = TaskGate(CGC, 2)()
    torch.testing.assert_close(weights[weights > 0], torch.full((2 * 3 * 5,), 1 / 5))


def test_without_a_gate_every_allowed_expert_has_weight_one():
    config = replace(CGC, gate="none")
    assert TaskGate(config, 1)()[0].tolist() == [list(map(float, row)) for row in config.access()]


def test_skills_are_sampled_as_relaxed_bernoulli_variables_while_training():
    """At temperature 1 they are sigmoids of logits with logistic noise (arXiv 1611.00712)."""
    seeds = torch.arange(20_000, dtype=torch.int32)
    noise = logistic_noise(seeds, 2, 3)
    gate = make_gate(METHODS["C-Poly"], layers=2)
    tasks = torch.ones(len(seeds), dtype=torch.long)
    with torch.no_grad():
        drawn = gate(tasks, noise)
        samples = (gate.logits[:, 1, None] + noise).sigmoid()
        expected = samples / samples.sum(-1, keepdim=True)
        torch.testing.assert_close(drawn[..., :3], expected)
        torch.testing.assert_close(drawn[:, :, 5:7], torch.full((2, len(seeds), 2), 0.5))
        assert not drawn[..., [3, 4, 7, 8]].any()
    levels = torch.linspace(0.05, 0.95, 10)[:, None, None]
    found = noise.quantile(levels.flatten(), dim=1)
    error = 1 / (len(seeds) * levels * (1 - levels)).sqrt()  # standard error of such a quantile
    assert ((found - (levels / (1 - levels)).log()).abs() < 5 * error).all()
    assert torch.equal(logistic_noise(seeds[5:9], 2, 3), noise[:, 5:9])
    together = noise.transpose(0, 1).flatten(1).T.corrcoef()  # of layers and skills
    assert (together - torch.eye(6)).abs().max() < 0.03


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_layers_share_a_gate_if_and_only_if_the_scope_is_the_model(scope):
    torch.manual_seed(0)
    weights = make_gate(replace(CGC, gate_scope=scope), layers=3)()
    assert torch.equal(weights[0], weights[1]) == (scope == "model")


def test_a_fixed_gate_has_nothing_to_train():
    for kind in ("uniform", "none"):
        assert not list(TaskGate(replace(CGC, gate=kind), 2).parameters())


def test_the_gate_reads_the_task_and_not_the_token():
    case = Case(CGC)
    x = torch.randn(2, 4, 6)
    doubled = case(torch.cat([x, 5 * x]), [1, 1, 1, 1])
    torch.testing.assert_close(doubled[2:], 5 * doubled[:2], rtol=1e-4, atol=1e-5)


# The layer against the formula ------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_output_and_gradients_are_those_of_the_sum_over_experts(data):
    draw = data.draw
    common = draw(st.integers(0, 3), "common")
    tasks = draw(st.integers(1, 4), "tasks")
    config = AdapterConfig(
        tuple(map(str, range(tasks))),
        common,
        draw(st.integers(0 if common else 1, 2), "specific"),
        draw(st.integers(1, 3), "rank"),
        shared_A=draw(st.booleans(), "shared A"),
        gate=draw(st.sampled_from(["task", "skills", "uniform", "none"]), "gate"),
        scale_rule=draw(st.sampled_from(["expert", "active", "total", "sqrt"]), "rule"),
        embedding_size=3,
        alpha=2.0,
    )
    inner, outer = draw(st.integers(1, 7), "in"), draw(st.integers(1, 7), "out")
    dtype = draw(st.sampled_from([torch.float32, torch.float64]), "dtype")
    case = Case(config, inner=inner, outer=outer, bias=draw(st.booleans(), "bias"), dtype=dtype)
    ids = draw(st.lists(st.integers(0, tasks - 1), min_size=1, max_size=4), "task ids")
    between = draw(st.lists(st.integers(1, 3), max_size=3), "tokens, heads, ...")
    x = torch.randn(len(ids), *between, inner, dtype=dtype)

    found, expected = case(x, ids), case.expected(x, ids)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, **CLOSE)

    upstream = torch.randn_like(expected)
    ours = torch.autograd.grad((found.double() * upstream).sum(), case.trained())
    theirs = torch.autograd.grad((expected * upstream).sum(), case.trained())
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["one", "members", "rows", "dropped"])
@pytest.mark.parametrize("between", [(), (3,), (2, 3), (3, 2, 2)])
def test_experts_are_their_formula_whatever_lies_between_batch_and_features(between, kind):
    """One row and one place in it at a time, in float64."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    batch, inner, outer, rank = 4, 5, 6, 3
    members = 2 if kind == "members" else 1
    rows = slice(1, 3) if kind == "rows" else slice(0, batch)
    A, B = random(members, rank, inner), random(members, rank, outer)
    weights, x = random(rows.stop - rows.start, 1, rank), random(batch, *between, inner)
    y = random(batch, *between, outer)
    dropout = None
    if kind == "dropped":
        dropout = RowDropout(0.5, torch.arange(batch, dtype=torch.int32))
    kept = torch.ones_like(x) if dropout is None else dropout(x)
    expected = y.clone()
    for row in range(rows.start, rows.stop):
        place = row - rows.start
        A_m, B_m = (table[place * members // batch] for table in (A, B))
        inputs, outputs = (t[row].reshape(-1, t.shape[-1]) for t in (x * kept, expected))
        for token, (value, before) in enumerate(zip(inputs, outputs.clone(), strict=True)):
            outputs[token] = before + ((A_m @ value) * weights[place, 0]) @ B_m
        expected[row] = outputs.view(expected[row].shape)
    if members == 1:
        A, B = A[0], B[0]
    LayerExperts(A, B, weights, rows if kind == "rows" else None, dropout).add(x, y)
    torch.testing.assert_close(y, expected)


@ALL_METHODS
def test_every_method_is_the_same_formula(config):
    case = Case(config, bias=True)
    x = torch.randn(4, 3, 6)
    torch.testing.assert_close(
        case(x, [2, 0, 1, 0]).double(), case.expected(x, [2, 0, 1, 0]), **CLOSE
    )


def test_moe_lora_is_its_published_formula_batch_first():
    """As many rows as tokens, so that a gate laid along the tokens would go unnoticed by shapes."""
    rank, count, alpha = 8, 4, 32.0
    case = Case(AdapterConfig.moe_lora(TASKS, experts=count, rank=rank, dropout=0.0))
    x = torch.randn(3, 3, 6)
    ids = [2, 0, 1]
    A, B = (table["x"].detach().double() for table in (case.layer.expert_A, case.layer.expert_B))
    A, B = A.view(count, rank // count, 6), B.view(5, count, rank // count)
    for row, task in enumerate(ids):
        omega = (case.gate.projection[0] @ case.gate.embedding[task]).double().softmax(0)
        for token in range(3):
            y = case.layer.base_layer.weight.double() @ x[row, token].double()
            for i in range(count):
                y = y + omega[i] * (alpha / rank) * (B[:, i] @ (A[i] @ x[row, token].double()))
            torch.testing.assert_close(case(x, ids)[row, token].double(), y, **CLOSE)


def test_bf16_layer_with_fp32_experts_is_close_to_fp32():
    x = torch.randn(3, 4, 6)
    case, half = Case(CGC), Case(CGC, dtype=torch.bfloat16)
    found = half(x.bfloat16(), [0, 1, 2])
    assert found.dtype == torch.bfloat16
    assert half.layer.expert_A["x"].dtype == torch.float32
    torch.testing.assert_close(found.float(), case(x, [0, 1, 2]), rtol=0.05, atol=0.3)


def test_autocast_to_bf16_is_close_to_fp32_and_trains_fp32_weights():
    case = Case(CGC)
    x = torch.randn(3, 4, 6)
    exact = case(x, [0, 1, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = case(x, [0, 1, 2])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.3)
    wanted = torch.autograd.grad(exact.sum(), case.trained())
    for gradient, near in zip(
        torch.autograd.grad(found.float().sum(), case.trained()), wanted, strict=True
    ):
        assert gradient.dtype == torch.float32
        assert (gradient - near).norm() <= 0.05 * near.norm()


def test_rows_of_a_wrong_batch_are_refused():
    case = Case(CGC)
    with pytest.raises(ValueError, match=r"3 rows.*2 tasks"):
        case(torch.randn(3, 4, 6), [0, 1])


def test_without_a_route_the_layer_is_the_frozen_one():
    case = Case(CGC)
    x = torch.randn(2, 4, 6)
    frozen = case.layer.base_layer(x)
    for route in (None, Route({})):
        case.layer.routing.route = route
        assert torch.equal(case.layer(x), frozen)


def test_new_experts_change_nothing_and_start_as_plain_lora_does():
    layer = ExpertLinear(nn.Linear(100, 5), Routing())
    add_experts(layer, CGC)
    A, B = layer.expert_A["x"], layer.expert_B["x"]
    assert (A.shape, B.shape) == ((CGC.total_rank, 100), (5, CGC.total_rank))
    assert not B.any()
    assert A.abs().max() <= 1 / math.sqrt(100)
    assert A.detach().std() == pytest.approx(1 / math.sqrt(3 * 100), rel=0.1)


# Dropout ----------------------------------------------------------------------------------


def test_dropout_acts_only_while_training():
    case = Case(replace(CGC, dropout=0.5))
    x = torch.randn(2, 4, 6)
    torch.testing.assert_close(case(x, [0, 1]).double(), case.expected(x, [0, 1]), **CLOSE)
    case.layer.train()
    assert not torch.equal(case(x, [0, 1]), case(x, [0, 1]))


def test_dropout_leaves_the_frozen_product_alone():
    case = Case(replace(CGC, dropout=0.5))
    nn.init.zeros_(case.layer.expert_B["x"])
    x = torch.randn(2, 4, 6)
    case.layer.train()
    assert torch.equal(case(x, [0, 1]), case.layer.base_layer(x))


def test_dropout_is_right_on_average():
    case = Case(replace(CGC, dropout=0.5))
    token = torch.randn(1, 1, 6)
    expected = case.expected(token, [1])[0, 0]
    case.layer.train()
    many = case(token.expand(1, 40_000, 6), [1])[0].double()
    error = many.std(dim=0) / math.sqrt(len(many))
    assert ((many.mean(dim=0) - expected).abs() < 5 * error).all()
    assert (error > 0).all()


@pytest.mark.parametrize("between", [(), (40,), (20, 3), (10, 3, 2)])
def test_what_is_dropped_is_a_rows_own_wherever_its_tokens_lie(between):
    x = torch.ones(4, *between, 500)
    seeds = torch.tensor([3, 1, 4, 1], dtype=torch.int32)
    kept = RowDropout(0.25, seeds)(x)
    assert kept.shape == x.shape
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    error = 5 * math.sqrt(0.25 * 0.75 / x.numel())
    assert float((kept > 0).double().mean()) == pytest.approx(0.75, abs=error)
    assert torch.equal(kept[1], kept[3])
    assert torch.equal(RowDropout(0.25, seeds[2:3])(x[2:3]), kept[2:3])
    if between:
        assert torch.equal(RowDropout(0.25, seeds)(x[:, :5]), kept[:, :5])
        places = kept[0].reshape(-1, 500)
        assert len(places.unique(dim=0)) == len(places)


# Cost -------------------------------------------------------------------------------------


@ALL_METHODS
def test_products_do_not_grow_with_the_number_of_experts(config):
    counts = []
    for settings_ in (config, replace(config, common=1), replace(config, common=40)):
        case = Case(settings_)
        x = torch.randn(4, 3, 6)
        case.layer.routing.route = case.route(case.weights([0, 1, 2, 0]).detach())
        with Operations() as operations:
            case.layer(x)
        counts.append((operations.products(), operations.count.total()))
    assert counts[0][0] == 3 + config.shared_A  # the frozen one, A and B; a task's matrix
    assert len(set(counts)) == 1


def test_a_forward_pass_never_needs_to_look_at_a_value():
    """Tensors without values have none to look at, so any wait for the device would raise."""
    case = Case(CGC, device="meta")
    found = case(torch.empty(3, 4, 6, device="meta"), [0, 1, 2])
    assert found.shape == (3, 4, 5)
    found.sum().backward()


# Folding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", range(len(TASKS)))
@ALL_METHODS
def test_a_folded_layer_gives_the_same_output(config, task):
    case = Case(config, bias=True)
    x = torch.randn(2, 3, 6)
    expected = case.expected(x, [task, task])
    fold_layer(case.layer, "x", case.weights([task])[0])
    case.layer.routing.route = None
    torch.testing.assert_close(case.layer(x).double(), expected, **CLOSE)


def test_unfolding_brings_back_the_very_tensor():
    case = Case(CGC)
    frozen = case.layer.base_layer.weight
    bits = frozen.clone()
    for task in (0, 1):
        fold_layer(case.layer, "x", case.weights([task])[0])
    assert case.layer.frozen_weight is not None
    assert not torch.equal(case.layer.base_layer.weight, bits)
    for _ in range(2):
        unfold_layer(case.layer)
        assert case.layer.frozen_weight is None
        assert case.layer.base_layer.weight is frozen
        assert torch.equal(frozen, bits)
