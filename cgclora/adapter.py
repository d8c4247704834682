"""Put an adapter on a backbone, tell it the tasks of a batch, fold a task in, save and load.

    adapter = Adapter.attach(model, AdapterConfig(tasks=("NER", "Summary")))
    with adapter.route(["NER", "Summary", "NER"]):      # one task a row
        logits = model(input_ids).logits
    adapter.save("my-adapter")

The expert layers stand inside the backbone's own tree, so that whatever walks a model (optimizers,
DDP, FSDP, gradient checkpointing) finds them; the frozen weights are never written to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cgclora.config import AdapterConfig, PromptFormat
from cgclora.inference.gather import Shelf, Use, gather
from cgclora.inference.router import TaskRouter
from cgclora.layer import ExpertLinear, GatheredRoute, Route, Routing, TaskGate
from cgclora.models.backbone import Backbone, fingerprint
from cgclora.models.target_modules import check_rows, linear_paths, saved_paths
from cgclora.storage import adapter_dir, provenance
from cgclora.storage.adapter_dir import AdapterError

GATES = "task_gates"
READ_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that read the same input one after another, in most of today's backbones."""


class Row(Protocol):
    """What a route needs to know of a batch's row.

    Attributes:
        task: Whose experts answer; None is the bare backbone.
        gates: Weights instead of the gate's, [E] or [L, E]; None leaves them.
        cluster: The adapter that knows the task, where several are resident; None looks it up.
    """

    @property
    def task(self) -> str | None: ...  # noqa: D102 - see above
    @property
    def gates(self) -> Tensor | None: ...  # noqa: D102
    @property
    def cluster(self) -> str | None: ...  # noqa: D102


class Adapter:
    """A named adapter on a backbone. Made by `attach` or `load`.

    Attributes:
        model: The backbone that carries it.
        config: What it is.
        name: Its name on this backbone.
        layers: The adapted layers by their path in the unadapted backbone, in gate order.
        gate: The task gate.
        routing: What all expert layers of the backbone share.
        manifest: What its folder says of it; empty for a new one.
        backbone_name: Where the backbone came from, for the manifest.
        router: Finds the task of prompts that name none; None where it was not fitted.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: AdapterConfig,
        name: str,
        layers: dict[str, ExpertLinear],
        gate: TaskGate,
    ) -> None:
        self.model = model
        self.config = config
        self.name = name
        self.layers = layers
        self.gate = gate
        self.manifest: dict[str, Any] = {}
        self.router: TaskRouter | None = None
        self.backbone_name: str = getattr(model, "name_or_path", "")
        self._lock: AbstractContextManager[Any] = nullcontext()
        self.routing = next(iter(layers.values())).routing
        self._shelves: dict[str, Shelf] = {}

    # Life on a backbone -------------------------------------------------------------------

    @classmethod
    def attach(
        cls,
        backbone: Backbone | PreTrainedModel,
        config: AdapterConfig,
        *,
        name: str = "default",
        seed: int = 0,
    ) -> Self:
        """Give a backbone a new adapter that does not change its outputs yet (B is zero).

        The backbone's own parameters stop requiring gradients.

        Args:
            backbone: A loaded backbone, or any `transformers` model.
            config: What to attach.
            name: Letters, digits, `_` and `-`; several adapters may live on one backbone.
            seed: Of the experts' and the gate's first values.

        Raises:
            AdapterError: The name is taken or malformed, no layer has a wanted name, or the
                backbone is not one whose layers see the rows of a batch; which layers are adapted
                says `cgclora.models.target_modules.linear_paths`.
        """
        model, lock = _parts(backbone)
        paths = linear_paths(model, config.target_modules)
        with lock:  # others' passes would be taken for the one that shows the rows
            if any(not isinstance(model.get_submodule(path), ExpertLinear) for path in paths):
                check_rows(model, paths)
        return cls._attach(backbone, config, paths, name, seed)

    @classmethod
    def _attach(
        cls,
        backbone: Backbone | PreTrainedModel,
        config: AdapterConfig,
        paths: Sequence[str],
        name: str,
        seed: int,
    ) -> Self:
        """`attach`, beside these layers."""
        model, lock = _parts(backbone)
        taken = any(hasattr(kind(), name) for kind in (nn.ModuleDict, nn.ParameterDict))
        if taken or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise AdapterError(
                f"adapter name {name!r} cannot be used: take letters, digits, '_' and '-', and "
                "not a word that torch modules use, such as 'train'."
            )
        if name in getattr(model, GATES, {}):
            raise AdapterError(f"an adapter named {name!r} is attached already: detach it first.")
        for parameter in _frozen_parameters(model):
            parameter.requires_grad_(False)
        routing = _routing_of(model)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            gate = TaskGate(config, len(paths))
            layers = {}
            for row, path in enumerate(paths):
                layers[path] = _wrapped(model, path, routing)
                layers[path].add(name, config, row)
        if not hasattr(model, GATES):
            model.add_module(GATES, nn.ModuleDict())
        gate.to(next(iter(layers.values())).base_layer.weight.device)
        cast(nn.ModuleDict, getattr(model, GATES))[name] = gate
        adapter = cls(model, config, name, layers, gate)
        if isinstance(backbone, Backbone):
            adapter.backbone_name = backbone.name
        adapter._lock = lock
        return adapter

    def detach(self, *, keep_layers: bool = False) -> None:
        """Take the adapter off; with the last one gone the backbone is as it came.

        Args:
            keep_layers: Leave empty expert layers where they are, for batches on their way that
                hold a route through them.
        """
        self._take_off(set(self.layers.values()) if keep_layers else set())

    def _take_off(self, kept: Set[ExpertLinear]) -> None:
        """`detach`; of the layers that are empty then, these are left where they are."""
        self.unfold()
        for path, layer in self.layers.items():
            layer.remove(self.name)
            if not layer.gate_row and layer not in kept:
                self.model.set_submodule(path, layer.base_layer)
        gates = cast(nn.ModuleDict, getattr(self.model, GATES))
        del gates[self.name]
        if not gates:
            delattr(self.model, GATES)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The adapter's own parameters under the names that its file uses."""
        yield from self.expert_parameters()
        for gate_name, parameter in self.gate.named_parameters():
            yield f"gate.{gate_name}", parameter

    def expert_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of `named_parameters` that are not the gate's."""
        for path, layer in self.layers.items():
            for table in ExpertLinear.adapter_parameter_names:
                yield f"{path}.{table}", getattr(layer, table)[self.name]

    def num_parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for _, parameter in self.named_parameters())

    def for_inference(self) -> Self:
        """Make passes cheaper: no casts, used experts only, one product where inputs are the same.

        The experts are held in the backbone's dtype, laid out so that those of a batch are picked
        at once. The answers stay the same. Train before, not after: updates get lost in bf16.
        """
        for layer in self.layers.values():
            dtype = layer.base_layer.weight.dtype
            if not dtype.is_floating_point:
                continue  # quantised: the pass decides
            for table in layer.adapter_parameter_names:
                parameter = getattr(layer, table)[self.name].requires_grad_(False)
                parameter.data = parameter.data.to(dtype)
        self._shelves = {
            name: self._shelf(layers) for name, layers in self._read_together().items()
        }
        return self

    def _read_together(self) -> dict[str, list[ExpertLinear]]:
        """The layers in groups that read the same input."""
        groups: dict[str, list[ExpertLinear]] = {}
        for path, layer in self.layers.items():
            block, _, name = path.rpartition(".")
            together = next((names for names in READ_TOGETHER if name in names), (name,))
            key = f"{block}.{together[0]} {layer.base_layer.in_features}"
            groups.setdefault(key, []).append(layer)
        return groups

    def _shelf(self, layers: Sequence[ExpertLinear]) -> Shelf:
        """The experts of layers that read the same input; the parameters become views of it."""
        A = torch.stack([layer.expert_A[self.name].data for layer in layers])
        B = [layer.expert_B[self.name].data.t().contiguous() for layer in layers]
        for place, layer in enumerate(layers):
            layer.expert_A[self.name].data = A[place]
            layer.expert_B[self.name].data = B[place].t()
        rows = tuple(layer.gate_row[self.name] for layer in layers)
        return Shelf(tuple(layers), rows, A, tuple(B))

    # Tasks of a batch ---------------------------------------------------------------------

    def gates(self) -> Tensor:
        """The gate weights of all layers and tasks, [L, T, E], detached."""
        with torch.no_grad():
            return cast(Tensor, self.gate().clone())

    def weigh(
        self, tasks: Sequence[str | None] | Tensor, gates: Sequence[Tensor | None] = ()
    ) -> Tensor:
        """The gates of a batch's rows, [L, batch, E].

        Args:
            tasks: A task name a row, None for a row that uses no expert; or task ids [batch].
            gates: Weights instead of the gate's for some rows: None, [E], or [L, E] a row.

        Raises:
            ConfigError: A task is unknown.
            AdapterError: Gates have another shape, or hold a value that is no finite number.
        """
        device = self.gate.own.device
        if isinstance(tasks, Tensor):
            return cast(Tensor, self.gate(tasks.to(device)))
        names = [self.config.tasks[0] if task is None else task for task in tasks]
        ids = torch.tensor([self.config.task_index(name) for name in names], device=device)
        weights = self.gate(ids)
        layers, _, experts = weights.shape
        if any(own is not None for own in gates):
            weights = weights.clone()  # one gate for all layers is one row seen many times
        for row, own in enumerate(gates):
            if own is None:
                continue
            if own.shape not in ((experts,), (layers, experts)):
                raise AdapterError(
                    f"gates has shape {list(own.shape)}, expected [{experts}] or "
                    f"[{layers}, {experts}] (layers, experts)."
                )
            if not torch.isfinite(own).all():
                raise AdapterError("gates holds a value that is not a finite number.")
            weights[:, row] = own.to(weights)
        if None in tasks:
            bare = torch.tensor([task is None for task in tasks], device=device)
            weights = weights.masked_fill(bare[:, None], 0)
        return cast(Tensor, weights)

    def plan(
        self, tasks: Sequence[str | None] | Tensor, *, gates: Tensor | None = None
    ) -> Route | GatheredRoute:
        """The route of a batch, for use with `route` once or many times.

        Args:
            tasks: A task name a row, None for a row that the bare backbone answers; or a tensor
                of task ids [batch].
            gates: Use these weights instead of the gate's: [batch, E], or [L, batch, E].

        Raises:
            ConfigError: A task is unknown.
            AdapterError: `gates` has another shape.
        """
        if gates is None and isinstance(tasks, Tensor) and not self._shelves:
            weights, ranks = self.weights_of_rows(tasks)
            return Route(self.name, weights.unsqueeze(2).unbind(0), ranks)
        if gates is None:
            return self._routed(self.weigh(tasks))
        shape = (len(self.layers), len(tasks), self.config.num_experts)
        if gates.shape not in (shape, shape[1:]):
            raise AdapterError(
                f"gates has shape {list(gates.shape)}, expected {list(shape[1:])} or "
                f"{list(shape)} (layers, batch, experts)."
            )
        if isinstance(tasks, Tensor):
            tasks = [self.config.tasks[task] for task in tasks.tolist()]
        return self._routed(self.weigh(tasks, gates.expand(shape).unbind(1)))

    def plan_rows(self, rows: Sequence[Row]) -> Route | GatheredRoute:
        """The route of a batch whose rows say their task, and their gates where they have some.

        Raises:
            ConfigError: A task is unknown.
            AdapterError: Gates have a wrong shape.
        """
        return self._routed(self.weigh([row.task for row in rows], [row.gates for row in rows]))

    def rank_weights(self, task: str) -> Tensor:
        """Scale times gate of a task in fp32, a value a rank, [L, E * k].

        Raises:
            ConfigError: The task is unknown.
        """
        with torch.no_grad():
            gates = self.weigh([task])[:, 0].float()
        return self._of_ranks(gates)

    def use(self, weights: Tensor) -> Use:
        """What gates of a batch's rows, [L, batch, E], use of an adapter made `for_inference`."""
        return Use.of(self._shelves, weights, self.config.scale)

    def _routed(self, gates: Tensor) -> Route | GatheredRoute:
        if self._shelves:
            return gather([self.use(gates)])
        return Route(self.name, self._of_ranks(gates).unsqueeze(2).unbind(0))

    def _of_ranks(self, gates: Tensor) -> Tensor:
        """Scale times gate, a value a rank, of gates [..., experts]."""
        return self.config.scale * gates.repeat_interleave(self.config.expert_rank, dim=-1)

    def few(self, rows: int) -> bool:
        """Whether the experts of so many rows are at most half of all."""
        return 2 * (self.config.common + rows * self.config.specific) <= self.config.num_experts

    def weights_of_rows(self, tasks: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scale times gate of the rows of a training batch, a value a rank, and which ranks.

        Where rows are few beside the tasks they go through their own experts, not all. Each row
        brings its task's experts then, twice where two rows have one task. So how many there are is
        known without a look at the ids, for which a GPU would have to wait.

        Args:
            tasks: Ids [batch].

        Returns:
            [L, batch, R], and which of the E*k ranks these are, [R]; None is all of them in order.
        """
        tasks = tasks.to(self.gate.own.device)
        gates = cast(Tensor, self.gate(tasks))
        ranks = None
        if self.few(len(tasks)):
            gates, ranks = self._own_experts(gates, tasks)
        return self._of_ranks(gates), ranks

    def _own_experts(self, gates: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        """Of gates [L, batch, E] those of the common and each row's experts, and their ranks."""
        common, specific, rank = (
            self.config.common,
            self.config.specific,
            self.config.expert_rank,
        )
        device = tasks.device
        own = common + tasks[:, None] * specific + torch.arange(specific, device=device)
        used = torch.cat([torch.arange(common, device=device), own.flatten()])
        ranks = (used[:, None] * rank + torch.arange(rank, device=device)).flatten()
        found = gates.gather(-1, own.expand(len(gates), -1, -1)).unsqueeze(2)
        apart = found * torch.eye(len(tasks), device=device).unsqueeze(-1)  # no row uses another's
        return torch.cat([gates[..., :common], apart.flatten(2)], dim=-1), ranks

    def prompt_format(self, row: Row) -> PromptFormat:
        """What stands around a row's prompt."""
        return self.config.prompt_format

    def snapshot(self) -> Self:
        """Itself: whose tasks it knows does not change, as it does with several adapters."""
        return self

    @contextmanager
    def route(
        self,
        tasks: Sequence[str | None] | Tensor | Route | GatheredRoute,
        *,
        gates: Tensor | None = None,
    ) -> Iterator[None]:
        """Within this context the backbone answers each row with its task's experts.

        A training step keeps the context open through `backward`, since gradient checkpointing
        runs the layers again there.

        Args:
            tasks: As for `plan`, or what `plan` returned.
            gates: As for `plan`.

        Raises:
            ConfigError: A task is unknown.
            AdapterError: A task is folded in, or `gates` has another shape.
        """
        if self.routing.folded is not None:
            name, task = self.routing.folded
            raise AdapterError(
                f"task {task!r} of adapter {name!r} is folded in: unfold() it before route()."
            )
        if not isinstance(tasks, Route | GatheredRoute):
            tasks = self.plan(tasks, gates=gates)
        with self.routing.within(tasks):
            yield

    # One task as part of the backbone -----------------------------------------------------

    @property
    def folded_task(self) -> str | None:
        """The task of this adapter that is folded in, if any."""
        name, task = self.routing.folded or (None, None)
        return task if name == self.name else None

    def folded_weights(self, task: str) -> dict[ExpertLinear, Tensor]:
        """What each adapted layer's weight is with a task folded in, [out, in]; nothing changes.

        Raises:
            ConfigError: The task is unknown.
            AdapterError: The backbone is quantised, so that there is no weight to add to.
        """
        self._check_foldable()
        return {
            layer: layer.folded(self.name, row)
            for layer, row in zip(self.layers.values(), self.rank_weights(task), strict=True)
        }

    def _check_foldable(self) -> None:
        for path, layer in self.layers.items():
            if not layer.base_layer.weight.is_floating_point():
                raise AdapterError(f"{path} is quantised: fold into an unquantised backbone.")

    def fold(self, task: str) -> None:
        """Add one task's experts to the frozen weights: its answers then cost nothing extra.

        It takes the place of what this or another adapter had folded in.

        Raises:
            ConfigError: The task is unknown.
            AdapterError: The backbone is quantised, so that there is no weight to add to, or a
                route is open.
        """
        if self.routing.route is not None:
            raise AdapterError("fold() within route(): leave the route first.")
        self._check_foldable()
        weights = self.rank_weights(task)
        with self._lock:  # not between two layers of a pass
            _unfold(self.model, self.routing)
            try:
                for layer, row in zip(self.layers.values(), weights, strict=True):
                    layer.fold(self.name, row)
            except BaseException:  # out of memory, say: a part of a task is no task
                _unfold(self.model, self.routing)
                raise
            self.routing.folded = (self.name, task)

    def unfold(self) -> None:
        """Undo this adapter's `fold` exactly; without a folded task nothing happens."""
        if self.folded_task is not None:
            with self._lock:
                _unfold(self.model, self.routing)

    # Folder -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """The adapter's weights by name, on the CPU."""
        return {
            name: parameter.detach().cpu().contiguous()
            for name, parameter in self.named_parameters()
        }

    def backbone_facts(self) -> dict[str, str]:
        """What a manifest says of the backbone: its name, fingerprint and model type."""
        return {
            "name": public_name(self.backbone_name),
            "fingerprint": fingerprint(self.model),
            "model_type": self.model.config.model_type,
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over weights by name.

        Raises:
            AdapterError: A name is missing or unknown, or a shape differs; nothing is changed then.
        """
        own = dict(self.named_parameters())
        if missing := sorted(own.keys() - tensors.keys()):
            raise AdapterError(f"{len(missing)} tensors are missing, the first is {missing[0]!r}.")
        if unknown := sorted(tensors.keys() - own.keys()):
            raise AdapterError(f"{len(unknown)} tensors are unknown, the first is {unknown[0]!r}.")
        for name, parameter in own.items():
            if parameter.shape != tensors[name].shape:
                raise AdapterError(
                    f"{name} has shape {list(tensors[name].shape)}, "
                    f"expected {list(parameter.shape)}."
                )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])

    def save(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write config, weights, router and manifest as a folder, whole or not at all.

        Args:
            folder: Where; an older adapter there is replaced.
            dtype: Of the written weights; None keeps theirs.
            facts: What else the manifest shall say: data hash, seed, hyper-parameters, results.

        Returns:
            The manifest.

        Raises:
            AdapterError: The folder is there and holds something else, or the router knows other
                tasks than the adapter.
        """
        if self.router is not None:
            self.router.check(self.config.tasks, self.name)
        self.manifest = adapter_dir.write(
            folder,
            self.config,
            {name: tensor.to(dtype or tensor.dtype) for name, tensor in self.state_dict().items()},
            {
                "backbone": self.backbone_facts(),
                "tasks": list(self.config.tasks),
                "total_rank": self.config.total_rank,
                "active_rank": self.config.active_rank,
                "trainable_parameters": self.num_parameters(),
                **provenance.stamp(self.model),
                **(facts or {}),
            },
            router=None if self.router is None else self.router.to_bytes(),
        )
        return self.manifest

    @classmethod
    def load(
        cls, folder: str | Path, backbone: Backbone | PreTrainedModel, *, name: str | None = None
    ) -> Self:
        """Attach an adapter that was saved. Reads JSON and safetensors only.

        Args:
            folder: What `save` wrote.
            backbone: The backbone it was trained on.
            name: Its name on this backbone; None takes the folder's, as far as its letters go.

        Raises:
            AdapterError: The folder is not an adapter or is damaged, or its format is newer, or it
                was trained on another backbone, or its shapes do not fit, or it holds a value that
                is no finite number.
        """
        folder = Path(folder)
        manifest, config = adapter_dir.read_manifest(folder)
        model, lock = _parts(backbone)
        found = backbone.fingerprint if isinstance(backbone, Backbone) else fingerprint(model)
        wanted = manifest["backbone"]["fingerprint"]
        if found != wanted:
            raise AdapterError(
                f"{folder} was trained on {manifest['backbone'].get('name') or 'another backbone'} "
                f"(fingerprint {wanted[:12]}), this backbone is {found[:12]}: load that one."
            )
        tensors = adapter_dir.read_tensors(folder)
        for tensor_name, tensor in tensors.items():
            # Even with gate zero, as in the rows of other adapters, it would give no number.
            if not torch.isfinite(tensor).all():
                raise AdapterError(
                    f"{folder}: {tensor_name} holds a value that is not a finite number: take an "
                    "earlier state of its training, or train it anew."
                )
        router = None
        if adapter_dir.ROUTER_FILE in manifest["files"]:
            router = TaskRouter.read(folder, config.tasks)
        # Others may be using the backbone, and must not meet an adapter between two layers.
        with lock:
            # Of adapters that left, too: answers on their way may hold routes through them.
            older = {layer for layer in model.modules() if isinstance(layer, ExpertLinear)}
            paths = saved_paths(model, config.target_modules, tensors)
            adapter = cls._attach(backbone, config, paths, name or _name_of(folder), 0)
            try:
                adapter.load_state_dict(tensors)
            except AdapterError as error:
                adapter._take_off(older)
                raise AdapterError(f"{folder} does not fit this backbone: {error}") from error
        adapter.manifest, adapter.router = manifest, router
        return adapter


def _parts(
    backbone: Backbone | PreTrainedModel,
) -> tuple[PreTrainedModel, AbstractContextManager[Any]]:
    """A backbone's model, and what is held while it runs."""
    if isinstance(backbone, Backbone):
        return backbone.model, backbone.lock
    return backbone, nullcontext()


def _frozen_parameters(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """The backbone's own parameters: all but those of adapters that are attached already."""
    for name, parameter in model.named_parameters():
        if not any(f"{table}." in name for table in (*ExpertLinear.adapter_parameter_names, GATES)):
            yield parameter


def backbone_parameters(model: PreTrainedModel) -> int:
    """Number of the backbone's own parameters, adapters aside."""
    return sum(parameter.numel() for parameter in _frozen_parameters(model))


def folded_in(model: PreTrainedModel) -> tuple[str, str] | None:
    """Name of the adapter and of its task that are folded into a backbone, if any."""
    if not hasattr(model, GATES):  # asked at every token: no walk through a bare backbone
        return None
    return _routing_of(model).folded


def _unfold(model: PreTrainedModel, routing: Routing) -> None:
    for module in model.modules():
        if isinstance(module, ExpertLinear):
            module.unfold()
    routing.folded = None


def _routing_of(model: PreTrainedModel) -> Routing:
    for module in model.modules():
        if isinstance(module, ExpertLinear):
            return module.routing
    return Routing()


def _wrapped(model: PreTrainedModel, path: str, routing: Routing) -> ExpertLinear:
    """The expert layer at a path, put there if no earlier adapter did."""
    module = model.get_submodule(path)
    if not isinstance(module, ExpertLinear):
        module = ExpertLinear(cast(nn.Linear, module), routing).train(module.training)
        model.set_submodule(path, module)
    return module


def _name_of(folder: Path) -> str:
    """A folder's name without what no module's name may hold."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", folder.resolve().name).strip("_") or "default"


def public_name(source: str) -> str:
    """A backbone's source without the folders that lead to it, which are nobody else's business."""
    return Path(source).name if Path(source).exists() else source
