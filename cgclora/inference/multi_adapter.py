"""1 + N: one backbone, N adapters resident, each the experts of a cluster of tasks.

    clusters = Clusters(backbone)
    clusters.add("medical", "assets/adapters/medical")
    clusters.add("general", "assets/adapters/general")
    generate(backbone, [Request("NER", a), Request("KUAKE-QIC", b)], clusters)   # one batch

A request names a task, which selects a cluster, its gate and its experts; `choose` finds the task
of a request that names none. Rows of a batch may be of any tasks of any clusters: the experts that
any row uses are concatenated as if they were one adapter's, with weight zero for the other rows:

    A = [A_1[used]; A_2[used]; ...]      B = [B_1[used]; B_2[used]; ...]      weights [batch, 1, R]

So the cost of a pass depends on the tasks in the batch, not on the number of resident adapters, and
a row's result does not depend on other rows. Clusters may be added and removed while batches run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Protocol, TypeAlias

import torch
from transformers import PreTrainedModel

from cgclora.adapter import Adapter, Row, TaskRow, stacked
from cgclora.config import ConfigError, PromptFormat
from cgclora.inference.merged_cache import FoldedWeights
from cgclora.inference.router import JoinedRouter, RoutedTask, TaskRouter
from cgclora.layer import ExpertLinear, LayerExperts, Route
from cgclora.models.backbone import Backbone
from cgclora.storage.adapter_dir import AdapterError


class Clusters:
    """The adapters resident on one backbone; accepted by `generate` like an adapter.

    Args:
        backbone: They are attached to it.
        folded_budget: Bytes for folded weights of the most requested tasks, see `FoldedWeights`; 0
            folds nothing. Folded weights are rounded to the backbone's dtype, which may change the
            choice between two tokens of nearly equal probability.

    Attributes:
        model: The backbone's model.
        folded: The cache of folded weights.
    """

    def __init__(self, backbone: Backbone, *, folded_budget: int = 0) -> None:
        self.backbone = backbone
        self.model = backbone.model
        self.folded = FoldedWeights(folded_budget)
        self._adapters: dict[str, Adapter] = {}  # replaced, never changed: readers need no lock
        self._changing = Lock()
        self._routers: dict[str, TaskRouter] = {}
        self._router: JoinedRouter | None = None
        self._count = 0

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The resident adapters by their clusters' names."""
        return MappingProxyType(self._adapters)

    def add(self, name: str, adapter: str | Path | Adapter) -> Adapter:
        """Make an adapter resident, also while batches run.

        Args:
            name: The cluster's name, any text.
            adapter: The folder of a saved adapter, or one that is attached to this backbone.

        Raises:
            AdapterError: The name is empty or taken, the adapter is attached to another backbone
                or already resident, or as `Adapter.load`.
        """
        with self._changing:
            if not name:
                raise AdapterError("a cluster's name is empty: name it.")
            if name in self._adapters:
                raise AdapterError(f"a cluster {name!r} is resident already: remove it first.")
            if isinstance(adapter, Adapter):
                self._check_attached(name, adapter)
                self._make_resident(name, adapter)
                return adapter
            self._count += 1
            internal = re.sub(r"[^A-Za-z0-9_-]", "_", f"{name}_{self._count}")
            loaded = Adapter.load(adapter, self.backbone, name=internal)
            try:
                self._make_resident(name, loaded)
            except BaseException:  # such as out of memory: the caller has no adapter to detach
                with self.backbone.lock:
                    loaded.detach(keep_layers=True)
                raise
        return loaded

    def _check_attached(self, name: str, adapter: Adapter) -> None:
        if adapter.model is not self.model:
            raise AdapterError(f"cluster {name!r} is attached to another backbone: load it.")
        for other, one in self._adapters.items():
            if one is adapter:
                raise AdapterError(
                    f"cluster {name!r} is resident already as {other!r}: load its folder a second "
                    "time, or remove the other."
                )

    def _make_resident(self, name: str, adapter: Adapter) -> None:
        with self.backbone.lock:  # not within a forward pass
            adapter.for_inference()
        self._replace({**self._adapters, name: adapter})

    def remove(self, name: str) -> None:
        """Remove a cluster. Running requests finish with it; new ones are refused.

        Raises:
            ConfigError: There is no such cluster.
        """
        with self._changing:
            if name not in self._adapters:
                raise ConfigError(_no_cluster(self._adapters, name))
            adapter = self._adapters[name]
            self._replace({other: one for other, one in self._adapters.items() if other != name})
            self.folded.remove(adapter)
            with self.backbone.lock:
                adapter.detach(keep_layers=True)

    def _replace(self, adapters: dict[str, Adapter]) -> None:
        """Set the resident adapters, and join their routers."""
        routers = {name: one for name, one in self._routers.items() if name in adapters}
        for name, adapter in adapters.items():
            if name in self._adapters:  # its router has been read, which takes a while
                continue
            if router := TaskRouter.of(adapter.files, adapter.config.tasks, name):
                routers[name] = router
        self._router = JoinedRouter(routers) if routers else None
        self._routers = routers
        self._adapters = adapters

    def choose(self, prompt: str) -> RoutedTask:
        """The task of a prompt, found by the clusters' routers.

        Raises:
            ConfigError: No resident cluster has a router, or no task is likely enough.
            DataError: The prompt is empty.
        """
        if (router := self._router) is None:
            raise ConfigError(
                "no resident cluster has a router: name a task, or fit one with "
                "`python -m cgclora router fit`."
            )
        if (chosen := router.choose(prompt)) is None:
            (best,) = router.most_likely([prompt])
            raise ConfigError(
                f"the prompt fits none of the known tasks; the most likely is {best.task!r} with "
                f"{best.probability:.0%}: name a task."
            )
        return chosen

    def find(self, task: str, cluster: str | None = None) -> str:
        """The name of the first cluster that knows a task, or of `cluster` if given.

        Raises:
            ConfigError: No resident cluster, or not the given one, knows the task.
        """
        return _find(self._adapters, task, cluster)

    def snapshot(self) -> Resident:
        """The current clusters, for a batch: later changes do not affect it."""
        return Resident(self.model, self._adapters, self.folded)

    @property
    def has_routers(self) -> bool:
        """Whether any resident cluster has a router, which `choose` needs."""
        return self._router is not None


Adapters: TypeAlias = "Adapter | Clusters | Resident | None"
"""The adapters of a batch: a single one, resident clusters, or None, the bare backbone."""


class ClusterRow(Row, Protocol):
    """A row of a batch with several adapters; `cluster` None takes the first with its task."""

    @property
    def cluster(self) -> str | None: ...  # noqa: D102 - see above


@dataclass(frozen=True)
class Resident:
    """The adapters of a batch: a single one, or a snapshot of clusters."""

    model: PreTrainedModel
    adapters: Mapping[str, Adapter]  # by their clusters' names
    folded: FoldedWeights
    is_single: bool = False  # a single adapter; then the clusters that rows name are ignored

    @classmethod
    def of(cls, adapters: Adapters) -> Resident | None:
        """A single adapter, or a snapshot of clusters; None stays None."""
        if isinstance(adapters, Adapter):
            single = {adapters.name: adapters}
            return cls(adapters.model, single, FoldedWeights(0), is_single=True)
        return adapters.snapshot() if isinstance(adapters, Clusters) else adapters

    def prompt_format(self, row: ClusterRow) -> PromptFormat:
        """The prompt format of a row's adapter.

        Raises:
            ConfigError: As `Clusters.find`.
        """
        name = self._cluster(row)
        return self.adapters[name].config.prompt_format if name else PromptFormat()

    def _cluster(self, row: ClusterRow) -> str | None:
        """The cluster of a row; None is the bare backbone."""
        if row.task is None:
            return None
        return _find(self.adapters, row.task, None if self.is_single else row.cluster)

    def plan_rows(self, rows: Sequence[ClusterRow]) -> Route:
        """The route of a batch of any tasks of any clusters.

        Raises:
            ConfigError: As `Clusters.find`.
            AdapterError: A row's gates have a wrong shape.
        """
        names = [self._cluster(row) for row in rows]
        tasks = {(name, row.task) for name, row in zip(names, rows, strict=True)}
        if len(tasks) == 1 and all(row.gates is None for row in rows):
            ((name, task),) = tasks
            if name and task and (folded := self.folded.route(self.adapters[name], task)):
                return folded
        bare = TaskRow(None)
        routes = [
            self.adapters[name].plan_rows(
                [row if own == name else bare for row, own in zip(rows, names, strict=True)]
            )
            for name in dict.fromkeys(filter(None, names))
        ]
        return routes[0] if len(routes) == 1 else _concatenate(routes)


def _concatenate(routes: Sequence[Route]) -> Route:
    """One route with the experts of several routes of the same rows."""
    by_layer: dict[ExpertLinear, list[LayerExperts]] = {}
    for route in routes:
        for layer, experts in route.experts.items():
            by_layer.setdefault(layer, []).extend(experts)
    return Route(
        {
            layer: (
                LayerExperts(
                    torch.cat([one.A for one in experts]),
                    torch.cat([one.B for one in experts]),
                    stacked(experts),
                ),
            )
            for layer, experts in by_layer.items()
        }
    )


def _find(adapters: Mapping[str, Adapter], task: str, cluster: str | None) -> str:
    if cluster is not None and cluster not in adapters:
        raise ConfigError(_no_cluster(adapters, cluster))
    for name, adapter in adapters.items():
        if cluster in {None, name} and task in adapter.config.tasks:
            return name
    tasks = "; ".join(f"{name} knows {', '.join(a.config.tasks)}" for name, a in adapters.items())
    subject = "no cluster knows" if cluster is None else f"the cluster {cluster!r} does not know"
    raise ConfigError(f"{subject} the task {task!r}: {tasks}.")


def _no_cluster(adapters: Mapping[str, Adapter], name: str) -> str:
    return f"there is no cluster {name!r}, there are {', '.join(adapters) or 'none'}."
