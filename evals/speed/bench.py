"""The method's speed compared with its alternatives', in one run on one machine.

All methods of a part share one set of frozen weights and the same batch.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.models.backbone import EMBEDDED, Backbone
from cgclora.models.target_modules import linear_paths
from cgclora.storage import provenance
from cgclora.training.loss import TargetLoss
from evals.speed import bench_growth, bench_members, workloads
from evals.speed.harness import Bar, Part, measure
from evals.speed.workloads import PROMPT, TASKS


def run(
    backbone: Backbone, *, only: Sequence[str] | None = None, repeats: int = 5
) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        backbone: To measure on; unchanged afterwards.
        only: Names of parts; None runs all.
        repeats: Timings of each method.

    Returns:
        For each part the seconds of every timing, medians and bars, with the provenance.

    Raises:
        ConfigError: A part is unknown, or `repeats` is not positive.
    """
    if unknown := set(only or ()) - PARTS.keys():
        raise ConfigError(f"unknown parts {sorted(unknown)}: choose from {', '.join(PARTS)}.")
    if repeats < 1:
        raise ConfigError(f"repeats must be at least 1, got {repeats}.")
    parts = {}
    for name in only or PARTS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with PARTS[name](backbone) as part:
            parts[name] = measure(part, repeats, backbone.model.device)
            if part.grows:
                medians = parts[name]["medians"]
                parts[name]["exponents"] = bench_growth.exponents(medians, part.grows)
    return {
        "backbone": backbone.name,
        **provenance.stamp(backbone.model),
        "repeats": repeats,
        "parts": parts,
    }


def table(report: Mapping[str, Any]) -> str:
    """The report as text: medians in seconds, bars with their verdicts, exponents."""
    lines = []
    for name, part in report["parts"].items():
        lines.append(name)
        lines += [f"  {method:<34} {value:9.3f} s" for method, value in part["medians"].items()]
        for bar in part["bars"]:
            verdict = "reached" if bar["reached"] else "MISSED"
            against = bar["against"]
            reference = f"{against:.0f} s" if isinstance(against, float) else against
            words = (
                f"{bar['ratio']:.2f} x as fast as {reference}"
                if bar["what"] == "seconds"
                else f"1/{bar['ratio']:.2f} of the memory of {reference}"
            )
            lines.append(f"  {bar['of']}: {words} (bar {bar['least']:.2f}): {verdict}")
        for work, slope in part.get("exponents", {}).items():
            lines.append(f"  {work}: time grows with the power {slope:.2f}")
    return "\n".join(lines)


# Training ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _training(backbone: Backbone) -> Iterator[Part]:
    """A cluster of 16 tasks, 20 experts of rank 2, against PEFT LoRA of rank 40."""
    try:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - only this benchmark needs it
    except ImportError as error:
        raise ConfigError(f"this part needs the package peft ({error}): install it.") from error

    config = AdapterConfig(TASKS, common=4, specific=1, expert_rank=2)
    batch = workloads.training_batch(backbone)
    lora = LoraConfig(
        r=config.total_rank, lora_alpha=16, target_modules=linear_paths(backbone.model)
    )
    tuned: Any = get_peft_model(workloads.twin(backbone.model), lora)
    with tempfile.TemporaryDirectory() as folder:
        plain = get_peft_model(workloads.twin(backbone.model), lora)
        yield Part(
            {
                "cgclora, fused experts": workloads.expert_step(backbone, config, batch),
                "PEFT LoRA, same total rank": workloads.training_step(
                    TargetLoss(cast(PreTrainedModel, tuned.get_base_model())), batch
                ),
                "PEFT + Trainer, full logits": _plain_trainer(plain, batch, folder),
            },
            [
                Bar("cgclora, fused experts", 1.5, "PEFT LoRA, same total rank"),
                Bar("cgclora, fused experts", 4, "PEFT + Trainer, full logits"),
                Bar("cgclora, fused experts", 2, "PEFT + Trainer, full logits", "memory"),
            ],
        )


@contextlib.contextmanager
def _loop(backbone: Backbone) -> Iterator[Part]:
    """The same 20 experts in a loop, with the dropout of MOELoRA's settings and without."""
    # A small batch, since the loop keeps every expert's activations.
    batch = workloads.training_batch(backbone, rows=4, tokens=64)
    methods = {}
    for label, dropout in (("", 0.1), (", no dropout", 0.0)):
        config = AdapterConfig(TASKS, common=4, specific=1, expert_rank=2, dropout=dropout)
        loop = _with_loop(workloads.twin(backbone.model), config)
        methods[f"20 fused experts{label}"] = workloads.expert_step(backbone, config, batch)
        methods[f"loop over 20 experts{label}"] = workloads.training_step(TargetLoss(loop), batch)
    yield Part(methods, [Bar("20 fused experts", 5, "loop over 20 experts")])


@contextlib.contextmanager
def _experts(backbone: Backbone) -> Iterator[Part]:
    """4 experts of rank 16 against 64 experts of rank 1: the same total rank."""
    batch = workloads.training_batch(backbone)
    methods = {}
    for count in (4, 64):
        config = AdapterConfig(TASKS, common=count, specific=0, expert_rank=64 // count)
        methods[f"{count} experts"] = workloads.expert_step(backbone, config, batch)
    yield Part(methods, [Bar("64 experts", 1 / 1.1, "4 experts")])


def _plain_trainer(model: Any, batch: Mapping[str, Tensor], folder: str) -> Callable[[], None]:
    """A step of an unchanged `transformers.Trainer`: the head runs at every position."""
    arguments = TrainingArguments(
        folder, report_to="none", use_cpu=batch["input_ids"].device.type == "cpu"
    )
    trainer = Trainer(model=model, args=arguments)
    optimizer = trainer.create_optimizer()
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["positions"] + 1] = batch["targets"]
    inputs = {"input_ids": batch["input_ids"], "labels": labels}

    def step() -> None:
        trainer.current_gradient_accumulation_steps = 1
        trainer.training_step(model, dict(inputs))
        optimizer.step()
        optimizer.zero_grad()

    return step


class _LoopLinear(nn.Module):
    """A loop of small products over the experts, as in MOELoRA's public code."""

    def __init__(self, base_layer: nn.Linear, config: AdapterConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.scale = config.scale
        self.dropout = nn.Dropout(config.dropout)
        rank, experts = config.expert_rank, range(config.num_experts)
        inner, outer = base_layer.in_features, base_layer.out_features
        self.A = nn.ModuleList(nn.Linear(inner, rank, bias=False) for _ in experts)
        self.B = nn.ModuleList(nn.Linear(rank, outer, bias=False) for _ in experts)
        self.embedding = nn.Embedding(len(TASKS), config.embedding_size)
        self.gate = nn.Linear(config.embedding_size, config.num_experts, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        tasks = torch.arange(len(x), device=x.device) % len(TASKS)
        gates = self.gate(self.embedding(tasks)).softmax(-1)
        for index, (A, B) in enumerate(zip(self.A, self.B, strict=True)):
            y = y + self.scale * B(A(self.dropout(x))) * gates[:, index, None, None]
        return cast(Tensor, y)


def _with_loop(model: PreTrainedModel, config: AdapterConfig) -> PreTrainedModel:
    for path in linear_paths(model):
        layer = cast(nn.Linear, model.get_submodule(path))
        model.set_submodule(path, _LoopLinear(layer, config).to(layer.weight))
    return model


# Decoding ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _decoding(backbone: Backbone) -> Iterator[Part]:
    """A folded task against the bare backbone, 1 row; mixed tasks unfolded against it, 16 rows."""
    config = AdapterConfig(TASKS)
    folded, mixed = (workloads.own_modules(backbone) for _ in range(2))
    Adapter.attach(folded, config).fold(TASKS[0])
    adapter = Adapter.attach(mixed, config).for_inference()
    tasks = [TASKS[row % len(TASKS)] for row in range(16)]
    yield Part(
        {
            "bare, 1 row": lambda: workloads.decode(backbone, [None]),
            "folded, 1 row": lambda: workloads.decode(folded, [None]),
            "bare, 16 rows": lambda: workloads.decode(backbone, [None] * 16),
            "mixed tasks, 16 rows": lambda: workloads.decode(mixed, tasks, adapter),
        },
        [
            Bar("folded, 1 row", 0.98, "bare, 1 row"),
            Bar("mixed tasks, 16 rows", 1 / 1.15, "bare, 16 rows"),
        ],
    )


CLUSTERS_AND_TASKS = ((1, 1), (1, 4), (1, 16), (2, 8), (4, 4), (8, 2))
"""Pairs: the number of resident clusters, and the number of tasks of each in the batch."""


@contextlib.contextmanager
def _clusters(backbone: Backbone) -> Iterator[Part]:
    """16 rows of more and more tasks of one cluster, and of 16 tasks of more and more clusters."""
    methods = {_label(*shape): _decoding_beside(backbone, *shape) for shape in CLUSTERS_AND_TASKS}
    one_task, one_cluster, eight_clusters = (_label(*shape) for shape in ((1, 1), (1, 16), (8, 2)))
    yield Part(
        methods, [Bar(one_cluster, 1 / 1.3, one_task), Bar(eight_clusters, 1 / 1.3, one_cluster)]
    )


def _label(count: int, tasks: int) -> str:
    total = count * tasks
    return f"{count} cluster{'s' * (count > 1)}, {total} task{'s' * (total > 1)}, 16 rows"


def _decoding_beside(backbone: Backbone, count: int, tasks: int) -> Callable[[], None]:
    """Greedy decoding with `count` resident clusters of 16 tasks, `tasks` of each in the batch."""
    resident, clusters = workloads.resident_clusters(backbone, count)
    names = [name for of_cluster in clusters for name in of_cluster[:tasks]]
    rows = [names[row % len(names)] for row in range(16)]
    return functools.partial(workloads.decode, resident.backbone, rows, resident)


# Start ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _start(backbone: Backbone) -> Iterator[Part]:
    """A new process to its first token, its cache warm: at most six seconds."""
    command = [sys.executable, "-m", "cgclora", "generate", PROMPT, "--max-new-tokens", "4"]
    if backbone.name != EMBEDDED:
        command += ["--backbone", backbone.name]

    def first_token() -> None:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own
            if process.stdout is None or not process.stdout.read(1):
                raise RuntimeError("the command line gave no answer")
            process.terminate()

    yield Part({"start to first token": first_token}, [Bar("start to first token", 1, 6.0)])


# Decoding comes first: training fragments the memory and slows down every large allocation.
PARTS: Mapping[str, Callable[[Backbone], contextlib.AbstractContextManager[Part]]] = {
    "decoding": _decoding,
    "clusters": _clusters,
    "training": _training,
    "members": bench_members.members,
    "loop": _loop,
    "experts": _experts,
    "growth of experts": bench_growth.experts,
    "growth of tasks": bench_growth.tasks,
    "growth of clusters": bench_growth.clusters,
    "growth of prompts": bench_growth.prompts,
    "start": _start,
}
