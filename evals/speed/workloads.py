"""What the benchmarks time: training steps and decoding, on synthetic batches."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.data.chat import encode_prompts
from cgclora.inference.batch import Batch
from cgclora.inference.multi_adapter import Adapters, Clusters
from cgclora.inference.request import Request
from cgclora.models.backbone import Backbone
from cgclora.training.loss import TargetLoss

TASKS = tuple(f"task {number}" for number in range(16))
TARGETS = 16
NEW_TOKENS = 24
PROMPT = "判断下面两句话的意思是否相同：\n“今天天气怎么样”，“今天会下雨吗”\n选项：是的，不是\n答："


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules that shares the frozen weights and so costs no memory."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def own_modules(backbone: Backbone) -> Backbone:
    """A backbone on a `twin`: adapters attached to it leave the original bare."""
    return dataclasses.replace(backbone, model=twin(backbone.model))


def resident_clusters(backbone: Backbone, count: int) -> tuple[Clusters, list[tuple[str, ...]]]:
    """Clusters of 16 tasks with random weights on a twin, and the names of each one's tasks."""
    resident = Clusters(own_modules(backbone))
    names = []
    for place in range(count):
        config = AdapterConfig(tuple(f"cluster {place} {task}" for task in TASKS))
        adapter = Adapter.attach(resident.backbone, config, name=f"cluster_{place}", seed=place)
        generator = torch.Generator().manual_seed(place)
        with torch.no_grad():
            for layer in adapter.layers.values():
                weight = layer.expert_B[adapter.name]
                weight.copy_(0.01 * torch.randn(weight.shape, generator=generator))
        resident.add(str(place), adapter)
        names.append(config.tasks)
    return resident, names


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
    batch = {"input_ids": ids, "positions": places, "targets": ids[:, -TARGETS:].flatten()}
    return {name: tensor.to(backbone.model.device) for name, tensor in batch.items()}


def expert_step(
    backbone: Backbone, config: AdapterConfig, batch: Mapping[str, Tensor]
) -> Callable[[], None]:
    """A training step of a new adapter, with rows of all tasks in turn."""
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
