"""The formats that tasks are exported in, an entry each; `register` adds another.

Nothing here imports torch before an export begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cgclora.config import ConfigError
from cgclora.storage.adapter_dir import read_manifest

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from cgclora.convert.sizes import LoRASizes
    from cgclora.convert.to_lora import TaskLoRAs


@dataclass(frozen=True)
class Export:
    """What is to be exported, and where to."""

    adapters: Sequence[Path]  # folders of saved adapters
    out: Path
    tasks: Sequence[str] | None = None  # these only; None takes all
    backbone: str | None = None  # local folder or hub id; None takes the one in each manifest
    base: str | None = None  # where the backbone will be, folder or hub id; None: `backbone`
    precision: str | None = None  # of the weights, such as `float16`; None is the format's own

    @property
    def dtype(self) -> torch.dtype:
        """The precision, by default float32."""
        import torch  # noqa: PLC0415 - slow, and not needed to list the formats

        dtype: torch.dtype = getattr(torch, self.precision or "float32")
        return dtype

    def loras(self) -> list[TaskLoRAs]:
        """The tasks of each adapter as plain LoRAs; the backbone's weights are not loaded.

        Raises:
            AdapterError, BackboneError, ConfigError: An adapter or its backbone cannot be read.
        """
        from cgclora.convert.to_lora import TaskLoRAs  # noqa: PLC0415 - slow, see above

        return [
            TaskLoRAs.read(folder, _backbone_config(self.backbone_of(folder)))
            for folder in self.adapters
        ]

    def sizes(self) -> list[LoRASizes]:
        """The sizes of each adapter's LoRAs.

        Raises:
            OSError, ValueError: An adapter cannot be read.
        """
        from cgclora.convert.sizes import LoRASizes  # noqa: PLC0415 - numpy, see above

        return [LoRASizes(folder, self.tasks, self.precision) for folder in self.adapters]

    def backbone_of(self, folder: Path) -> str:
        """The backbone to use for an adapter: the given one, or the one that it names."""
        if not (name := self.backbone or self.named_backbone(folder)):
            raise ConfigError(f"{folder} does not name its backbone: give --backbone.")
        return name

    def named_backbone(self, folder: Path) -> str:
        """The backbone that an adapter names; empty if it names none."""
        manifest, _ = read_manifest(folder)
        return str(manifest["backbone"].get("name") or "")


@dataclass(frozen=True)
class Format:
    """A format."""

    name: str  # as the command line has it
    about: str  # what it is and for which engines, in a line
    write: Callable[[Export], dict[str, Any]]  # makes the export's folder and returns its manifest
    takes_several: bool = False  # whether one export holds the tasks of several adapters
    takes_one_task: bool = False  # whether one export holds one task
    size: Callable[[Export], int] | None = None  # bytes of its files; None if that is not known


_formats: dict[str, Format] = {}
FORMATS: Mapping[str, Format] = MappingProxyType(_formats)
"""By name."""


def register(format: Format) -> None:  # noqa: A002 - the field's word
    """Add a format to the command line.

    Raises:
        ValueError: There is one of this name.
    """
    if format.name in _formats:
        raise ValueError(f"there is an export format {format.name!r} already: choose another name.")
    _formats[format.name] = format


def export(format: str, order: Export) -> dict[str, Any]:  # noqa: A002 - the field's word
    """Write an export; an older one in the same folder is replaced.

    Returns:
        Its manifest.

    Raises:
        ConfigError: The format takes one adapter and there are several, or a task is unknown.
        AdapterError: A folder is no adapter, or its tasks cannot be written in this format.
        BackboneError: The backbone cannot be read.
    """
    chosen = FORMATS[format]
    if len(order.adapters) > 1 and not chosen.takes_several:
        several = ", ".join(one.name for one in FORMATS.values() if one.takes_several)
        raise ConfigError(f"--format {format} takes one --adapter, {several} takes several.")
    return chosen.write(order)


def size(format: str, order: Export) -> int | None:  # noqa: A002 - the field's word
    """How many bytes an export will have, to a few per cent, without exporting anything.

    None if the format does not say.

    Raises:
        ConfigError, AdapterError, BackboneError, OSError, ValueError: Adapter or backbone cannot be
            read.
    """
    of = FORMATS[format].size
    return None if of is None else of(order)


def _peft(order: Export) -> dict[str, Any]:
    from cgclora.convert.peft_export import export_peft  # noqa: PLC0415 - slow, see above

    (source,) = order.loras()
    return export_peft(source, order.out, order.tasks, base=order.base, dtype=order.dtype)


def _peft_size(order: Export) -> int:
    from cgclora.convert.sizes import peft_bytes  # noqa: PLC0415 - numpy, see above

    (source,) = order.sizes()
    return peft_bytes(source)


def _gguf(order: Export) -> dict[str, Any]:
    from cgclora.convert.gguf import export_gguf  # noqa: PLC0415 - slow, see above

    (source,) = order.loras()
    return export_gguf(source, order.out, order.tasks, dtype=order.dtype)


def _gguf_size(order: Export) -> int:
    from cgclora.convert.sizes import gguf_bytes  # noqa: PLC0415 - numpy, see above

    (source,) = order.sizes()
    return gguf_bytes(source)


def _vllm(order: Export) -> dict[str, Any]:
    from cgclora.convert.vllm import export_vllm  # noqa: PLC0415 - slow, see above

    return export_vllm(order.loras(), order.out, order.tasks, base=order.base, dtype=order.dtype)


def _vllm_size(order: Export) -> int:
    from cgclora.convert.sizes import vllm_bytes  # noqa: PLC0415 - numpy, see above
    from cgclora.models.embedded import EMBEDDED  # noqa: PLC0415 - slow

    is_copied = order.base is None and order.named_backbone(order.adapters[0]) == EMBEDDED
    return vllm_bytes(order.sizes(), _backbone_folder(EMBEDDED) if is_copied else None)


def _merged(order: Export) -> dict[str, Any]:
    from cgclora.adapter import Adapter  # noqa: PLC0415 - slow, see above
    from cgclora.convert.merged import export_merged  # noqa: PLC0415
    from cgclora.models.backbone import load_backbone  # noqa: PLC0415

    (folder,) = order.adapters
    _, config = read_manifest(folder)
    tasks = order.tasks or config.tasks
    if len(tasks) != 1:
        raise ConfigError("--format merged writes a whole model: name one --task.")
    config.task_index(tasks[0])  # before the backbone takes its time
    source = order.backbone_of(folder)
    dtype = order.precision or getattr(_backbone_config(source), "dtype", None) or "auto"
    backbone = load_backbone(source, device="cpu", dtype=dtype)
    adapter = Adapter.load(folder, backbone)
    return export_merged(adapter, tasks[0], order.out, backbone.tokenizer)


def _merged_size(order: Export) -> int:
    from cgclora.convert.sizes import merged_bytes  # noqa: PLC0415 - slow, see above

    (folder,), (source,) = order.adapters, order.sizes()
    backbone = _backbone_folder(order.backbone_of(folder), "tokenizer*", "chat_template.jinja")
    return merged_bytes(source, backbone, order.precision)


def _adapter(order: Export) -> dict[str, Any]:
    from cgclora.convert.native import export_adapter  # noqa: PLC0415 - slow, see above

    (folder,) = order.adapters
    if order.precision:
        raise ConfigError("--format cgclora copies the weights as they are: leave out --precision.")
    return export_adapter(folder, order.out, order.tasks)


def _adapter_size(order: Export) -> int:
    manifest, _ = read_manifest(order.adapters[0])
    return sum(int(file["bytes"]) for file in manifest["files"].values())


def _backbone_config(source: str) -> PretrainedConfig:
    """A backbone's config.json alone, fetched from the hub if it has to be."""
    from cgclora.models.checkpoint import read_config  # noqa: PLC0415 - slow, see above

    return read_config(_backbone_folder(source), source)


def _backbone_folder(source: str, *patterns: str) -> Path:
    """A folder with a backbone's config.json and the files that match, see `_backbone_config`."""
    from cgclora.models.checkpoint import download  # noqa: PLC0415 - slow, see above
    from cgclora.models.embedded import (  # noqa: PLC0415
        EMBEDDED,
        embedded_folder,
        print_progress,
    )

    if source == EMBEDDED:
        return embedded_folder(print_progress)
    folder = Path(source).expanduser()
    return folder if folder.is_dir() else download(source, ["config.json", *patterns])


for _format in (
    Format(
        "peft",
        "a PEFT LoRA folder a task, for transformers, vLLM and others",
        _peft,
        size=_peft_size,
    ),
    Format(
        "merged",
        "the backbone with one task added to its weights, for transformers",
        _merged,
        takes_one_task=True,
        size=_merged_size,
    ),
    Format(
        "gguf",
        "a file <task>.gguf a task, for llama.cpp (--lora) and what uses it",
        _gguf,
        size=_gguf_size,
    ),
    Format(
        "vllm",
        "a folder to serve all tasks from: LoRAs, serve.sh, a client, a table of model names",
        _vllm,
        takes_several=True,
        size=_vllm_size,
    ),
    Format(
        "cgclora",
        "the adapter itself, to be used here by its hub id",
        _adapter,
        size=_adapter_size,
    ),
):
    register(_format)
