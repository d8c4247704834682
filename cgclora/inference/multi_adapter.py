"""1 + N: one backbone, N adapters resident, each the experts of a cluster of tasks.

    clusters = Clusters(backbone)
    clusters.add("medical", "assets/adapters/medical")
    clusters.add("general", "assets/adapters/general")
    generate(backbone, [Request("NER", a), Request("KUAKE-QIC", b)], clusters)   # one batch

A request goes task -> cluster -> gate -> experts; where it names no task, `choose` finds one. Rows
of one batch may be of any tasks of any clusters: what they use is gathered (`gather`),
so that a pass costs what the tasks in it need, however many are resident. Clusters come and go
while batches are on their way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Self

from transformers import PreTrainedModel

from cgclora.adapter import Adapter, Row
from cgclora.config import ConfigError, PromptFormat
from cgclora.inference.gather import gather
from cgclora.inference.merged_cache import FoldedWeights
from cgclora.inference.router import JoinedRouter, RoutedTask, TaskRouter
from cgclora.layer import GatheredRoute
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
        name: Nobody's name, as no adapter's task is folded in for good.
        folded: The folded weights.
    """

    name = ""
    folded_task: str | None = None

    def __init__(self, backbone: Backbone, *, folded_budget: int = 0) -> None:
        self.backbone = backbone
        self.model = backbone.model
        self.folded = FoldedWeights(folded_budget)
        self._adapters: dict[str, Adapter] = {}  # replaced, never changed: readers need no lock
        self._changing = Lock()
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
            self.folded.forget(adapter)
            with self.backbone.lock:
                adapter.detach(keep_layers=True)

    def _settle(self, adapters: dict[str, Adapter]) -> None:
        """Let these adapters be the resident ones from now on."""
        routers = {name: one.router for name, one in adapters.items() if one.router is not None}
        self._router = TaskRouter.join(routers) if routers else None
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
            (best,) = router.likeliest([prompt])
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

    def prompt_format(self, row: Row) -> PromptFormat:
        """As `Resident.prompt_format`, of the clusters of now."""
        return self.snapshot().prompt_format(row)

    def plan_rows(self, rows: Sequence[Row]) -> GatheredRoute:
        """As `Resident.plan_rows`, of the clusters of now."""
        return self.snapshot().plan_rows(rows)

    def route(self, tasks: GatheredRoute) -> AbstractContextManager[None]:
        """As `Resident.route`."""
        return self.snapshot().route(tasks)


@dataclass
class Resident:
    """The clusters that were resident at one moment; answers as `Clusters` did then.

    Attributes:
        model: The backbone's model.
        adapters: By their clusters' names.
        folded: The folded weights of all moments.
        name: As that of `Clusters`.
        folded_task: As that of `Clusters`.
    """

    model: PreTrainedModel
    adapters: Mapping[str, Adapter]
    folded: FoldedWeights
    name: str = Clusters.name
    folded_task: str | None = None

    def snapshot(self) -> Self:
        """Itself: nothing of it changes."""
        return self

    def prompt_format(self, row: Row) -> PromptFormat:
        """What stands around a row's prompt.

        Raises:
            ConfigError: As `Clusters.find`.
        """
        if row.task is None:
            return PromptFormat()
        return self.adapters[_find(self.adapters, row.task, row.cluster)].config.prompt_format

    def plan_rows(self, rows: Sequence[Row]) -> GatheredRoute:
        """The route of a batch of any tasks of any clusters.

        Raises:
            ConfigError: As `Clusters.find`.
            AdapterError: A row's gates have a wrong shape.
        """
        names = [row.task and _find(self.adapters, row.task, row.cluster) for row in rows]
        alone = {(name, row.task) for name, row in zip(names, rows, strict=True)}
        if len(alone) == 1 and all(row.gates is None for row in rows):
            ((name, task),) = alone
            if name and task:
                route = self.folded.route(self.adapters[name], task)
                if route is not None:
                    return route
        uses = []
        for name in dict.fromkeys(filter(None, names)):
            adapter = self.adapters[name]
            own = [name == other for other in names]
            tasks = [row.task if mine else None for row, mine in zip(rows, own, strict=True)]
            gates = [row.gates if mine else None for row, mine in zip(rows, own, strict=True)]
            uses.append(adapter.use(adapter.weigh(tasks, gates)))
        return gather(uses)

    def route(self, tasks: GatheredRoute) -> AbstractContextManager[None]:
        """Within this context the backbone's layers follow a planned route."""
        layer = next(iter(tasks.parts), None)  # any of them: they share their routing
        return nullcontext() if layer is None else layer.routing.within(tasks)


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
