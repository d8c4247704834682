"""An adapter as a folder: config, weights, and a manifest of where they come from.

A task router's file may lie beside them. JSON and safetensors only, never pickle. The manifest
holds the hashes of the others and of itself, so that a damaged folder is noticed before anything of
it is used. Nothing here imports torch before tensors are read or written.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from cgclora.config import AdapterConfig
from cgclora.storage import atomic_io
from cgclora.storage.layer_shapes import WEIGHTS_FILE

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.json"
MANIFEST_FILE = "manifest.json"
ROUTER_FILE = "router.safetensors"
"""The one file that a folder may lack; the manifest lists it where it is there."""

MANIFEST_FORMAT = 1

_SNAPSHOT = re.compile(r"models--(?P<repo>.+)/snapshots/(?P<revision>[0-9a-f]{40})")
"""The end of a path in the hub's cache."""


class AdapterError(RuntimeError):
    """An adapter that does not fit its backbone, its files or its use; the message says why."""


def write(
    folder: str | Path,
    config: AdapterConfig,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    files: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """Write config, weights and manifest as a folder that appears whole or not at all.

    `facts` are the manifest but for its format and the files' hashes; `files` further ones by name:
    `ROUTER_FILE` or none. An older adapter is replaced. Returns the manifest.

    Raises:
        AdapterError: The folder is there and holds something else.
    """
    folder = Path(folder)
    ours = {CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE, ROUTER_FILE}
    present = folder.iterdir() if folder.is_dir() else ()
    if not {path.name for path in present if not atomic_io.is_temporary(path)} <= ours:
        raise AdapterError(f"{folder} holds something other than an adapter: choose another.")
    with atomic_io.replace_folder(folder) as new:
        atomic_io.write_json(new / CONFIG_FILE, config.to_dict())
        write_tensors(new / WEIGHTS_FILE, tensors)
        for name, content in (files or {}).items():
            (new / name).write_bytes(content)
        names = (CONFIG_FILE, WEIGHTS_FILE, *(files or ()))
        hashes = {name: atomic_io.size_and_hash(new / name) for name in names}
        manifest = {"format": MANIFEST_FORMAT, **facts, "files": hashes}
        atomic_io.write_sealed(new / MANIFEST_FILE, manifest)
    return manifest


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name as a safetensors file.

    Raises:
        OSError: The disk is full, or the file cannot be written for another reason.
    """
    from safetensors.torch import save_file  # noqa: PLC0415 - imports torch

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        raise OSError(
            f"cannot write {path}, free room there or choose another folder: {error}"
        ) from error


def read_manifest(folder: str | Path) -> tuple[dict[str, Any], AdapterConfig]:
    """The manifest and config of a saved adapter, after checking its files' hashes.

    That of an adapter from the hub says so under `hub`, see `hub_origin`.

    Raises:
        AdapterError: The folder is not an adapter, is damaged, or has a newer format.
    """
    folder = Path(folder)
    atomic_io.recover_folder(folder)
    if not (folder / MANIFEST_FILE).is_file():
        raise AdapterError(f"{folder} holds no adapter: {MANIFEST_FILE} is missing.")
    try:
        manifest = atomic_io.read_sealed(folder / MANIFEST_FILE)
        written = manifest["format"]
        if not isinstance(written, int) or written > MANIFEST_FORMAT:
            raise AdapterError(
                f"{folder} has format {written!r}, this version reads up to {MANIFEST_FORMAT}: "
                "update cgclora."
            )
        manifest["backbone"]["fingerprint"][:12]
        optional = [ROUTER_FILE] if ROUTER_FILE in manifest["files"] else []
        names = [CONFIG_FILE, WEIGHTS_FILE, *optional]
        hashes = {name: manifest["files"][name]["sha256"] for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(
            f"{folder / MANIFEST_FILE} is damaged ({error!r}): fetch the folder again."
        ) from error
    for name, sha256 in hashes.items():
        if not (folder / name).is_file() or atomic_io.sha256_file(folder / name) != sha256:
            raise AdapterError(f"{folder / name} is damaged or missing: fetch the folder again.")
    try:
        config = AdapterConfig.from_dict(
            json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        )
    except ValueError as error:
        raise AdapterError(f"{folder / CONFIG_FILE}: {error}") from error
    origin = hub_origin(folder)
    return manifest if origin is None else {**manifest, "hub": origin}, config


def hub_origin(folder: str | Path) -> dict[str, str] | None:
    """`repo` and `revision`, a commit, of a folder in the hub's cache; None for any other."""
    match = _SNAPSHOT.fullmatch("/".join(Path(folder).resolve().parts[-3:]))
    if match is None:
        return None
    return {"repo": match["repo"].replace("--", "/"), "revision": match["revision"]}


def _check_local(folder: str | Path) -> None:
    if (origin := hub_origin(folder)) is not None:
        raise AdapterError(
            f"{origin['repo']} is an adapter of the hub, here only cached: copy {folder} "
            "to a folder of your own, and change that one."
        )


def annotate(folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Add facts to a saved adapter's manifest, for instance scores taken after training.

    Raises:
        AdapterError: As `read_manifest`; or the adapter is of the hub, or a fact would replace one
            that `save` wrote.
    """
    _check_local(folder)
    if fixed := sorted(facts.keys() & {"format", "backbone", "tasks", "files"}):
        raise AdapterError(f"{fixed} of a manifest cannot be replaced: choose other names.")
    read_manifest(folder)
    with atomic_io.hold_folder(folder):
        manifest, _ = read_manifest(folder)  # other writers wait from here on
        atomic_io.write_sealed(Path(folder) / MANIFEST_FILE, {**manifest, **facts})


def replace_router(folder: str | Path, router: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the router of a saved adapter; its facts are `router` in the manifest returned.

    Raises:
        AdapterError: As `read_manifest`; or the adapter is of the hub.
    """
    folder = Path(folder)
    _check_local(folder)
    read_manifest(folder)
    with atomic_io.replace_folder(folder) as new:
        manifest, _ = read_manifest(folder)  # other writers wait from here on
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copy2(folder / name, new / name)
        (new / ROUTER_FILE).write_bytes(router)
        hashes = {**manifest["files"], ROUTER_FILE: atomic_io.size_and_hash(new / ROUTER_FILE)}
        manifest = {**manifest, "files": hashes, "router": dict(facts)}
        atomic_io.write_sealed(new / MANIFEST_FILE, manifest)
    return manifest


def read_files(folder: str | Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """The further files of a saved adapter by name, as `write` took them."""
    names = manifest["files"].keys() & {ROUTER_FILE}
    return {name: (Path(folder) / name).read_bytes() for name in names}


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """The weights of a saved adapter by name, on the CPU.

    Raises:
        AdapterError: The file is damaged.
    """
    from safetensors.torch import load_file  # noqa: PLC0415 - as above

    path = Path(folder) / WEIGHTS_FILE
    try:
        return load_file(path)
    except SafetensorError as error:
        raise AdapterError(f"{path} is damaged: {error}.") from error
