"""What the method's tests compare with: its formulas, an expert at a time, in float64."""

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.layer import TaskGate
from tests.helpers.tiny import VOCABULARY

TASKS = ("names", "mood", "summary")
METHODS = {
    "LoRA": AdapterConfig.lora(TASKS, rank=6),
    "MOE-LoRA": AdapterConfig.moe_lora(TASKS, experts=4, rank=8, embedding_size=5),
    "CGC-LoRA": AdapterConfig(TASKS, common=3, specific=2, expert_rank=2, embedding_size=5),
    "CGC-LoRA, one gate": AdapterConfig(
        TASKS, common=2, expert_rank=2, embedding_size=5, gate_scope="model"
    ),
    "CGC-LoRA w/o gate": AdapterConfig(TASKS, common=3, specific=2, gate="uniform"),
    "CGC-LoRA w/o common": AdapterConfig(TASKS, common=0, specific=2),
    "CGC-LoRA w/o specific": AdapterConfig(TASKS, common=3, specific=0),
    "MTL-LoRA": AdapterConfig.mtl_lora(TASKS, experts=3, rank=4, embedding_size=5),
    "C-Poly": AdapterConfig.c_poly(TASKS, common=3, specific=2),
}


def token_ids(batch: int, tokens: int = 7) -> Tensor:
    """Different ids for every row, [batch, tokens]; the same at every call."""
    return torch.arange(3, 3 + batch * tokens).remainder(VOCABULARY).view(batch, tokens)


def scatter(adapter: Adapter, seed: int = 1) -> Adapter:
    """Give all trained weights random values: beside a new adapter's B, zero, nothing shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapter


def allowed_experts(config: AdapterConfig, task: int) -> list[int]:
    """The experts a task may use: the common ones, then its own."""
    own = config.common + task * config.specific
    return [*range(config.common), *range(own, own + config.specific)]


def gate_weights(config: AdapterConfig, task: int, projection: Tensor, embedding: Tensor) -> Tensor:
    """One layer's gate for one task, in float64, [E].

    Args:
        config: Kind of gate and experts.
        task: Its id.
        projection: The layer's [E, D], or logits [T, C] of skills; not read of a fixed gate.
        embedding: [T, D]; not read unless the gate is learned from it.
    """
    allowed = allowed_experts(config, task)
    if config.gate == "skills":
        skills = projection[task].double().sigmoid()
        weights = torch.zeros(config.num_experts, dtype=torch.float64)
        weights[allowed[config.common :]] = 1 / max(config.specific, 1)
        return torch.cat([skills / skills.sum(), weights[config.common :]])
    weights = [torch.zeros((), dtype=torch.float64)] * config.num_experts
    for e in allowed:
        if config.gate == "task":
            weights[e] = torch.dot(projection[e].double(), embedding[task].double()).exp()
        else:
            weights[e] = torch.ones((), dtype=torch.float64)
    total = 1 if config.gate == "none" else sum(weights)
    return torch.stack(weights) / total


def adapter_gates(adapter: Adapter, layer: int, task: int) -> Tensor:
    """`gate_weights` with an adapter's own parameters."""
    return layer_gates(adapter.gate, layer, task).detach()


def layer_gates(gate: TaskGate, layer: int, task: int) -> Tensor:
    """`gate_weights` of a gate's own parameters."""
    row = layer if gate.config.gate_scope == "layer" else 0
    parameters = (torch.empty(0),) * 2
    if gate.config.gate == "task":
        parameters = (gate.projection[row], gate.embedding)
    elif gate.config.gate == "skills":
        parameters = (gate.logits[row], torch.empty(0))
    return gate_weights(gate.config, task, *parameters)


def turn(gate: TaskGate, layer: int, task: int) -> Tensor | None:
    """A task's matrix [rank, rank] in one layer, if it has one."""
    return gate.turns[layer, task] if gate.config.shared_A else None


def experts(
    A: Tensor, B: Tensor, rank: int, turned: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The matrices of each expert, [rank, in] and [out, rank], in float64.

    With a task's matrix `turned` A is one for all, [rank, in].
    """
    for e in range(B.shape[1] // rank):
        rows = slice(e * rank, (e + 1) * rank)
        own = A[rows].double() if turned is None else turned.double() @ A.double()
        yield own, B[:, rows].double()


def merged(bare: PreTrainedModel, adapter: Adapter, task: str) -> PreTrainedModel:
    """A float64 backbone that holds W0 + s * sum_e g_e B_e A_e for one task, or ... B_e M A.

    Args:
        bare: The backbone without adapters.
        adapter: Attached to another copy of it.
        task: One of the adapter's tasks.
    """
    model = deepcopy(bare).double()
    config = adapter.config
    for row, (path, layer) in enumerate(adapter.layers.items()):
        weight = model.get_submodule(path).weight
        place = config.tasks.index(task)
        gates, turned = adapter_gates(adapter, row, place), turn(adapter.gate, row, place)
        A, B = layer.expert_A[adapter.name].detach(), layer.expert_B[adapter.name].detach()
        pairs = experts(A, B, config.expert_rank, turned)
        for gate, (A_e, B_e) in zip(gates, pairs, strict=True):
            weight.data += (config.scale * gate * (B_e @ A_e)).detach()
    return model


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits in float64, without a graph, [batch, tokens, V]."""
    with torch.no_grad():
        return model(input_ids=ids).logits.double()


class Operations(TorchDispatchMode):
    """Counts the tensor operations that run inside it, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def products(self) -> int:
        """How many matrix products ran."""
        names = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "mv", "addmv", "dot")
        return sum(self.count[name] + self.count[f"{name}_"] for name in names)
