"""The backbone, its adapters and the engine that answers, in this process.

The page asks by generator functions of `Models` whose arguments and values can be pickled, see
`ui.engine.questions`: so they may run here, in another process (`ui.engine.model_process`), or in
forks on ZeroGPU (`ui.engine.zero_gpu`). Modules that need torch are imported while loading.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cgclora.inference.request_queue import Limits
from cgclora.storage.layer_shapes import LayerKind
from ui.engine.settings import AppLimits
from ui.engine.zero_gpu import ZERO_GPU, Inherited, to_gpu

if TYPE_CHECKING:
    from cgclora.adapter import Adapter
    from cgclora.inference.engine import Engine
    from cgclora.inference.multi_adapter import Clusters
    from cgclora.models.backbone import Backbone

T = TypeVar("T")

Progress = Callable[[str, float], None]
Load = Callable[[Progress], "Backbone"]

SECONDS_UNTIL_ROOM = 2
"""Used while the model is loading, and on ZeroGPU, where there is no queue."""


@dataclass(frozen=True)
class BackboneFacts:
    """A loaded backbone.

    Attributes:
        parameters: Their number.
        kinds: Its linear layers that an adapter can adapt.
        decoding: See `Runtime.facts`.
    """

    parameters: int
    kinds: tuple[LayerKind, ...]
    decoding: Mapping[str, str]


class Models(Inherited):
    """One backbone with N adapters.

    Args:
        load: Loads the backbone.
        limits: Largest prompts, answers and queues.
    """

    def __init__(self, load: Load, limits: AppLimits | None = None) -> None:
        self._load = load
        self.limits = limits or AppLimits()
        self._clusters: Clusters | None = None
        self.inference: Engine | None = None  # None on ZeroGPU, where every call runs in a fork

    def load(self, progress: Progress) -> BackboneFacts:
        """Load the backbone and start the workers."""
        backbone = self._load(progress)
        from cgclora.inference.multi_adapter import Clusters  # noqa: PLC0415 - slow, see above

        self._clusters = Clusters(backbone)
        if not ZERO_GPU:
            self.inference = self._start_workers(self._clusters)
        return _facts(backbone)

    def run(self, work: Callable[..., Generator[T]], *arguments: object) -> Generator[T]:
        """The values of `work(self, *arguments)`; closing the iterator stops the work."""
        return work(self, *arguments)

    @property
    def clusters(self) -> Clusters:
        """The resident adapters; a backbone must have been loaded."""
        if self._clusters is None:
            raise RuntimeError("no backbone is loaded: call `load` first.")
        return self._clusters

    @property
    def backbone(self) -> Backbone:
        """The adapted backbone."""
        return self.clusters.backbone

    def adapter(self, name: str) -> Adapter:
        """A resident adapter."""
        return self.clusters.adapters[name]

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self.inference.waiting if self.inference else 0

    @property
    def seconds_until_room(self) -> int:
        """When to retry after the queue was full."""
        return self.inference.seconds_until_room if self.inference else SECONDS_UNTIL_ROOM

    def end(self, seconds: float) -> None:
        """Take no more requests, and finish those in progress within so many seconds."""
        if self.inference is not None:
            self.inference.drain(seconds)

    def _start_workers(self, clusters: Clusters) -> Engine:
        from cgclora.inference.engine import Engine  # noqa: PLC0415 - slow, see above

        limits = Limits(
            batch_size=self.limits.at_once,
            queue=self.limits.waiting,
            prompt_tokens=self.limits.prompt_tokens,
            answer_tokens=self.limits.answer_tokens,
        )
        return Engine(clusters.backbone, clusters, limits).__enter__()


def _facts(backbone: Backbone) -> BackboneFacts:
    """Read before an adapter is attached."""
    from cgclora.adapter import backbone_parameters  # noqa: PLC0415 - slow, see above
    from cgclora.inference.runtime import Runtime  # noqa: PLC0415
    from evals.experiments.training_plan import kinds_of_model  # noqa: PLC0415

    return BackboneFacts(
        backbone_parameters(backbone.model),
        kinds_of_model(backbone.model),
        Runtime.of(backbone).facts(),
    )


def loader(source: str | None, *, int8: bool = True) -> Load:
    """How to load a backbone: a local folder, a hub id, or None for the embedded one.

    Args:
        source: The backbone.
        int8: See `load_backbone`.
    """

    def load(progress: Progress) -> Backbone:
        from cgclora.inference.runtime import Runtime  # noqa: PLC0415 - slow, see above
        from cgclora.models.backbone import EMBEDDED, load_backbone  # noqa: PLC0415

        if not ZERO_GPU:
            backbone = load_backbone(source or EMBEDDED, int8=int8, progress=progress)
            if backbone.int8:
                progress("packing the weights", 0.9)
                Runtime.of(backbone).warm_up()
            return backbone
        # The reading threads do not see the device, so the weights are moved afterwards.
        path = source or EMBEDDED
        backbone = load_backbone(path, device="cpu", dtype="bfloat16", progress=progress)
        to_gpu(backbone)
        return backbone

    return load
