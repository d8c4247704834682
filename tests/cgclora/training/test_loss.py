"""Loss and head against the full logits of the backbone and PyTorch's own cross entropy."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import cgclora.training.loss
from cgclora.adapter import Adapter
from cgclora.models.checkpoint import BackboneError
from cgclora.models.lm_head import OutputHead, cap
from cgclora.training.loss import TargetLoss
from tests.helpers.reference import METHODS, TASKS, scatter, token_ids
from tests.helpers.tiny import ARCHITECTURES, VOCABULARY, make_model

SOFTCAP = 1.5  # small, so that it bends the logits of a random model
OTHERS = {
    "gemma2": {"final_logit_softcapping": SOFTCAP, "sliding_window": 16},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "phi": {},  # its head has a bias, zero at first
}
EVERY = pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2", "granite"])

POSITIONS = torch.tensor([3, 4, 9, 17, 9])  # of 3 rows of 7 tokens; one stands there twice
TARGETS = torch.tensor([5, 299, 0, 7, 8])


@pytest.fixture(autouse=True)
def _others(monkeypatch):
    """Let `make_model` make a few more architectures."""
    for name, settings in OTHERS.items():
        monkeypatch.setitem(ARCHITECTURES, name, settings)


def adapted(architecture: str) -> Adapter:
    """An adapter that matters on a tiny model."""
    return scatter(Adapter.attach(make_model(architecture), METHODS["CGC-LoRA"]))


def losses(adapter: Adapter, positions: Tensor = POSITIONS, targets: Tensor = TARGETS) -> Tensor:
    """From the tested module, for `token_ids(3)`."""
    module, ids = TargetLoss(adapter.model), token_ids(3)
    with adapter.route(TASKS):
        return module(ids, positions, targets)


def expected_losses(adapter: Adapter) -> Tensor:
    """From all logits, in float64."""
    with adapter.route(TASKS):
        logits = adapter.model(input_ids=token_ids(3)).logits.double().flatten(0, 1)
    return F.cross_entropy(logits[POSITIONS], TARGETS, reduction="none")


@EVERY
def test_losses_and_gradients_are_those_of_the_full_logits(architecture):
    adapter = adapted(architecture)
    parameters = [parameter for _, parameter in adapter.named_parameters()]
    found, expected = losses(adapter), expected_losses(adapter)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0])  # another one for every target
    ours, theirs = (
        torch.autograd.grad((loss * upstream).sum(), parameters) for loss in (found, expected)
    )
    for our, their in zip(ours, theirs, strict=True):
        assert (our - their).norm() <= 1e-4 * their.norm()


class Largest(TorchDispatchMode):
    """The most logits that any one tensor made inside it held: products of rows of the head."""

    def __init__(self, head: Tensor) -> None:
        super().__init__()
        self.head = head.untyped_storage().data_ptr()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == "mm":
            transposed = args[1].stride(0) == 1
            if transposed and args[1].untyped_storage().data_ptr() == self.head:
                self.most = max(self.most, found.numel())
        return found


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2"])
@pytest.mark.parametrize("words", [1, 7, 100, VOCABULARY - 1, VOCABULARY])
def test_blocks_hold_few_logits_and_give_the_same_losses(architecture, words, monkeypatch):
    adapter = adapted(architecture)
    parameters = [parameter for _, parameter in adapter.named_parameters()]
    wanted = expected_losses(adapter)
    gradients = torch.autograd.grad(wanted.sum(), parameters)
    monkeypatch.setitem(cgclora.training.loss.BLOCK_LOGITS, "cpu", words * len(TARGETS))
    module, ids = TargetLoss(adapter.model), token_ids(3)
    with adapter.route(TASKS), Largest(module.head.weight) as largest:
        found = module(ids, POSITIONS, TARGETS)
    assert largest.most == words * len(TARGETS)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    found_gradients = torch.autograd.grad(found.sum(), parameters)
    for gradient, want in zip(found_gradients, gradients, strict=True):
        assert (gradient - want).norm() <= 1e-4 * want.norm()


def test_more_targets_than_a_block_has_logits_are_computed(monkeypatch):
    adapter = adapted("qwen2")
    whole = losses(adapter)
    monkeypatch.setitem(cgclora.training.loss.BLOCK_LOGITS, "cpu", 1)
    torch.testing.assert_close(losses(adapter), whole)


@pytest.mark.parametrize("margin", [5.0, 12.0, 20.0])
def test_the_gradient_of_a_nearly_certain_target_keeps_its_precision(margin):
    """In bf16 the target's part of the gradient and that of the others almost cancel."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 32, generator=generator).bfloat16()
    target = torch.tensor([7])
    hidden = (weight[7] * (margin / weight[7].float().square().sum())).unsqueeze(0)
    exact = hidden.double().requires_grad_()
    F.cross_entropy(exact @ weight.double().T, target).backward()
    rounded = hidden.clone().requires_grad_()
    apply = cgclora.training.loss._FrozenHeadCrossEntropy.apply
    apply(rounded, weight, target, None).sum().backward()
    error = (rounded.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert error < 0.03


def test_padding_on_the_right_changes_no_loss():
    adapter = adapted("gemma3")
    module = TargetLoss(adapter.model)
    ids = token_ids(1, tokens=6)
    padded = F.pad(ids, (0, 4))
    places, targets = torch.tensor([2, 5]), torch.tensor([7, 8])
    with adapter.route(["mood"]):
        short = module(ids, places, targets)
        torch.testing.assert_close(module(padded, places, targets), short)


def test_a_batch_without_targets_has_no_losses():
    none = torch.empty(0, dtype=torch.long)
    found = losses(adapted("qwen2"), none, none)
    assert found.shape == (0,)
    found.sum().backward()


def test_the_head_gets_no_gradient():
    adapter = adapted("llama")
    losses(adapter).sum().backward()
    assert adapter.model.get_output_embeddings().weight.grad is None


def test_losses_are_the_same_where_no_gradient_is_wanted():
    adapter = adapted("gemma2")
    with torch.no_grad():
        found = losses(adapter)
    assert not found.requires_grad
    assert torch.equal(found, losses(adapter))


def test_bf16_losses_are_fp32_and_close():
    adapter = adapted("qwen2")
    exact = losses(adapter)
    adapter.model.bfloat16()
    found = losses(adapter)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.05)


# The head ---------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2", "granite", "cohere"])
def test_the_head_gives_the_backbones_own_logits(architecture):
    model = make_model(architecture)
    ids = token_ids(2)
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=ids).last_hidden_state
        own = model(input_ids=ids).logits
        head = OutputHead(model)
        torch.testing.assert_close(head(hidden.flatten(0, 1)), own.flatten(0, 1))
        torch.testing.assert_close(head(hidden[:, -1]), own[:, -1])
        some = torch.tensor([7, 3])
        torch.testing.assert_close(head.of_words(hidden[:, -1], some), own[:, -1, some])


def test_softcap_is_read_from_the_config_and_bounds_the_logits():
    head = OutputHead(make_model("gemma2"))
    assert head.softcap == SOFTCAP
    logits = head(100 * torch.randn(4, 32))
    assert logits.abs().max() == pytest.approx(SOFTCAP)
    assert OutputHead(make_model("qwen2")).softcap is None


def test_cap_is_a_scaled_tanh():
    logits = torch.tensor([-1e9, -3.0, 0.0, 3.0, 1e9])
    expected = 2 * torch.tanh(logits.double() / 2)
    torch.testing.assert_close(cap(logits, 2.0).double(), expected, rtol=1e-6, atol=1e-6)
    assert cap(logits, None) is logits


def test_a_backbone_that_changes_its_logits_otherwise_is_refused():
    model = make_model("phi")
    for user in (OutputHead, TargetLoss):
        with pytest.raises(BackboneError, match=type(model).__name__):
            user(model)


def test_the_head_follows_its_model():
    model = make_model()
    head = OutputHead(model)
    model.bfloat16()
    assert head.weight is model.get_output_embeddings().weight
    assert head(torch.randn(2, 32)).dtype == torch.float32


def test_dropout_neither_disturbs_the_check_nor_is_switched_off_by_it():
    model = make_model().train()
    model.model.norm = nn.Sequential(model.model.norm, nn.Dropout(0.9))
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    OutputHead(model)
    assert [module.training for module in model.modules()] == before
