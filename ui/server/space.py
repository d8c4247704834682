"""The folder that is pushed to a Hugging Face Space: `python -m ui.server.space OUT`.

All tracked files except tests and CI. The repository itself is a working Space if the hub's client
uploads it; in OUT binary files are also marked for large file storage, which `git push` needs.

Problems that a Space would have are reported before it is pushed: its configuration in the README,
the Pythons and torch versions that ZeroGPU supports, and sizes.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from shutil import copy2
from typing import Any

from huggingface_hub import SpaceHardware, metadata_load
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version
from yaml import YAMLError

from cgclora.cli.exit_codes import run
from cgclora.storage.atomic_io import replace_folder

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".ci/", "tests/")
"""Prefixes of paths that a Space does not need."""

MAX_BYTES = 10**9
"""Size of a Space's repository."""

LARGE_BYTES = 10 * 2**20
"""Size of a file beyond which it must be in large file storage."""

_STORED = "filter=lfs diff=lfs merge=lfs -text"
_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
_TEXTS = ("title", "emoji", "sdk_version", "python_version", "app_file", "license")
_LISTS = ("models", "tags")
_GRADIENT = ("colorFrom", "colorTo")
_TEXT = "a text (in quotes)"
_MAX_CHARACTERS = 60  # of the short description
_ZERO_PYTHONS = ("3.10.13", "3.12.12")
_ZERO_TORCH = (Version("2.8"), Version("2.12"))  # from the first, below the second


class SpaceError(RuntimeError):
    """A folder that a Space cannot run; the message says what to change."""


def prepare(out: Path, root: Path = ROOT) -> list[str]:
    """Fill a folder with what is pushed, and check it.

    Args:
        out: The folder; it must not exist, or be empty.
        root: The repository.

    Returns:
        Names of its files, sorted.

    Raises:
        SpaceError: The folder is not empty, git fails, or a Space cannot run the files; then
            nothing is written.
        OSError: A tracked file is missing, or the folder cannot be written to.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpaceError(f"{out} holds something: name a new folder, or empty this one.")
    names = [name for name in _tracked(root) if not name.startswith(LEFT_OUT)]
    with replace_folder(out) as fresh:
        for name in names:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            copy2(root / name, fresh / name)
        _mark_binary_files(fresh / ".gitattributes")
        if found := problems(fresh):
            raise SpaceError("a Space cannot run this:\n  " + "\n  ".join(found))
    return names


def problems(folder: Path) -> list[str]:
    """Problems of a folder that is about to be pushed, a sentence each."""
    try:
        space = metadata_load(folder / "README.md") or {}
        lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
        pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    except (OSError, ValueError, InvalidRequirement, YAMLError) as error:
        return [f"README.md or requirements.txt cannot be read: {error}."]
    return [*_in_configuration(space, folder), *_in_pins(space, pins), *_in_files(folder)]


def _tracked(root: Path) -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "-z"]
    try:
        found = subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.CalledProcessError) as error:
        raise SpaceError(f"git does not list the files of {root}: run this in a clone.") from error
    return sorted(filter(None, found.stdout.decode().split("\0")))


def _mark_binary_files(attributes: Path) -> None:
    """Put files that git treats as binary into large file storage."""
    lines = attributes.read_text(encoding="utf-8").splitlines()
    marked = [line.replace(" binary", f" {_STORED}") for line in lines]
    attributes.write_text("\n".join(marked) + "\n", encoding="utf-8", newline="\n")


def _in_configuration(space: dict[str, Any], folder: Path) -> Iterator[str]:
    """Problems in the README's front matter, see the hub's configuration reference."""
    hardware = [one.value for one in SpaceHardware]
    expected: list[tuple[str, Callable[[Any], object], str]] = [
        *((name, lambda value: isinstance(value, str) and value, _TEXT) for name in _TEXTS),
        *((name, lambda value: isinstance(value, list) and value, "a list") for name in _LISTS),
        ("emoji", lambda value: not str(value or "").isascii(), "an emoji"),
        *((name, lambda value: value in _COLOURS, _one_of(_COLOURS)) for name in _GRADIENT),
        ("sdk", lambda value: value == "gradio", "gradio"),
        ("app_file", lambda value: (folder / str(value)).is_file(), "a file of the repository"),
        (
            "short_description",
            lambda value: 0 < len(str(value or "")) <= _MAX_CHARACTERS,
            f"a text of 1 to {_MAX_CHARACTERS} characters",
        ),
        ("suggested_hardware", lambda value: value in hardware, _one_of(hardware)),
        ("python_version", lambda value: value in _ZERO_PYTHONS, _one_of(_ZERO_PYTHONS)),
    ]
    for name, is_valid, wanted in expected:
        if not is_valid(space.get(name)):
            yield f"README.md: {name} is {space.get(name)!r}, expected {wanted}."


def _one_of(choices: Sequence[str]) -> str:
    return f"one of {', '.join(choices)}"


def _in_pins(space: dict[str, Any], pins: Sequence[Requirement]) -> Iterator[str]:
    """Problems in requirements.txt for the Python of the Space."""
    python = ".".join(str(space.get("python_version")).split(".")[:2])
    here = {"python_version": python}
    found: dict[str, list[str]] = {}
    for pin in pins:
        version = str(pin.specifier).removeprefix("==")
        if not version.replace(".", "").isdigit():
            yield f"requirements.txt: {pin} is not pinned: write =={{version}}."
        elif pin.marker is None or pin.marker.evaluate(here):
            found.setdefault(pin.name, []).append(version)
    if found.get("gradio") != [space.get("sdk_version")]:
        yield (
            f"README.md: sdk_version is {space.get('sdk_version')}, requirements.txt pins gradio "
            f"{', '.join(found.get('gradio', []))}: let both say the same."
        )
    first, beyond = _ZERO_TORCH
    torch = found.get("torch", [])
    if len(torch) != 1 or not first <= Version(torch[0]) < beyond:
        yield (
            f"requirements.txt: Python {python} gets torch {' and '.join(torch) or 'of any kind'}, "
            f"ZeroGPU supports {first} to 2.11: pin one of them for this Python."
        )


def _in_files(folder: Path) -> Iterator[str]:
    """Files that are too large, or binary outside large file storage."""
    lines = (folder / ".gitattributes").read_text(encoding="utf-8").splitlines()
    stored = [line.split()[0] for line in lines if _STORED in line]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if (total := sum(path.stat().st_size for path in files)) > MAX_BYTES:
        yield f"all files together have {total / 1e6:.0f} MB, the hub takes {MAX_BYTES / 1e6:.0f}."
    for path in files:
        if any(fnmatch(path.name, pattern) for pattern in stored):
            continue
        name = path.relative_to(folder).as_posix()
        if (size := path.stat().st_size) > LARGE_BYTES:
            reason = f"has {size / 2**20:.0f} MiB"
        elif b"\0" in path.read_bytes():
            reason = "is binary"
        else:
            continue
        yield f"{name} {reason}: add a line `*{path.suffix} binary` to .gitattributes."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ui.server.space",
        description="Fill a folder with what is pushed to a Space.",
    )
    parser.add_argument("out", type=Path, help="a new or empty folder")
    out: Path = parser.parse_args(arguments).out

    def command() -> None:
        names = prepare(out)
        size = sum((out / name).stat().st_size for name in names)
        print(f"{out}: {len(names)} files, {size / 1e6:.0f} MB. To make a Space of it:")
        print(f"  hf upload <you>/cgclora {out} . --repo-type space --delete '*'")

    return run(command, {SpaceError: 1})


if __name__ == "__main__":
    sys.exit(main())
