"""A model's files, in a folder or on the hub: fetched, checked, loaded, known by a fingerprint."""

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.utils import logging
from transformers.utils.quantization_config import Mxfp4Config

from cgclora.models.hardware import free_memory
from cgclora.storage.atomic_io import in_short
from cgclora.storage.hub import hub_errors

_SAMPLE = 256
_SMALLEST = 2.0**-14  # the smallest normal number of float16
_ROOM = 1.1  # what loading takes beside the parameters
_MXFP4 = "mxfp4"
"""The packing of gpt-oss, which only routed experts are in: it is undone while they are loaded."""

_OF_ADAPTERS = ("expert_A.", "expert_B.", "task_gates.")  # what adapters add to a model's tree

_SET_ASIDE = ".frozen_weight"  # where a layer keeps its weight while a task is folded in


class BackboneError(RuntimeError):
    """A backbone cannot be loaded; the message says why and what to do."""


def fingerprint(model: nn.Module) -> str:
    """A model's identity: the sha256 of its parameters' names, shapes and sampled values.

    Equal whatever dtype and device the model was loaded in, and with or without adapters, as long
    as the file holds bfloat16 or something coarser. Of every parameter at most 256 values, evenly
    strided, are rounded to bfloat16; what float16 cannot hold as a normal number counts as zero.
    A model in 4-bit keeps the fingerprint of the unquantised one, a sharded one that of the whole.

    Raises:
        BackboneError: The weights are packed integers, and `load_model` did not pack them.
    """
    if kept := getattr(getattr(model, "config", None), "unquantised_fingerprint", None):
        return str(kept)
    parameters = {
        name.replace(".base_layer.", "."): parameter.detach()
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not any(part in name for part in _OF_ADAPTERS)
    }
    for name in [name for name in parameters if name.endswith(_SET_ASIDE)]:
        parameters[name.removesuffix(_SET_ASIDE) + ".weight"] = parameters.pop(name)
    digest = hashlib.sha256()
    for name in sorted(parameters):
        parameter = parameters[name]
        if not parameter.is_floating_point():
            raise BackboneError(
                f"{name} is quantised, which leaves nothing to know the model by: load the "
                "unquantised model through load_backbone, with four_bit=True where memory is short."
            )
        stride = max(1, -(-parameter.numel() // _SAMPLE))
        sample = parameter.reshape(-1)[::stride].to("cpu", torch.bfloat16)
        sample = sample.masked_fill(sample.abs() < _SMALLEST, 0.0)
        digest.update(f"{name} {list(parameter.shape)}\n".encode())
        digest.update(sample.view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()


def download(name: str, patterns: list[str]) -> Path:
    """Fetch the files of a hub model that match; returns their folder in the hub's own cache.

    Raises:
        BackboneError: The hub does not know or give the model, or cannot be reached.
    """
    with hub_errors(name, BackboneError):
        ignored = ["*/*", "consolidated*"]  # other formats of the same weights
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=ignored))


def auto_class(config: PretrainedConfig) -> Any:
    """The class of transformers that loads a causal language model of this config, None if none.

    Where a multimodal family has no text model of its own, that is the class of the whole.
    """
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForCausalLM
    multimodal = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return AutoModelForImageTextToText if multimodal and not config.is_encoder_decoder else None


def read_config(folder: Path, name: str) -> PretrainedConfig:
    """Read a model's config.json.

    Raises:
        BackboneError: It is missing or damaged, or the model is unknown to transformers, no causal
            language model, or already quantised.
    """
    if not (folder / "config.json").is_file():
        raise BackboneError(
            f"{name} has no config.json: choose a folder that holds a model as save_pretrained "
            "writes it (config.json, *.safetensors, tokenizer)."
        )
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise BackboneError(
            f"{name} is damaged, or of a kind that this version of transformers does not know; "
            "code that comes with a model is never run. Choose another model. "
            f"({in_short(error)})"
        ) from error
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    # Beside others a multimodal checkpoint holds the text model; loading tells what it lacks of it.
    multimodal = config.get_text_config() is not config and not config.is_encoder_decoder
    if auto_class(config) is None or (
        config.architectures and causal.isdisjoint(config.architectures) and not multimodal
    ):
        kind = ", ".join(config.architectures or [config.model_type])
        raise BackboneError(
            f"{name} is not a causal language model but {kind}: choose one whose config.json "
            "names an architecture that ends in ForCausalLM."
        )
    if _packing(config) not in (None, _MXFP4):
        raise BackboneError(
            f"{name} is already quantised: load the unquantised original, with four_bit=True where "
            "memory is short."
        )
    return config


def _packing(config: PretrainedConfig) -> str | None:
    """How the weights of a checkpoint are quantised; None if they are not."""
    packing = getattr(config, "quantization_config", None)
    if packing is None or isinstance(packing, dict):
        return None if packing is None else packing.get("quant_method", "")
    return str(packing.quant_method)


def check_memory(
    config: PretrainedConfig, name: str, device: torch.device, dtype: torch.dtype, four_bit: bool
) -> None:
    """Refuse what would not fit, before anything large is downloaded or read.

    Raises:
        BackboneError: Parameters and a tenth more exceed the free memory, or the config makes no
            model.
    """
    try:
        with torch.device("meta"):
            skeleton = auto_class(config).from_config(config, trust_remote_code=False)
    except Exception as error:
        raise BackboneError(
            f"The config.json of {name} is damaged: fetch or copy it again. ({in_short(error)})"
        ) from error
    values = sum(parameter.numel() for parameter in skeleton.parameters())
    needed = {device: values * dtype.itemsize * _ROOM}
    if four_bit:
        head = skeleton.get_output_embeddings()
        packed = sum(
            module.weight.numel()
            for module in skeleton.modules()
            if isinstance(module, nn.Linear) and module is not head
        )
        needed[device] -= packed * (dtype.itemsize - 0.53) * _ROOM  # 4 bits, a share of scales
        needed[torch.device("cpu")] = values * skeleton.dtype.itemsize * _ROOM  # for a moment
    for place, size in needed.items():
        free = free_memory(place)
        if free is not None and size > free:
            raise BackboneError(
                f"{name} has {values / 1e6:,.0f} million parameters and needs {size / 2**30:.2f} "
                f"GiB on {place} in {str(dtype).removeprefix('torch.')}, {free / 2**30:.2f} GiB "
                "are free: close other programs, choose a smaller backbone or a shorter dtype, or "
                "four_bit on CUDA."
            )


def load_model(
    folder: Path, name: str, device: torch.device, dtype: torch.dtype, four_bit: bool
) -> tuple[PreTrainedModel, str]:
    """Load a frozen model in eval mode, and its fingerprint.

    Raises:
        BackboneError: Files are damaged or missing, memory or what 4-bit needs is lacking.
    """
    options: dict[str, Any] = {"dtype": dtype}
    if device.type != "cpu" or four_bit:
        options["device_map"] = {"": device}
    if not four_bit:
        model = _from_pretrained(folder, name, **options)
        return model, fingerprint(model)
    if device.type not in {"cuda", "cpu"}:
        raise BackboneError(f"4-bit needs CUDA or a CPU, this is {device}: load without four_bit.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BackboneError("4-bit needs bitsandbytes: run `pip install bitsandbytes`.")
    unquantised = fingerprint(_from_pretrained(folder, name, dtype="auto"))
    options["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = _from_pretrained(folder, name, **options)
    model.config.unquantised_fingerprint = unquantised
    return model, unquantised


def is_four_bit(model: PreTrainedModel) -> bool:
    """Whether `load_model` has quantised it."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def _from_pretrained(folder: Path, name: str, **options: Any) -> PreTrainedModel:
    config = read_config(folder, name)
    if packed := _packing(config) == _MXFP4:
        if "quantization_config" in options:
            raise BackboneError(
                f"{name} holds its experts in MXFP4, which bitsandbytes does not make smaller: "
                "load it without four_bit."
            )
        options["quantization_config"] = Mxfp4Config(dequantize=True)
    cls = auto_class(config)
    try:
        loaded: Any = cls.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except SafetensorError as error:
        raise BackboneError(
            f"The weights of {name} are damaged: fetch or copy them again. ({in_short(error)})"
        ) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise BackboneError(
            f"{name} does not fit into memory: close other programs or choose a smaller backbone."
        ) from error
    except Exception as error:
        raise BackboneError(
            f"{name} cannot be loaded: its folder must hold all files of one causal language "
            f"model, weights as *.safetensors. ({in_short(error)})"
        ) from error
    model: PreTrainedModel = loaded[0]
    if missing := sorted(loaded[1]["missing_keys"]):
        raise BackboneError(
            f"{name} lacks {len(missing)} of its weights, such as {missing[0]}: fetch or copy the "
            "whole model again."
        )
    if packed:  # else saving would name the values as if they were packed again
        loaded[0]._weight_conversions = None
        model.to(options["dtype"])  # some versions leave what they unpack in bfloat16
    model.eval().requires_grad_(False)
    return model


def load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer; without a pad token of its own it pads with its end token.

    Raises:
        BackboneError: It is missing or damaged, or has neither a pad nor an end token.
    """
    complaint = f"{name} has no usable tokenizer: add its tokenizer.json to the folder."
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise BackboneError(f"{complaint} ({in_short(error)})") from error
    if not tokenizer.encode("a", add_special_tokens=False):  # made up, with an empty vocabulary
        raise BackboneError(complaint)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise BackboneError(
                f"The tokenizer of {name} has neither a pad nor an end token: set one of them in "
                "its tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the library says while it loads. Its errors are exceptions and come through."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context a model is in eval mode: dropout would make two passes differ."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
