"""The gates of a saved adapter, without a backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from cgclora.config import AdapterConfig
from cgclora.layer import TaskGate
from cgclora.storage.adapter_dir import AdapterError, read_manifest, read_tensors


def read_gates(folder: str | Path) -> Tensor:
    """The gate weights of a saved adapter, [L, T, E].

    Raises:
        AdapterError: The folder is not an adapter, is damaged, or has a newer format.
    """
    _, config = read_manifest(folder)
    gate = gate_of(folder, config, read_tensors(folder))
    with torch.no_grad():
        return cast(Tensor, gate().clone())


def gate_of(folder: str | Path, config: AdapterConfig, tensors: Mapping[str, Tensor]) -> TaskGate:
    """The gate of a folder whose config and weights were read already.

    Raises:
        AdapterError: The gate does not fit the config.
    """
    layers = sum(name.endswith(".expert_A") for name in tensors)
    gate = TaskGate(config, layers)
    try:
        gate.load_state_dict(
            {
                name.removeprefix("gate."): tensor
                for name, tensor in tensors.items()
                if name.startswith("gate.")
            }
        )
    except RuntimeError as error:
        raise AdapterError(f"{folder} has a gate that does not fit its config: {error}") from error
    return gate
