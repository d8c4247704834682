"""LoRAHub (arXiv 2307.13269): LoRAs of several tasks, composed for one without gradients.

The modules are the adapters of LoRA (Single), including the task's own. For each task a weight w_i
of every module is searched, and

    A = sum_i w_i A_i        B = sum_i w_i B_i

is the task's LoRA. The search minimises the mean cross entropy of a few examples plus an L1 term
within the published bounds, by CMA-ES; the published code uses nevergrad's NGOpt.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import Record, encode
from cgclora.data.sampling import Collator
from cgclora.models.backbone import Backbone
from cgclora.models.vocabulary import readable
from cgclora.storage import atomic_io
from cgclora.training.loss import TargetLoss
from evals.experiments.comparison_dir import slug
from evals.experiments.recipe import Search

BOUND = 1.5
"""Largest weight, as published."""


@dataclass(frozen=True)
class SearchResult:
    """The result for one task."""

    weights: dict[str, float]  # by module
    loss: float  # mean cross entropy of the examples, in nats a target token
    seconds: float  # duration of the search


class Composer:
    """Composes the LoRA of each task from modules that are attached to one backbone.

    Attributes:
        adapter: The composed adapter, with one specific expert of weight 1 for each task.

    Raises:
        ConfigError: The modules are not plain LoRAs of one rank and scale.
    """

    def __init__(
        self, backbone: Backbone, modules: Mapping[str, Adapter], tasks: Sequence[str]
    ) -> None:
        self.backbone = backbone
        self.names = tuple(modules)
        configs = [module.config for module in modules.values()]
        first = configs[0]
        if any(
            (config.num_experts, config.gate, config.total_rank, config.scale)
            != (1, "none", first.total_rank, first.scale)
            for config in configs
        ):
            raise ConfigError("LoRAHub composes plain LoRAs of one rank and scale.")
        config = AdapterConfig(
            tuple(tasks),
            common=0,
            specific=1,
            expert_rank=first.total_rank,
            gate="none",
            alpha=first.alpha,
            scale_rule=first.scale_rule,
            target_modules=first.target_modules,
            **vars(first.prompt_format),
        )
        self._A, self._B = (
            {
                path: torch.stack(
                    [getattr(m.layers[path], table)[m.name].detach() for m in modules.values()]
                )
                for path in next(iter(modules.values())).layers
            }
            for table in ("expert_A", "expert_B")
        )
        self.adapter = Adapter.attach(backbone, config, name="lorahub")

    def set(self, task: str, weights: Sequence[float]) -> None:
        """Set a task's LoRA to the composition with these weights, in the order of the modules."""
        rank = self.adapter.config.expert_rank
        first = self.adapter.config.task_index(task) * rank
        rows = slice(first, first + rank)
        name = self.adapter.name
        with torch.no_grad():
            for path, layer in self.adapter.layers.items():
                A, B = layer.expert_A[name], layer.expert_B[name]
                w = torch.tensor(list(weights), dtype=self._A[path].dtype, device=A.device)
                A[rows] = torch.einsum("n,nri->ri", w, self._A[path]).to(A.dtype)
                B[:, rows] = torch.einsum("n,nor->or", w, self._B[path]).to(B.dtype)

    def search(
        self,
        task: str,
        examples: Sequence[Record],
        settings: Search,
        *,
        seed: int = 0,
        check: Callable[[], None] = lambda: None,
    ) -> SearchResult:
        """Search the weights of a task by the loss of some examples, and set them.

        `check` is called before each evaluation and may raise to end the search.
        """
        from cma import CMAEvolutionStrategy  # noqa: PLC0415 - optional: only this search needs it

        started = time.monotonic()
        loss = self._loss(task, examples)

        def objective(weights: npt.NDArray[np.float64]) -> float:
            check()
            self.set(task, [float(weight) for weight in weights])
            value = loss()
            if not math.isfinite(value):  # CMA-ES could not rank it
                return sys.float_info.max
            return value + settings.l1 * float(np.abs(weights).mean())

        # CMA-ES takes seed 0 for "seed by the clock".
        options = {"bounds": [-BOUND, BOUND], "seed": seed + 1, "verbose": -9}
        strategy = CMAEvolutionStrategy(np.zeros(len(self.names)), 0.5, options)
        best = (objective(np.zeros(len(self.names))), [0.0] * len(self.names))
        remaining = settings.evaluations - 1
        while remaining > 0 and not strategy.stop():
            candidates = strategy.ask()[:remaining]
            values = [objective(weights) for weights in candidates]
            best = min(best, *zip(values, map(list, candidates), strict=True))
            remaining -= len(candidates)
            if remaining > 0:
                strategy.tell(candidates, values)
        weights = [float(weight) for weight in best[1]]
        self.set(task, weights)
        return SearchResult(
            dict(zip(self.names, weights, strict=True)), loss(), time.monotonic() - started
        )

    def _loss(self, task: str, examples: Sequence[Record]) -> Callable[[], float]:
        tokenizer = self.backbone.tokenizer
        adapter = self.adapter
        encoded, _ = encode(
            examples,
            tokenizer,
            (task,),
            prompt_format=adapter.config.prompt_format,
            max_length=sys.maxsize,
            readable_ids=readable(adapter.model),
            ends=self.backbone.ends,
        )
        batch: dict[str, Tensor] = Collator(self.backbone.pad_id)(encoded)
        names = ("input_ids", "positions", "targets")
        inputs = {name: batch[name].to(adapter.device) for name in names}
        model = TargetLoss(adapter.model).eval()
        route: list[Any] = [task] * len(encoded)

        @torch.no_grad()
        def loss() -> float:
            with adapter.route(route):
                return float(model(**inputs).mean())

        return loss


def compose(
    backbone: Backbone,
    modules: Mapping[str, Adapter],
    examples: Mapping[str, Sequence[Record]],
    settings: Search,
    folder: Path,
    *,
    seed: int,
    facts: Mapping[str, Any],
    check: Callable[[], None],
) -> None:
    """Compose an adapter for the tasks of `examples`, and save it with `facts` in `folder`.

    Each task's result is kept beside the adapter: after `check` has raised, see `Composer.search`,
    the next call resumes with the next task.
    """
    composer = Composer(backbone, modules, [*examples])
    try:
        results = {}
        for task, records in examples.items():
            path = folder.with_name(f"{slug(task)}.json")
            if path.exists():
                results[task] = SearchResult(**json.loads(path.read_text(encoding="utf-8")))
                composer.set(task, [results[task].weights[name] for name in composer.names])
                continue
            results[task] = composer.search(task, records, settings, seed=seed, check=check)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_io.write_json(path, asdict(results[task]))
        seconds = [one.seconds for one in results.values()]
        seconds += [module.manifest["training"]["seconds"] for module in modules.values()]
        search = {task: asdict(one) for task, one in results.items()}
        training = {"seconds": round(sum(seconds), 1), "search": search}
        composer.adapter.save(folder, dtype=torch.bfloat16, facts={**facts, "training": training})
    finally:
        composer.adapter.detach()
