"""Looking into an adapter at work, against the same numbers computed another way."""

import math

import pytest
import torch

from cgclora.adapter import Adapter
from cgclora.analysis.probe import contributions, label_probabilities, scaled_gates
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.chat import encode_prompts
from cgclora.inference.request import DecodingError, Request
from cgclora.models.backbone import Backbone
from tests.helpers.tiny import ARCHITECTURES, make_backbone

TASKS = ("a", "b", "c")
LABELS = ("好", "好的", "不好", "a cat", "the dog and the cat", "好的好")
PROMPT = "今天天气很好，我们去公园散步。这句话说的是什么意思？"


def attached(backbone: Backbone, *, name: str = "some", **changes: object) -> Adapter:
    """An adapter whose experts and gate are not zero."""
    config = AdapterConfig(tasks=TASKS, common=2, specific=2, **changes)  # type: ignore[arg-type]
    adapter = Adapter.attach(backbone, config, name=name)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter.normal_(0, 0.2, generator=generator)
    return adapter


def likelihood(
    backbone: Backbone, adapter: Adapter | None, task: str | None, label: str, **route: torch.Tensor
) -> float:
    """log p(label, end | prompt): the whole text in one pass, the backbone's own logits."""
    (prompt,) = encode_prompts([PROMPT], backbone.tokenizer, "\n")
    said = backbone.tokenizer(label, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt, *said, backbone.tokenizer.eos_token_id]])
    with torch.no_grad():
        if adapter is None:
            logits = backbone.model(input_ids=ids).logits
        else:
            with adapter.route([task], **route):
                logits = backbone.model(input_ids=ids).logits
    each = logits[0, :-1].double().log_softmax(-1).gather(1, ids[0, 1:, None])
    return float(each[len(prompt) - 1 :].sum())


def shares(likelihoods: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in likelihoods)
    return [math.exp(value) / total for value in likelihoods]


# Labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_label_probabilities_are_those_of_each_text_read_by_itself(architecture: str) -> None:
    backbone = make_backbone(architecture)
    adapter = attached(backbone)
    own = label_probabilities(backbone, Request("b", PROMPT), LABELS, adapter)
    expected = shares([likelihood(backbone, adapter, "b", label) for label in LABELS])
    assert own == pytest.approx(expected, rel=1e-3)
    assert sum(own) == pytest.approx(1)


def test_the_bare_backbone_has_label_probabilities_too() -> None:
    backbone = make_backbone()
    own = label_probabilities(backbone, Request(None, PROMPT), LABELS)
    expected = shares([likelihood(backbone, None, None, label) for label in LABELS])
    assert own == pytest.approx(expected, rel=1e-3)
    adapter = attached(backbone)
    beside = label_probabilities(backbone, Request(None, PROMPT), LABELS, adapter)
    assert beside == pytest.approx(expected, rel=1e-3)


def test_gates_of_one_s_own_change_label_probabilities() -> None:
    backbone = make_backbone()
    adapter = attached(backbone)
    gates = adapter.gates()[:, 0].clone()
    gates[:, 0] = 0
    request = Request("a", PROMPT, gates=gates)
    own = label_probabilities(backbone, request, LABELS, adapter)
    each = [likelihood(backbone, adapter, "a", t, gates=gates.unsqueeze(1)) for t in LABELS]
    assert own == pytest.approx(shares(each), rel=1e-3)
    assert own != pytest.approx(
        label_probabilities(backbone, Request("a", PROMPT), LABELS, adapter), rel=0.01
    )


def test_a_folded_task_has_the_label_probabilities_that_it_has_on_the_side() -> None:
    backbone = make_backbone()
    adapter = attached(backbone)
    beside = label_probabilities(backbone, Request("c", PROMPT), LABELS, adapter)
    adapter.fold("c")
    folded = label_probabilities(backbone, Request("c", PROMPT), LABELS, adapter)
    assert folded == pytest.approx(beside, rel=1e-3)


def test_more_labels_than_are_computed_at_once_are_all_there() -> None:
    backbone = make_backbone()
    labels = [f"{word} {number}" for word in ("cat", "dog") for number in range(40)]
    own = label_probabilities(backbone, Request(None, PROMPT), labels)
    expected = shares([likelihood(backbone, None, None, label) for label in labels])
    assert own == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("labels", "complaint"), [((), "empty"), (("x", ""), "empty"), (("x", "y", "x"), r"\['x'\]")]
)
def test_labels_that_cannot_be_compared_are_refused(
    labels: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(DecodingError, match=complaint):
        label_probabilities(make_backbone(), Request(None, PROMPT), labels)


def test_a_question_that_cannot_be_asked_is_refused_before_the_labels_are_read() -> None:
    backbone = make_backbone()
    adapter = attached(backbone)
    with pytest.raises(DecodingError, match="empty"):
        label_probabilities(backbone, Request("a", " "), LABELS, adapter)
    with pytest.raises(DecodingError, match="shorten"):
        label_probabilities(backbone, Request("a", "好" * 300), LABELS, adapter)
    with pytest.raises(ConfigError, match="unknown"):
        label_probabilities(backbone, Request("unknown", PROMPT), LABELS, adapter)
    with pytest.raises(DecodingError, match="needs an adapter"):
        label_probabilities(backbone, Request("a", PROMPT), LABELS)


# Experts --------------------------------------------------------------------------------------


def what_layers_do(
    backbone: Backbone, adapter: Adapter, task: str, **route: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each layer's input [tokens, in] and output [tokens, out] in a pass over the prompt."""
    (prompt,) = encode_prompts([PROMPT], backbone.tokenizer, "\n")
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _, x, y: seen.append((x[0][0].clone(), y[0].clone())))
        for layer in adapter.layers.values()
    ]
    with torch.no_grad(), adapter.route([task], **route):
        backbone.model.get_decoder()(input_ids=torch.tensor([prompt]))
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
@pytest.mark.parametrize("own_gates", [False, True])
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    ("architecture", "shared_A"), [("gemma3", False), ("glm", False), ("gemma3", True)]
)
def test_updates_add_up_to_what_the_layer_adds_and_have_the_norms_that_are_told(
    architecture: str,
    prepared: bool,
    own_gates: bool,
    shared_A: bool,
) -> None:
    backbone = make_backbone(architecture)
    adapter = attached(backbone, expert_rank=3, shared_A=shared_A)
    if prepared:
        adapter.for_inference()
    task = "b"
    gates = adapter.gates()[:, 1]
    if own_gates:
        gates = scaled_gates(adapter, task, (0.5, 0, 1.5, 2), keep_sum=False)
    found = contributions(backbone, adapter, task, PROMPT, gates if own_gates else None)
    assert found.experts == (0, 1, 4, 5)
    assert found.layers == tuple(adapter.layers)
    seen = what_layers_do(backbone, adapter, task, gates=gates.unsqueeze(1))
    assert found.tokens == len(seen[0][0])
    for row, (layer, (x, y)) in enumerate(zip(adapter.layers.values(), seen, strict=True)):
        A, B = layer.expert_A["some"], layer.expert_B["some"]
        frozen = torch.nn.functional.linear(x, layer.base_layer.weight, layer.base_layer.bias)
        updates = []
        for e in found.experts:
            of_e = slice(3 * e, 3 * e + 3)
            A_e = adapter.gate.turns[row, 1] @ A if shared_A else A[of_e]
            updates.append(gates[row, e] * adapter.config.scale * x @ (B[:, of_e] @ A_e).T)
        assert torch.allclose(sum(updates), y - frozen, atol=1e-4)
        for place, update in enumerate(updates):
            norms = update.norm(dim=-1)
            assert float(found.updates[row, place]) == pytest.approx(float(norms.mean()), rel=1e-3)
            ratio = float((norms / frozen.norm(dim=-1)).mean())
            assert float(found.relative[row, place]) == pytest.approx(ratio, rel=1e-3)
    assert torch.allclose(found.gates, gates[:, list(found.experts)])


def test_measuring_leaves_nothing_behind() -> None:
    backbone = make_backbone()
    adapter = attached(backbone)
    contributions(backbone, adapter, "a", PROMPT)
    with pytest.raises(DecodingError):
        contributions(backbone, adapter, "a", "")
    assert not any(module._forward_hooks for module in backbone.model.modules())
    assert next(iter(adapter.layers.values())).routing.route is None


def test_an_expert_that_is_knocked_out_adds_nothing() -> None:
    backbone = make_backbone()
    adapter = attached(backbone)
    gates = scaled_gates(adapter, "a", (1, 0, 1, 1))
    found = contributions(backbone, adapter, "a", PROMPT, gates)
    assert (found.updates[:, 1] == 0).all()
    assert (found.updates[:, [0, 2, 3]] > 0).all()


def test_a_plain_lora_has_one_contribution() -> None:
    backbone = make_backbone()
    adapter = Adapter.attach(backbone, AdapterConfig.lora(TASKS, 4))
    found = contributions(backbone, adapter, "c", PROMPT)
    assert found.experts == (0,)
    assert (found.gates == 1).all()
    assert (found.relative == 0).all()  # B is zero still


def test_experts_of_a_folded_task_cannot_be_told_apart() -> None:
    backbone = make_backbone()
    adapter = attached(backbone)
    adapter.fold("a")
    with pytest.raises(DecodingError, match="folded in"):
        contributions(backbone, adapter, "a", PROMPT)


# Gates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_sum", [False, True])
def test_factors_scale_the_weights_of_every_layer(keep_sum: bool) -> None:
    adapter = attached(make_backbone())
    own = adapter.gates()[:, 1]
    changed = scaled_gates(adapter, "b", (2, 1, 0, 0.5), keep_sum=keep_sum)
    for row, before in zip(changed.tolist(), own.tolist(), strict=True):
        wanted = [2 * before[0], before[1], 0, 0, 0 * before[4], 0.5 * before[5], 0, 0]
        total = sum(wanted) if keep_sum else 1
        assert row == pytest.approx([value / total for value in wanted], abs=1e-6)


def test_with_factors_of_one_nothing_changes() -> None:
    backbone = make_backbone()
    adapter = attached(backbone)
    assert torch.allclose(scaled_gates(adapter, "a", (1, 1, 1, 1)), adapter.gates()[:, 0])


def test_without_any_expert_the_backbone_answers() -> None:
    backbone = make_backbone()
    adapter = attached(backbone)
    gates = scaled_gates(adapter, "a", (0, 0, 0, 0))
    assert (gates == 0).all()
    own = label_probabilities(backbone, Request("a", PROMPT, gates=gates), LABELS, adapter)
    bare = label_probabilities(backbone, Request(None, PROMPT), LABELS, adapter)
    assert own == pytest.approx(bare, rel=1e-4)


@pytest.mark.parametrize("factors", [(1, 1), (1, 1, 1, -1), (1, 1, 1, math.nan), ()])
def test_factors_that_make_no_sense_are_refused(factors: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="factors"):
        scaled_gates(attached(make_backbone()), "a", factors)
