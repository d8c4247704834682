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
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cgclora.adapter.expert_layers import (
    GATES,
    fold_layer,
    folded_weight,
    follow,
    frozen_parameters,
    initial_A,
    model_and_lock,
    routing_of,
    unfold_all,
    wrapped,
)
from cgclora.adapter.planning import PlannedExperts
from cgclora.config import AdapterConfig
from cgclora.layer import ExpertLinear, Route, TaskGate
from cgclora.models.backbone import Backbone, fingerprint, public_name
from cgclora.models.target_modules import check_rows, linear_paths, saved_paths
from cgclora.storage import adapter_dir, provenance
from cgclora.storage.adapter_dir import AdapterError


class Adapter(PlannedExperts):
    """A named adapter on a backbone. Made by `attach` or `load`.

    Attributes, beside those of `PlannedExperts`:
        model: The backbone that carries it.
        routing: What all expert layers of the backbone share.
        manifest: What its folder says of it; empty for a new one.
        files: Further files of its folder by name, such as a router's, see `adapter_dir`.
        backbone_name: Where the backbone came from, for the manifest.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: AdapterConfig,
        name: str,
        layers: dict[str, ExpertLinear],
        gate: TaskGate,
    ) -> None:
        super().__init__(config, name, layers, gate)
        self.model = model
        self.manifest: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.backbone_name: str = getattr(model, "name_or_path", "")
        self._lock: AbstractContextManager[Any] = nullcontext()
        self.routing = next(iter(layers.values())).routing

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
        model, lock = model_and_lock(backbone)
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
        model, lock = model_and_lock(backbone)
        taken = any(hasattr(kind(), name) for kind in (nn.ModuleDict, nn.ParameterDict))
        if taken or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise AdapterError(
                f"adapter name {name!r} cannot be used: take letters, digits, '_' and '-', and "
                "not a word that torch modules use, such as 'train'."
            )
        if name in getattr(model, GATES, {}):
            raise AdapterError(f"an adapter named {name!r} is attached already: detach it first.")
        routing = routing_of(model)
        for parameter in filter(lambda one: one.requires_grad, frozen_parameters(model)):
            parameter.requires_grad_(False)
            routing.trainable.append(parameter)
        generator = torch.Generator().manual_seed(seed)
        gate = TaskGate(config, len(paths), generator)
        layers = {path: wrapped(model, path, routing) for path in paths}
        for layer in layers.values():
            weight, rank = layer.base_layer.weight, config.total_rank
            A = initial_A(rank, layer.base_layer.in_features, generator)
            B = torch.zeros(layer.base_layer.out_features, rank)
            layer.expert_A[name] = nn.Parameter(A.to(weight.device))
            layer.expert_B[name] = nn.Parameter(B.to(weight.device))
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
        self._detached = {layer: self._tables(layer) for layer in self.layers.values()}
        for path, layer in self.layers.items():
            del layer.expert_A[self.name], layer.expert_B[self.name]
            if not layer.expert_A and layer not in kept:
                self.model.set_submodule(path, layer.base_layer)
        gates = cast(nn.ModuleDict, getattr(self.model, GATES))
        del gates[self.name]
        if not gates:
            delattr(self.model, GATES)
            for parameter in self.routing.trainable:
                parameter.requires_grad_(True)
            self.routing.trainable.clear()

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

    # Tasks of a batch ---------------------------------------------------------------------

    @contextmanager
    def route(
        self, tasks: Sequence[str | None] | Tensor | Route, *, gates: Tensor | None = None
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
        route = tasks if isinstance(tasks, Route) else self.plan(tasks, gates=gates)
        with follow(self.routing, route):
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
            layer: folded_weight(layer, self.name, row)
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
            unfold_all(self.model, self.routing)
            try:
                for layer, row in zip(self.layers.values(), weights, strict=True):
                    fold_layer(layer, self.name, row)
            except BaseException:  # out of memory, say: a part of a task is no task
                unfold_all(self.model, self.routing)
                raise
            self.routing.folded = (self.name, task)

    def unfold(self) -> None:
        """Undo this adapter's `fold` exactly; without a folded task nothing happens."""
        if self.folded_task is not None:
            with self._lock:
                unfold_all(self.model, self.routing)

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
        """Write config, weights, further files and manifest as a folder, whole or not at all.

        Args:
            folder: Where; an older adapter there is replaced.
            dtype: Of the written weights; None keeps theirs.
            facts: What else the manifest shall say: data hash, seed, hyper-parameters, results.

        Returns:
            The manifest.

        Raises:
            AdapterError: The folder is there and holds something else.
        """
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
            files=self.files,
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
        model, lock = model_and_lock(backbone)
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
        adapter.manifest, adapter.files = manifest, adapter_dir.read_files(folder, manifest)
        return adapter


def _name_of(folder: Path) -> str:
    """A folder's name as a module's may be."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", folder.resolve().name).strip("_") or "default"
