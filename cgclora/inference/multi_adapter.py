"""1 + N: one backbone, N adapters resident, each the experts of a cluster of tasks.

    clusters = Clusters(backbone)
    clusters.add("medical", "assets/adapters/medical")
    clusters.add("general", "assets/adapters/general")
    generate(backbone, [Request("NER", a), Request("KUAKE-QIC", b)], clusters)   # one batch

A request goes task -> cluster -> gate -> experts; where it names no task, `choose` finds one. Rows
of one batch may be of any tasks of any clusters. The experts that some row uses are put one after
another as if they were one adapter's, with weight zero where a row does not use them:

    A = [A_1[used]; A_2[used]; ...]      B = [B_1[used]; B_2[used]; ...]      weights [batch, 1, R]

So a pass costs what the tasks in it need, however many are resident, and nothing of what a row's
experts compute depends on who else is. Clusters come and go while batches are on their way.
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

from cgclora.adapter import Adapter, Row
from cgclora.config import ConfigError, PromptFormat
from cgclora.inference.merged_cache import FoldedWeights
from cgclora.inference.router import JoinedRouter, RoutedTask, TaskRouter
from cgclora.layer import ExpertLinear, LayerExperts, Route
from cgclora.models.backbone import Backbone
from cgclora.storage.adapter_dir import AdapterError


class Clusters:
    """The adapters resident on one backbone; takes an adapter's place in `generate`.

    Args:
        backbone: Carries them.
        folded_budget: Bytes for folded weights of tasks that are asked for most, see
            `FoldedWeights`. A batch of one such task is then answered by weights that are rounded
            to the backbone's dtype as a whole, so that a close call between two tokens may end
            otherwise; 0 folds nothing.

    Attributes:
        model: The backbone's model.
        folded: The folded weights.
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

    # Who is resident ----------------------------------------------------------------------

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The resident adapters by their clusters' names."""
        return MappingProxyType(self._adapters)

    def add(self, name: str, adapter: str | Path | Adapter) -> Adapter:
        """Make an adapter resident, while others answer.

        Args:
            name: The cluster's name, any text.
            adapter: The folder of a saved one, or one that is attached to this backbone already.

        Raises:
            AdapterError: The name is empty or taken, the adapter is attached elsewhere or is
                resident under another name, or as `Adapter.load`.
        """
        with self._changing:
            if not name:
                raise AdapterError("a cluster's name is empty: name it.")
            if name in self._adapters:
                raise AdapterError(f"a cluster {name!r} is resident already: remove it first.")
            if isinstance(adapter, Adapter):
                self._check_attached(name, adapter)
                self._admit(name, adapter)
                return adapter
            self._count += 1
            internal = re.sub(r"[^A-Za-z0-9_-]", "_", f"{name}_{self._count}")
            loaded = Adapter.load(adapter, self.backbone, name=internal)
            try:
                self._admit(name, loaded)
            except BaseException:  # out of memory, say: nobody else could take it off
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

    def _admit(self, name: str, adapter: Adapter) -> None:
        """Let an attached adapter be resident."""
        with self.backbone.lock:  # not between two layers of a pass
            adapter.for_inference()
        self._settle({**self._adapters, name: adapter})

    def remove(self, name: str) -> None:
        """Let a cluster go. Requests on their way end as they began; new ones are refused.

        Raises:
            ConfigError: There is no such cluster.
        """
        with self._changing:
            if name not in self._adapters:
                raise ConfigError(_no_cluster(self._adapters, name))
            adapter = self._adapters[name]
            self._settle({other: one for other, one in self._adapters.items() if other != name})
            self.folded.remove(adapter)
            with self.backbone.lock:
                adapter.detach(keep_layers=True)

    def _settle(self, adapters: dict[str, Adapter]) -> None:
        """Let these adapters be the resident ones from now on."""
        routers = {name: one for name, one in self._routers.items() if name in adapters}
        for name, adapter in adapters.items():
            if name not in self._adapters:  # reading one takes a while, and others have been read
                router = TaskRouter.of(adapter.files, adapter.config.tasks, name)
                routers |= {} if router is None else {name: router}
        self._router = TaskRouter.join(routers) if routers else None
        self._routers = routers
        self._adapters = adapters

    def choose(self, prompt: str) -> RoutedTask:
        """The task that a prompt which names none is for, by the routers of the clusters.

        Raises:
            ConfigError: No resident cluster has a router, or none of their tasks is likely enough.
            DataError: The prompt is empty.
        """
        router = self._router
        if router is None:
            raise ConfigError(
                "no resident cluster has a router: name a task, or fit one with "
                "`python -m cgclora router fit`."
            )
        if (found := router.choose(prompt)) is None:
            (best,) = router.most_likely([prompt])
            raise ConfigError(
                f"the prompt is for none of the tasks that are known here; the nearest is "
                f"{best.task!r} with {best.probability:.0%}: name a task."
            )
        return found

    def find(self, task: str, cluster: str | None = None) -> str:
        """The name of the cluster that a task belongs to; the first that was added, if several do.

        Raises:
            ConfigError: No resident cluster, or not the one that was named, knows the task.
        """
        return _find(self._adapters, task, cluster)

    # Batches ------------------------------------------------------------------------------

    def snapshot(self) -> Resident:
        """The clusters of now, for a batch: they come and go between its questions, too."""
        return Resident(self.model, self._adapters, self.folded)

    @property
    def has_routers(self) -> bool:
        """Whether `choose` can find a prompt's task."""
        return self._router is not None


Adapters: TypeAlias = "Adapter | Clusters | Resident | None"
"""Whose experts answer: one adapter's, those of resident clusters, or none, the bare backbone."""


class ClusterRow(Row, Protocol):
    """What a route needs to know of a row where several adapters are resident.

    Attributes:
        cluster: The adapter that knows the task; None looks it up.
    """

    @property
    def cluster(self) -> str | None: ...  # noqa: D102 - see above


@dataclass(frozen=True)
class Resident:
    """The adapters that a batch may use: a single one, or the clusters of one moment.

    Attributes:
        model: The backbone's model.
        adapters: By their clusters' names.
        folded: The folded weights of all moments.
        is_single: Whether it is an adapter by itself, for which rows need not name a cluster, and
            may name any.
    """

    model: PreTrainedModel
    adapters: Mapping[str, Adapter]
    folded: FoldedWeights
    is_single: bool = False

    @classmethod
    def of(cls, adapters: Adapters) -> Resident | None:
        """One adapter by itself, or the clusters of now; None stays None, the bare backbone."""
        if isinstance(adapters, Adapter):
            own = {adapters.name: adapters}
            return cls(adapters.model, own, FoldedWeights(0), is_single=True)
        return adapters.snapshot() if isinstance(adapters, Clusters) else adapters

    def prompt_format(self, row: ClusterRow) -> PromptFormat:
        """What stands around a row's prompt.

        Raises:
            ConfigError: As `Clusters.find`.
        """
        name = self._cluster(row)
        return self.adapters[name].config.prompt_format if name else PromptFormat()

    def _cluster(self, row: ClusterRow) -> str | None:
        """The cluster that answers a row; None is the bare backbone."""
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
            if name and task and (merged := self.folded.route(self.adapters[name], task)):
                return merged
        routes = [
            self.adapters[name].plan_rows(
                [row if of == name else _BARE for row, of in zip(rows, names, strict=True)]
            )
            for name in dict.fromkeys(filter(None, names))
        ]
        return routes[0] if len(routes) == 1 else _joined(routes)


@dataclass(frozen=True)
class _Bare:
    """A row that uses none of an adapter's experts."""

    task: None = None
    gates: None = None


_BARE = _Bare()


def _joined(routes: Sequence[Route]) -> Route:
    """The experts of several routes for the same rows, one after another in each layer."""
    of_layers: dict[ExpertLinear, list[LayerExperts]] = {}
    for route in routes:
        for layer, experts in route.experts.items():
            of_layers.setdefault(layer, []).extend(experts)
    return Route(
        {
            layer: (
                LayerExperts(
                    torch.cat([one.A for one in experts]),
                    torch.cat([one.B for one in experts]),
                    torch.cat([one.weights for one in experts], dim=-1),
                ),
            )
            for layer, experts in of_layers.items()
        }
    )


def _find(adapters: Mapping[str, Adapter], task: str, cluster: str | None) -> str:
    if cluster is not None and cluster not in adapters:
        raise ConfigError(_no_cluster(adapters, cluster))
    for name, adapter in adapters.items():
        if cluster in {None, name} and task in adapter.config.tasks:
            return name
    who = "no cluster" if cluster is None else f"the cluster {cluster!r} does not"
    known = "; ".join(f"{name} knows {', '.join(a.config.tasks)}" for name, a in adapters.items())
    raise ConfigError(f"{who} {'knows' if cluster is None else 'know'} the task {task!r}: {known}.")


def _no_cluster(adapters: Mapping[str, Adapter], name: str) -> str:
    return f"there is no cluster {name!r}, there are {', '.join(adapters) or 'none'}."
