"""Where a backbone comes from: the embedded default, a local folder or a hub id."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from cgclora.models.checkpoint import (
    BackboneError,
    check_memory,
    download,
    fingerprint,
    load_model,
    load_tokenizer,
    quiet,
    read_config,
)
from cgclora.models.embedded import (
    EMBEDDED,
    Progress,
    embedded_folder,
    embedded_tokenizer,
    print_progress,
    read_manifest,
)
from cgclora.models.families import is_known
from cgclora.models.hardware import choose_device, choose_dtype
from cgclora.models.quantized import has_kernel
from cgclora.models.vocabulary import end_ids, pad_id

__all__ = ["EMBEDDED", "Backbone", "BackboneError", "fingerprint", "load_backbone"]


@dataclass(frozen=True)
class Backbone:
    """A frozen language model with its tokenizer."""

    model: PreTrainedModel  # in eval mode, no parameter requires a gradient
    tokenizer: PreTrainedTokenizerBase  # its tokenizer; a pad token is always set
    name: str  # the source that it was loaded from
    fingerprint: str  # what adapters know it by, see `fingerprint`
    int8: bool = False  # whether decoding reads 8-bit weights where few tokens pass at once
    # Held during each forward pass of decoding, since all layers look up one route.
    lock: AbstractContextManager[Any] = field(default_factory=RLock, repr=False, compare=False)
    # What others keep for it, by their class, such as `cgclora.inference.runtime.Runtime`.
    state: dict[type, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def pad_id(self) -> int:
        """The token id that fills up the rows of a batch."""
        return pad_id(self.model, self.tokenizer)

    @property
    def ends(self) -> frozenset[int]:
        """Ids of the tokens that end an answer, see `end_ids`."""
        return end_ids(self.model.generation_config, self.tokenizer)


def public_name(source: str) -> str:
    """A backbone's source without the folders that lead to it, which are private."""
    return Path(source).name if Path(source).exists() else source


def load_backbone(
    source: str | Path = EMBEDDED,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    four_bit: bool = False,
    int8: bool = False,
    progress: Progress | None = None,
) -> Backbone:
    """Load a frozen causal language model. No code from the source is ever run, no pickle read.

    Args:
        source: `EMBEDDED`, a local folder in the format of `save_pretrained`, or a hub id.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; `auto` takes the first there is of CUDA, MPS, CPU.
        dtype: Such as `bfloat16`; `auto` takes bfloat16 where the hardware computes in it, else
            float32.
        four_bit: Quantise the linear layers to NF4 (arXiv 2305.14314), to train or decode with
            less memory; tasks cannot be folded into them. Needs bitsandbytes, CUDA or a CPU, and
            room for the unquantised model in main memory, for its fingerprint.
        int8: Decode with 8-bit copies of the weights where few tokens pass at once, which is faster
            and takes half as much memory again. On CPUs, for the families that `fast_decoder`
            knows; elsewhere it changes nothing, and `Backbone.int8` says so.
        progress: Called with a stage's name and the fraction done, in [0, 1]. By default only the
            one-time conversion of the embedded backbone is reported, on stderr.

    Raises:
        BackboneError: The id is unknown, there is no network, files are damaged or missing, it is
            no causal language model, memory, device or bitsandbytes is lacking.
    """
    try:
        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(dtype, chosen_device)
    except ValueError as error:
        raise BackboneError(str(error)) from error
    placement = (chosen_device, chosen_dtype, four_bit)
    name = str(source)
    report = progress or (lambda stage, fraction: None)
    with quiet():
        if name == EMBEDDED:
            backbone = _load_embedded(*placement, report, progress or print_progress)
        else:
            backbone = _load_other(name, *placement, report)
    if int8 and is_known(backbone.model) and chosen_device.type == "cpu" and has_kernel():
        backbone = replace(backbone, int8=True)
    report(f"{name} is ready", 1.0)
    return backbone


def load_tokenizer_of(source: str) -> tuple[PreTrainedTokenizerBase, frozenset[int]]:
    """A backbone's tokenizer without its weights, and the ids that may end an answer.

    Raises:
        BackboneError: As `load_backbone`.
    """
    with quiet():
        if source == EMBEDDED:
            folder = embedded_folder(print_progress)
            tokenizer = embedded_tokenizer(folder)
        else:
            folder = Path(source).expanduser()
            if not folder.is_dir():
                folder = download(source, ["*.json", "*.model", "*.txt", "*.jinja"])
            tokenizer = load_tokenizer(folder, source)
        try:
            settings = GenerationConfig.from_pretrained(folder)
        except OSError:  # many have none
            settings = None
    return tokenizer, end_ids(settings, tokenizer)


def _load_other(
    name: str, device: torch.device, dtype: torch.dtype, four_bit: bool, report: Progress
) -> Backbone:
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local:
        folder = download(name, ["config.json"])
    check_memory(read_config(folder, name), name, device, dtype, four_bit)
    if not local:
        report(f"downloading {name}", 0.0)
        folder = download(name, ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"])
    report(f"loading {name}", 0.7)
    tokenizer = load_tokenizer(folder, name)
    model, mark = load_model(folder, name, device, dtype, four_bit)
    return Backbone(model, tokenizer, name, mark)


def _load_embedded(
    device: torch.device,
    dtype: torch.dtype,
    four_bit: bool,
    report: Progress,
    report_conversion: Progress,
) -> Backbone:
    for rebuild in (False, True):
        folder = embedded_folder(report_conversion, rebuild=rebuild)
        report(f"loading {EMBEDDED}", 0.9)
        check_memory(read_config(folder, EMBEDDED), EMBEDDED, device, dtype, four_bit)
        with ThreadPoolExecutor(1) as reader:  # a second, in which another thread can go on
            tokenizer = reader.submit(embedded_tokenizer, folder)
            model, mark = load_model(folder, EMBEDDED, device, dtype, four_bit)
        if mark == read_manifest(folder)["fingerprint"]:
            return Backbone(model, tokenizer.result(), EMBEDDED, mark)
    raise BackboneError(
        f"{folder} does not give back what was written to it: check the disk, or set CGCLORA_CACHE "
        "to a folder on another one."
    )
