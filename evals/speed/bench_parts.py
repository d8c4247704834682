"""What parts of the benchmark are made of: batches to train on and to answer, and bars."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.data.records import encode_prompts
from cgclora.inference.batch import Batch
from cgclora.inference.multi_adapter import Adapters
from cgclora.inference.request import Request
from cgclora.models.backbone import Backbone
from cgclora.training.loss import TargetLoss

TASKS = tuple(f"task {number}" for number in range(16))
TARGETS = 16
NEW_TOKENS = 24
PROMPT = "判断下面两句话的意思是否相同：\n“今天天气怎么样”，“今天会下雨吗”\n选项：是的，不是\n答："


@dataclass(frozen=True)
class Bar:
    """What a method of a part has to reach.

    Attributes:
        of: The method measured.
        least: The least allowed value of the reference's time or memory over the method's.
        against: The method that is the reference, or a number of seconds.
        what: What is compared: `seconds`, or the `memory` that the process needs at most.
    """

    of: str
    least: float
    against: str | float
    what: Literal["seconds", "memory"] = "seconds"


@dataclass(frozen=True)
class Part:
    """Methods to time against one another, and the bars on their ratios.

    Attributes:
        methods: What to time, by name.
        bars: On ratios of methods.
        grows: What there is more of from method to method, see `evals.speed.bench_growth`.
    """

    methods: Mapping[str, Callable[[], None]]
    bars: Sequence[Bar]
    grows: str | None = None


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules that shares the frozen weights, so that copies cost no memory."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def decode(backbone: Backbone, tasks: Sequence[str | None], experts: Adapters = None) -> None:
    """Greedy decoding of exactly `NEW_TOKENS` tokens a row."""
    prompts = encode_prompts([PROMPT] * len(tasks), backbone.tokenizer, "\n")
    batch = Batch(backbone, experts, [Request(task, PROMPT) for task in tasks], prompts)
    logits = batch.prefill()
    for _ in range(NEW_TOKENS - 1):
        logits = batch.step(logits.argmax(-1).tolist())


def training_batch(backbone: Backbone, rows: int = 8, tokens: int = 128) -> dict[str, Tensor]:
    """Random tokens of which the last `TARGETS` of each row are targets."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = cast(nn.Embedding, backbone.model.get_input_embeddings()).num_embeddings
    ids = torch.randint(3, vocabulary, (rows, tokens), generator=generator)
    places = torch.arange(rows * tokens).view(rows, tokens)[:, -TARGETS - 1 : -1].flatten()
    batch = {
        "input_ids": ids,
        "positions": places,
        "targets": ids[:, -TARGETS:].flatten(),
    }
    return {name: tensor.to(backbone.model.device) for name, tensor in batch.items()}


def expert_step(
    backbone: Backbone, config: AdapterConfig, batch: Mapping[str, Tensor]
) -> Callable[[], None]:
    """A training step of a new adapter, whose rows are of all tasks in turn."""
    adapter = Adapter.attach(twin(backbone.model), config)
    tasks = torch.arange(len(batch["input_ids"])) % len(config.tasks)
    return training_step(TargetLoss(adapter.model), batch, functools.partial(adapter.route, tasks))


def training_step(
    loss: TargetLoss,
    batch: Mapping[str, Tensor],
    route: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Callable[[], None]:
    """Forward, backward and optimizer step, with the loss on target positions only."""
    trained = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    loss.train()

    def step() -> None:
        with route():
            loss(**batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
