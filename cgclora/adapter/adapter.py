"""Attach an adapter to a backbone, route a batch, fold a task, save and load.

    adapter = Adapter.attach(model, AdapterConfig(tasks=("NER", "Summary")))
    with adapter.route(["NER", "Summary", "NER"]):      # one task per row
        logits = model(input_ids).logits
    adapter.save("my-adapter")

The expert layers are part of the backbone's module tree, so that optimizers, DDP, FSDP and gradient
checkpointing find them. The frozen weights are never written to.
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
from cgclora.storage.hub import adapter_folder, adapter_name


class Adapter(PlannedExperts):
    """A named adapter on a backbone, created by `attach` or `load`.

    Attributes:
        model: The backbone's model.
        routing: Shared by all expert layers of the backbone.
        manifest: Manifest of its folder; empty for a new adapter.
        files: Further files of its folder by name, such as a router's, see `adapter_dir`.
        backbone_name: Origin of the backbone, for the manifest.
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

    @classmethod
    def attach(
        cls,
        backbone: Backbone | PreTrainedModel,
        config: AdapterConfig,
        *,
        name: str = "default",
        seed: int = 0,
    ) -> Self:
        """Attach a new adapter to a backbone, without effect on its outputs yet (B is zero).

        The backbone's own parameters stop requiring gradients.

        Args:
            backbone: A loaded backbone, or any `transformers` model.
            config: Of the adapter.
            name: Unique on the backbone: letters, digits, `_` and `-`.
            seed: Of the experts' and the gate's initial values.

        Raises:
            AdapterError: The name is taken or malformed, no layer has a target name (see
                `cgclora.models.target_modules.linear_paths`), or the backbone's layers do not see
                the rows of a batch.
        """
        model, lock = model_and_lock(backbone)
        paths = linear_paths(model, config.target_modules)
        with lock:  # a concurrent forward pass would disturb the check
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
        """`attach` to the layers at these paths."""
        model, lock = model_and_lock(backbone)
        taken = any(hasattr(kind(), name) for kind in (nn.ModuleDict, nn.ParameterDict))
        if taken or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise AdapterError(
                f"adapter name {name!r} cannot be used: use letters, digits, '_' and '-', and "
                "no attribute name of torch modules, such as 'train'."
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
            weight = layer.base_layer.weight
            A = initial_A(config.rank_of_A, layer.base_layer.in_features, generator)
            B = torch.zeros(layer.base_layer.out_features, config.total_rank)
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
        """Detach the adapter; without adapters the backbone is in its original state.

        Args:
            keep_layers: Keep empty expert layers, for running batches with a route through them.
        """
        self._detach(set(self.layers.values()) if keep_layers else set())

    def _detach(self, kept: Set[ExpertLinear]) -> None:
        """`detach`, which keeps these expert layers even if they are empty."""
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
        """The adapter's parameters by their names in its file."""
        yield from self.expert_parameters()
        for gate_name, parameter in self.gate.named_parameters():
            yield f"gate.{gate_name}", parameter

    def expert_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The `named_parameters` without the gate's."""
        for path, layer in self.layers.items():
            for table in ExpertLinear.adapter_parameter_names:
                yield f"{path}.{table}", getattr(layer, table)[self.name]

    def num_parameters(self) -> int:
        """Number of trainable values."""
        return sum(parameter.numel() for _, parameter in self.named_parameters())

    @contextmanager
    def route(
        self, tasks: Sequence[str | None] | Tensor | Route, *, gates: Tensor | None = None
    ) -> Iterator[None]:
        """Route each row of a batch to its task's experts, within this context.

        In training, `backward` must be within the context, too: gradient checkpointing recomputes
        the layers there.

        Args:
            tasks: As for `plan`, or a route that `plan` returned.
            gates: As for `plan`.

        Raises:
            ConfigError: A task is unknown.
            AdapterError: A task is folded in, or `gates` has a wrong shape.
        """
        if self.routing.folded is not None:
            name, task = self.routing.folded
            raise AdapterError(
                f"task {task!r} of adapter {name!r} is folded in: unfold() it before route()."
            )
        route = tasks if isinstance(tasks, Route) else self.plan(tasks, gates=gates)
        with follow(self.routing, route):
            yield

    @property
    def folded_task(self) -> str | None:
        """This adapter's folded task, if any."""
        name, task = self.routing.folded or (None, None)
        return task if name == self.name else None

    def folded_weights(self, task: str) -> dict[ExpertLinear, Tensor]:
        """The weight [out, in] of each adapted layer with a task folded in; changes nothing.

        Raises:
            ConfigError: The task is unknown.
            AdapterError: The backbone is quantised.
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
        """Fold one task into the weights, without cost at inference; replaces any folded task.

        Raises:
            ConfigError: The task is unknown.
            AdapterError: The backbone is quantised, or a route is active.
        """
        if self.routing.route is not None:
            raise AdapterError("fold() within route(): leave the route first.")
        self._check_foldable()
        weights = self.rank_weights(task)
        with self._lock:  # not within a forward pass
            unfold_all(self.model, self.routing)
            try:
                for layer, row in zip(self.layers.values(), weights, strict=True):
                    fold_layer(layer, self.name, row)
            except BaseException:  # such as out of memory: no partly folded task
                unfold_all(self.model, self.routing)
                raise
            self.routing.folded = (self.name, task)

    def unfold(self) -> None:
        """Undo this adapter's `fold` exactly, if there is one."""
        if self.folded_task is not None:
            with self._lock:
                unfold_all(self.model, self.routing)

    def state_dict(self) -> dict[str, Tensor]:
        """The adapter's weights by name, on the CPU."""
        return {
            name: parameter.detach().cpu().contiguous()
            for name, parameter in self.named_parameters()
        }

    def backbone_facts(self) -> dict[str, str]:
        """The backbone's name, fingerprint and model type, for the manifest."""
        return {
            "name": public_name(self.backbone_name),
            "fingerprint": fingerprint(self.model),
            "model_type": self.model.config.model_type,
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Load weights by name.

        Raises:
            AdapterError: A name is missing or unknown, or a shape differs; then nothing changes.
        """
        parameters = dict(self.named_parameters())
        if missing := sorted(parameters.keys() - tensors.keys()):
            raise AdapterError(f"{len(missing)} tensors are missing, the first is {missing[0]!r}.")
        if unknown := sorted(tensors.keys() - parameters.keys()):
            raise AdapterError(f"{len(unknown)} tensors are unknown, the first is {unknown[0]!r}.")
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                raise AdapterError(
                    f"{name} has shape {list(tensors[name].shape)}, "
                    f"expected {list(parameter.shape)}."
                )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])

    def save(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write config, weights, further files and manifest to a folder, atomically.

        Args:
            folder: An older adapter there is replaced.
            dtype: Of the saved weights; None keeps theirs.
            facts: Further entries of the manifest: data hash, seed, hyper-parameters, results.

        Returns:
            The manifest.

        Raises:
            AdapterError: The folder exists and is not an adapter.
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
        """Attach a saved adapter. Reads JSON and safetensors only.

        Args:
            folder: Written by `save`; or a hub id, see `cgclora.storage.hub.adapter_folder`.
            backbone: The backbone it was trained on.
            name: Its name on this backbone; None derives it from the folder's or the id's.

        Raises:
            AdapterError: The folder is not an adapter, is damaged, has a newer format, was trained
                on another backbone, or has a wrong shape or a value that is not finite.
        """
        name = name or _module_name(adapter_name(folder))
        folder = adapter_folder(folder)
        manifest, config = adapter_dir.read_manifest(folder)
        model, lock = model_and_lock(backbone)
        actual = backbone.fingerprint if isinstance(backbone, Backbone) else fingerprint(model)
        expected = manifest["backbone"]["fingerprint"]
        if actual != expected:
            raise AdapterError(
                f"{folder} was trained on {manifest['backbone'].get('name') or 'another backbone'} "
                f"(fingerprint {expected[:12]}), this backbone is {actual[:12]}: load that one."
            )
        tensors = adapter_dir.read_tensors(folder)
        for tensor_name, tensor in tensors.items():
            # Even with gate zero, as in rows of other adapters, it would give NaN.
            if not torch.isfinite(tensor).all():
                raise AdapterError(
                    f"{folder}: {tensor_name} has a value that is not a finite number: use an "
                    "earlier checkpoint, or train the adapter again."
                )
        with lock:  # not within a forward pass
            # Also those of detached adapters: running batches may have routes through them.
            existing = {layer for layer in model.modules() if isinstance(layer, ExpertLinear)}
            paths = saved_paths(model, config.target_modules, tensors)
            adapter = cls._attach(backbone, config, paths, name, 0)
            try:
                adapter.load_state_dict(tensors)
            except AdapterError as error:
                adapter._detach(existing)
                raise AdapterError(f"{folder} does not fit this backbone: {error}") from error
        adapter.manifest, adapter.files = manifest, adapter_dir.read_files(folder, manifest)
        return adapter


def _module_name(name: str) -> str:
    """A name, restricted to characters of adapter names."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "default"
