"""The linear layers that a saved adapter stands beside, from its file's header: no torch."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

WEIGHTS_FILE = "adapter.safetensors"
"""Where an adapter's folder holds its weights."""

_IN_A_PASS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The usual names, in the order in which a pass meets them; a file has no order of its own."""


@dataclass(frozen=True)
class LayerKind:
    """Adapted layers of one name and size."""

    name: str  # the last part of their paths, such as `q_proj`
    inner: int  # input features
    outer: int  # output features
    layers: int  # how many there are


def layer_sizes(folder: str | Path) -> dict[str, tuple[int, int]]:
    """Input and output features of each adapted layer of a saved adapter, by path.

    Raises:
        ValueError: The file is missing or damaged; the message says which.
    """
    path = Path(folder) / WEIGHTS_FILE
    try:
        with safe_open(path, framework="numpy") as stored:
            shapes = {name: stored.get_slice(name).get_shape() for name in stored.offset_keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    layers = (name.removesuffix(".expert_A") for name in shapes if name.endswith(".expert_A"))
    return {one: (shapes[f"{one}.expert_A"][1], shapes[f"{one}.expert_B"][0]) for one in layers}


def layer_kinds(folder: str | Path) -> tuple[LayerKind, ...]:
    """The kinds of layers of a saved adapter: usual names in a pass's order, then the others.

    Raises:
        ValueError: As `layer_sizes`.
    """
    counts = Counter(
        (path.rpartition(".")[2], *sizes) for path, sizes in layer_sizes(folder).items()
    )
    kinds = [LayerKind(*kind, layers) for kind, layers in counts.items()]
    usual = {name: place for place, name in enumerate(_IN_A_PASS)}
    return tuple(sorted(kinds, key=lambda kind: usual.get(kind.name, len(usual))))
