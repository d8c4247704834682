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
        projection: The layer's [E, D]; not read unless the gate is learned.
        embedding: [T, D]; not read unless the gate is learned.
    """
    allowed = allowed_experts(config, task)
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
    gate, row = adapter.gate, layer if adapter.config.gate_scope == "layer" else 0
    learned = adapter.config.gate == "task"
    parameters = (gate.projection[row], gate.embedding) if learned else (torch.empty(0),) * 2
    return gate_weights(adapter.config, task, *parameters).detach()


def experts(A: Tensor, B: Tensor, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The matrices of each expert, [rank, in] and [out, rank], in float64."""
    for e in range(A.shape[0] // rank):
        rows = slice(e * rank, (e + 1) * rank)
        yield A[rows].double(), B[:, rows].double()


def merged(bare: PreTrainedModel, adapter: Adapter, task: str) -> PreTrainedModel:
    """A float64 backbone that holds W0 + s * sum_e g_e B_e A_e for one task.

    Args:
        bare: The backbone without adapters.
        adapter: Attached to another copy of it.
        task: One of the adapter's tasks.
    """
    model = deepcopy(bare).double()
    config = adapter.config
    for row, (path, layer) in enumerate(adapter.layers.items()):
        weight = model.get_submodule(path).weight
        gates = adapter_gates(adapter, row, config.tasks.index(task))
        A, B = layer.expert_A[adapter.name].detach(), layer.expert_B[adapter.name].detach()
        for gate, (A_e, B_e) in zip(gates, experts(A, B, config.expert_rank), strict=True):
            weight.data += config.scale * gate * (B_e @ A_e)
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
