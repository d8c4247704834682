"""LoRAHub (arXiv 2307.13269): LoRAs of several tasks, composed for one without gradients.

The adapters of LoRA (Single) are the modules, the task's own among them. For a task a weight w_i
each is searched, and

    A = sum_i w_i A_i        B = sum_i w_i B_i

is its LoRA: no product of weights, so modules mix with one another. The search minimises the mean
cross entropy of a few examples plus an L1 term, with CMA-ES within the published bounds; the
published code leaves the choice of the algorithm to nevergrad's NGOpt.
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
from cgclora.config import AdapterConfig, ConfigError, number, whole
from cgclora.data.records import Record, encode
from cgclora.data.sampling import Collator
from cgclora.models.backbone import Backbone
from cgclora.models.vocabulary import readable
from cgclora.storage import atomic_io
from cgclora.training.loss import TargetLoss
from evals.experiments.comparison_dir import slug

BOUND = 1.5
"""Largest weight, as published."""


@dataclass(frozen=True)
class Search:
    """How the weights are searched; the defaults are those of the published code.

    Attributes:
        examples: Records of the task that the loss is taken on.
        evaluations: Losses taken.
        l1: Factor of the mean absolute weight.
    """

    examples: int = 5
    evaluations: int = 40
    l1: float = 0.05

    def __post_init__(self) -> None:
        """Check every field, since a recipe is written by hand."""
        for name in ("examples", "evaluations"):
            whole(f"search.{name}", getattr(self, name), 1)
        number("search.l1", self.l1, 0)


@dataclass(frozen=True)
class SearchResult:
    """What a search found for one task.

    Attributes:
        weights: Of each module.
        loss: Mean cross entropy of the examples with them, in nats a target token.
        seconds: How long it took.
    """

    weights: dict[str, float]
    loss: float
    seconds: float


class Composer:
    """Makes LoRAs out of modules, on one backbone.

    Args:
        backbone: Who carries the modules and the composed adapter.
        modules: A LoRA each, by a name; all of the same rank and scale.
        tasks: Those to compose for.

    Attributes:
        adapter: The composed one: each task has an expert to itself, with weight 1.

    Raises:
        ConfigError: The modules are not plain LoRAs of one shape.
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
            separator=first.separator,
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
        """Give a task the composition with these weights, in the order of the modules."""
        rank = self.adapter.config.expert_rank
        place = self.adapter.config.task_index(task)
        rows = slice(place * rank, (place + 1) * rank)
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
        """Find the weights of a task, and give them to it.

        Args:
            task: Which.
            examples: What the loss is taken on.
            settings: How.
            seed: Of the search.
            check: Called before each loss; may raise to end the search.
        """
        from cma import CMAEvolutionStrategy  # noqa: PLC0415 - not where only runs are answered

        started = time.monotonic()
        loss = self._loss(task, examples)

        def objective(weights: npt.NDArray[np.float64]) -> float:
            check()
            self.set(task, [float(weight) for weight in weights])
            found = loss()
            if not math.isfinite(found):  # which CMA-ES could not rank
                return sys.float_info.max
            return found + settings.l1 * float(np.abs(weights).mean())

        # Seed 0 would mean the clock.
        options = {"bounds": [-BOUND, BOUND], "seed": seed + 1, "verbose": -9}
        strategy = CMAEvolutionStrategy(np.zeros(len(self.names)), 0.5, options)
        best = (objective(np.zeros(len(self.names))), [0.0] * len(self.names))
        left = settings.evaluations - 1
        while left > 0 and not strategy.stop():
            asked = strategy.ask()[:left]
            values = [objective(weights) for weights in asked]
            best = min(best, *zip(values, map(list, asked), strict=True))
            left -= len(asked)
            if left > 0:
                strategy.tell(asked, values)
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
        )
        batch: dict[str, Tensor] = Collator(self.backbone.pad_id)(encoded)
        device = adapter.device
        names = ("input_ids", "positions", "targets")
        inputs = {name: batch[name].to(device) for name in names}
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
    """Compose an adapter for some tasks and save it.

    The result for each task is kept beside the adapter, so a search that `check` ends goes on with
    the next task when it is called again.

    Args:
        backbone: Who carries the modules.
        modules: See `Composer`.
        examples: Of each task, what the loss is taken on.
        settings: How the weights are searched.
        folder: The adapter's.
        seed: Of the search.
        facts: For the adapter's manifest.
        check: Called before each loss; may raise.
    """
    composer = Composer(backbone, modules, [*examples])
    try:
        found = {}
        for task, records in examples.items():
            path = folder.with_name(f"{slug(task)}.json")
            if path.exists():
                found[task] = SearchResult(**json.loads(path.read_text(encoding="utf-8")))
                composer.set(task, [found[task].weights[name] for name in composer.names])
                continue
            found[task] = composer.search(task, records, settings, seed=seed, check=check)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_io.write_json(path, asdict(found[task]))
        seconds = [one.seconds for one in found.values()]
        seconds += [module.manifest["training"]["seconds"] for module in modules.values()]
        search = {task: asdict(one) for task, one in found.items()}
        training = {"seconds": round(sum(seconds), 1), "search": search}
        composer.adapter.save(folder, dtype=torch.bfloat16, facts={**facts, "training": training})
    finally:
        composer.adapter.detach()
