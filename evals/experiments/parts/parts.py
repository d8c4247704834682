"""A comparison in a few files of limited size, for machines with little room for results.

`write_parts` adds the finished work of a comparison's folder (see `grid`) to a folder of parts (see
`part_files`), in two series:

    part-*.zip            recipe.json, the run folders, then log, settings and time of each finished
                          training, with its adapter's manifest as `ADAPTER_RECORD`
    part-weights-*.zip    the adapters of finished runs, CGC-LoRA's first

Checkpoints, unfinished trainings and runs, and the weights of learning rates that were not chosen
are left out: the record of such an adapter tells its dev loss, and if its weights are needed it is
trained again. `read_parts` restores everything.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from cgclora.config import ConfigError, number
from cgclora.storage import atomic_io
from evals.experiments.comparison_dir import (
    ADAPTER_RECORD,
    DIVERGED_FILE,
    OTHERS,
    RECIPE_FILE,
    check_same,
    claims,
    read_recipe_file,
)
from evals.experiments.parts.part_files import (
    SERIES,
    File,
    Folders,
    Packer,
    Parts,
    archive_of,
    available,
    copy,
    index_of,
    index_size,
    open_parts,
    path_of,
)
from evals.methods import CGC_LORA
from evals.runs.run_dir import MANIFEST_FILE, RunError, find_runs

MB = 10**6

_SMALLEST = 0.02  # MB

Content = Mapping[str, bytes]
"""Contents of a folder's files by name."""


def write_parts(out: str | Path, folder: str | Path, part_size_mb: float = 15) -> list[Path]:
    """Add the finished work of a comparison's folder to its parts.

    The parts can be copied at any moment: each is replaced atomically, and only the last of a
    series is. Full parts must stay in the folder while more are added. A run that is damaged, or
    being replaced, is left to the next call.

    Args:
        out: The comparison's folder.
        folder: Of the parts; it is made if needed.
        part_size_mb: Maximum size of a part in MB (10^6 bytes).

    Returns:
        The changed parts.

    Raises:
        ConfigError: The size is below 0.02 MB, or too small for an index of all files.
        RunError: `out` is not a comparison, or the parts are damaged or belong to another one.
        OSError: A file cannot be read or written.
    """
    out, folder = Path(out), Path(folder)
    number("part_size_mb", part_size_mb, _SMALLEST)
    limit = int(part_size_mb * MB)
    comparison = claims(read_recipe_file(out))
    folder.mkdir(parents=True, exist_ok=True)
    lock = out / ".locks" / "parts"
    lock.parent.mkdir(exist_ok=True)
    with FileLock(lock):
        for leftover in filter(atomic_io.is_temporary, folder.iterdir()):  # of a killed process
            leftover.unlink(missing_ok=True)
        with open_parts(folder) as parts:
            for name, part in parts.items():
                check_same(out, comparison, part.comparison, name)
            archives = _changed_parts(out, parts, comparison, limit)
        for name, content in archives.items():
            atomic_io.write_bytes(folder / name, content)
        return [folder / name for name in archives]


def _changed_parts(
    out: Path, parts: Parts, comparison: Mapping[str, Any], limit: int
) -> dict[str, bytes]:
    """The contents of the parts that change, by name, in the order of writing."""
    there, _ = available(parts)
    runs = _runs(out)

    def is_changed(folder: str, content: Content) -> bool:
        hashes = {name: one.sha256 for name, one in there.get(folder, {}).items()}
        return hashes != {name: atomic_io.sha256(data) for name, data in content.items()}

    new = [
        {folder: content for folder, content in contents if is_changed(folder, content)}
        for contents in (_records(out, runs), _chosen_adapters(out, runs))
    ]
    kept = {name: files for name, files in there.items() if not any(name in one for one in new)}
    indexed = dict(kept)
    for contents in new:
        for folder, content in contents.items():
            indexed[folder] = {
                name: File(len(data), "0" * 64, ()) for name, data in content.items()
            }
    # Every part reserves the maximum size of an index, up to half of the part.
    reserved = index_size(comparison, indexed, limit // 2)
    if reserved > limit // 2:
        raise ConfigError(
            f"parts of {limit / MB:g} MB are too small for this comparison, whose index takes up "
            f"to {reserved / MB:g} MB: give them twice that."
        )
    folders = dict(kept)
    packers = []
    for series, contents in zip(SERIES, new, strict=True):
        if contents:
            packers.append(Packer(series, parts, kept, limit - reserved))
            for folder, content in contents.items():
                folders[folder] = {
                    name: packers[-1].add(path_of(folder, name), data)
                    for name, data in content.items()
                }
    written = 1 + max((part.written for part in parts.values()), default=0)
    index = index_of(written, comparison, folders)
    return {
        name: archive_of(index, pieces)
        for packer in packers
        for name, pieces in packer.pieces.items()
    }


def _records(out: Path, runs: Sequence[tuple[str, Content]]) -> Iterator[tuple[str, Content]]:
    """The folders of the first series, the most important first."""
    yield "", {RECIPE_FILE: (out / RECIPE_FILE).read_bytes()}
    yield from runs
    ends = (f"adapter/{MANIFEST_FILE}", DIVERGED_FILE, ADAPTER_RECORD)
    for rate in sorted((out / "adapters").glob("*/*/seed-*/rate-*")):
        for folder in (rate, *sorted(rate.iterdir())):
            if any((folder / name).is_file() for name in ends):
                yield _training(out, folder)
                if (folder / OTHERS).is_dir():
                    yield _training(out, folder / OTHERS)


def _training(out: Path, folder: Path) -> tuple[str, Content]:
    """The files of a training folder, not of its subfolders; those that mark its end come last."""
    names = [path.name for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    names.sort(key=lambda name: (name in {DIVERGED_FILE, ADAPTER_RECORD}, name))
    content = {name: (folder / name).read_bytes() for name in names}
    manifest = folder / "adapter" / MANIFEST_FILE
    if manifest.is_file():
        content[ADAPTER_RECORD] = manifest.read_bytes()
    return folder.relative_to(out).as_posix(), content


def _runs(out: Path) -> list[tuple[str, Content]]:
    """The finished runs, CGC-LoRA's first, then in the recipe's order of methods and seeds."""
    recipe = read_recipe_file(out)["recipe"]

    def order(run: tuple[str, Content]) -> tuple[Any, ...]:
        manifest = json.loads(run[1][MANIFEST_FILE])
        method, seed = manifest.get("method"), manifest.get("seed")
        places = [
            values.index(value) if value in values else len(values)
            for values, value in ((recipe["methods"], method), (recipe["seeds"], seed or 0))
        ]
        return (method != CGC_LORA, *places, run[0])

    runs = [(folder, _listed(folder)) for folder in find_runs(out / "runs")]
    return sorted(
        ((folder.relative_to(out).as_posix(), content) for folder, content in runs if content),
        key=order,
    )


def _chosen_adapters(
    out: Path, runs: Sequence[tuple[str, Content]]
) -> Iterator[tuple[str, Content]]:
    """The adapters of these runs, in their order."""
    for run, content in runs:
        rate = json.loads(content[MANIFEST_FILE]).get("learning_rate")
        if rate is None:
            continue
        trained = out / "adapters" / Path(run).relative_to("runs") / f"rate-{rate:g}"
        for folder in (trained / "adapter", *sorted(trained.glob("*/adapter"))):
            if adapter := _listed(folder):
                yield folder.relative_to(out).as_posix(), adapter


def _listed(folder: Path) -> Content | None:
    """The manifest and the files that it lists.

    None if they differ from it: the folder is missing, damaged or being replaced.
    """
    try:
        manifest = (folder / MANIFEST_FILE).read_bytes()
        listed = json.loads(manifest)["files"]
        content = {name: (folder / name).read_bytes() for name in listed}
        hashes = {
            name: one if isinstance(one, str) else one["sha256"] for name, one in listed.items()
        }
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    same = all(atomic_io.sha256(data) == hashes[name] for name, data in content.items())
    return {**content, MANIFEST_FILE: manifest} if same else None


@dataclass(frozen=True)
class Restored:
    """The result of `read_parts`."""

    written: tuple[str, ...]  # restored folders, see `part_files.Folders`
    there: tuple[str, ...]  # folders that existed already
    # Incomplete files, whose folders were not restored, with the parts that hold missing pieces.
    # Files that only the index of a missing part has are not listed.
    missing: Mapping[str, tuple[str, ...]]


def read_parts(folder: str | Path, out: str | Path) -> Restored:
    """Restore the folders of some parts, each as a whole, beside existing ones.

    All files are checked before the first is restored. If a part is missing, the folders that are
    complete without it are restored. An existing run that was only scored since is kept. A call
    that was killed can be repeated.

    Args:
        folder: Of the parts.
        out: The comparison's folder; it is made if needed.

    Raises:
        RunError: There is no part, a part is damaged, or `out` holds another comparison or a file
            that differs from the parts. Nothing was changed.
        OSError: The disk is full or not writable; some folders may be restored.
    """
    folder, out = Path(folder), Path(out)
    with open_parts(folder) as parts:
        if not parts:
            raise RunError(f"{folder} holds no part of a comparison: {SERIES[0]}*.zip is missing.")
        if (out / RECIPE_FILE).exists():
            recipe = read_recipe_file(out)
            for name, part in parts.items():
                check_same(out, recipe, part.comparison, name)
        folders, missing = available(parts)
        _check(parts, folders)
        new = [name for name in sorted(folders) if not _is_there(parts, out, name, folders[name])]
        _check_room(out, sum(one.bytes for name in new for one in folders[name].values()))
        for name in new:
            _restore(parts, out / name, name, folders[name])
        there = tuple(sorted(folders.keys() - set(new)))
        return Restored(tuple(new), there, missing)


def _check(parts: Parts, folders: Folders) -> None:
    """Raise RunError if a file is damaged, or if the recipe is not that of the parts."""
    for folder, entries in folders.items():
        for name, file in entries.items():
            copy(parts, path_of(folder, name), file)
    if "" in folders:
        recipe = _content(parts, RECIPE_FILE, folders[""][RECIPE_FILE])
        first, part = next(iter(parts.items()))
        same = False
        with suppress(ValueError, KeyError, TypeError):
            same = claims(json.loads(recipe)) == part.comparison
        if not same:
            raise RunError(
                f"{first} is of another comparison than its {RECIPE_FILE}: fetch it again."
            )


def _is_there(parts: Parts, out: Path, folder: str, entries: Mapping[str, File]) -> bool:
    """Whether the files of a folder exist already.

    Raises:
        RunError: An existing file differs, or a folder that is restored as a whole is incomplete.
    """
    if not folder:
        return (out / RECIPE_FILE).exists()  # it may differ in methods, seeds and commit
    there = {
        name: atomic_io.sha256_file(out / folder / name)
        for name in entries
        if (out / folder / name).is_file()
    }
    if differing := [name for name, sha256 in there.items() if sha256 != entries[name].sha256]:
        if _was_scored(parts, out, folder, entries):
            return True
        raise RunError(
            f"{out / folder / differing[0]} differs from the one in the parts: move its folder "
            "away, or choose another one to put them back into."
        )
    if len(there) == len(entries):
        return True
    if _is_whole(folder) and (out / folder).is_dir() and any((out / folder).iterdir()):
        raise RunError(
            f"{out / folder} is there, but not all of its files: move it away and give the "
            "command again."
        )
    return False


def _was_scored(parts: Parts, out: Path, folder: str, entries: Mapping[str, File]) -> bool:
    """Whether an existing run differs from the one in the parts in its scores only."""
    if not folder.startswith("runs/") or MANIFEST_FILE not in entries:
        return False
    written = _content(parts, path_of(folder, MANIFEST_FILE), entries[MANIFEST_FILE])
    try:
        both = json.loads(written), json.loads((out / folder / MANIFEST_FILE).read_bytes())
        one, other = (
            {name: value for name, value in manifest.items() if name not in {"files", "seal"}}
            for manifest in both
        )
    except (OSError, ValueError, AttributeError):
        return False
    return one == other


def _is_whole(folder: str) -> bool:
    """Whether a folder is restored in one step; the files of others are independent."""
    return folder.startswith("runs/") or folder.endswith("/adapter")


def _check_room(out: Path, needed: int) -> None:
    existing = next(one for one in (out.resolve(), *out.resolve().parents) if one.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OSError(
            f"the parts hold {needed / MB:.0f} MB, {free / MB:.0f} MB are free at {out}: free "
            "some, or choose a folder on another disk."
        )


def _restore(parts: Parts, target: Path, folder: str, entries: Mapping[str, File]) -> None:
    if _is_whole(folder):
        with atomic_io.replace_folder(target) as new:
            for name, file in entries.items():
                with (new / name).open("xb") as stream:
                    copy(parts, path_of(folder, name), file, stream)
        return
    target.mkdir(parents=True, exist_ok=True)
    for name, file in entries.items():
        if not (target / name).exists():
            atomic_io.write_bytes(target / name, _content(parts, path_of(folder, name), file))


def _content(parts: Parts, path: str, file: File) -> bytes:
    stream = io.BytesIO()
    copy(parts, path, file, stream)
    return stream.getvalue()
