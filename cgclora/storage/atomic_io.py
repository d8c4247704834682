"""Files that a crash never leaves half-written: hashes, and atomic writes of files and folders."""

import hashlib
import json
import os
import re
import secrets
import shutil
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

LOG_FILE = "log.jsonl"
"""What the log of a run is called: a JSON value a line."""

_SEAL = "seal"
_SIBLING = re.compile(r"\.(.+)\.(?:new|old)")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")
_SWAP_SECONDS = 60.0  # a swap takes milliseconds; a longer wait is an error


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def size_and_hash(path: Path) -> dict[str, Any]:
    """What a manifest says of a file: `bytes` and `sha256`."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def sha256(content: bytes) -> str:
    """The sha256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def whole_lines(path: str | Path) -> list[str]:
    """The complete lines of a log, without their ends; none where there is no file.

    A line without an end is being written, or a crash cut it short: it is left out. Bytes that are
    no UTF-8, as damage leaves them, become U+FFFD.
    """
    path = Path(path)
    content = path.read_bytes() if path.exists() else b""
    # Cut before decoding, since the rest may end within a character. Unlike `splitlines`, only \n.
    return content[: content.rfind(b"\n") + 1].decode(errors="replace").split("\n")[:-1]


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 through `write_bytes`, and raise what that raises."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file so that `path` holds, at any moment, all of the old or all of the new.

    Raises:
        OSError: the folder is missing, full or not writable; `path` is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # see `_TEMPORARY`
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as readable JSON through `write_text`, keys in the order given.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
        TypeError: a value is of a type that JSON does not know.
    """
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """`value` as readable JSON, as `write_json` writes it; raises what that raises."""
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def write_sealed(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object as `write_json` does, with a hash of itself as `seal`.

    Raises:
        OSError, ValueError, TypeError: As `write_json`.
    """
    write_json(path, {**values, _SEAL: _seal(json.loads(json_text(values)))})


def read_sealed(path: str | Path) -> dict[str, Any]:
    """A JSON object without its seal; one that was written without a seal is taken as it is.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON object, or not the one that was written.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:  # which would show all that it could not decode
        raise ValueError(str(error)) from error
    if not isinstance(values, dict):
        raise ValueError(f"a {type(values).__name__} where an object should be")
    seal = values.pop(_SEAL, None)
    if seal is not None and seal != _seal(values):
        raise ValueError("not what was written; remove its seal after editing it by hand")
    return values


def _seal(values: Mapping[str, Any]) -> str:
    """The hash of values as JSON gives them back, whatever their layout."""
    return sha256(json.dumps(values, sort_keys=True).encode())


def acquire(path: Path, error: Exception) -> AcquireReturnProxy[Any]:
    """Take a lock file without waiting. The lock is a context; a holder that dies lets go of it.

    Raises:
        error: Another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(path).acquire(timeout=0)
    except Timeout as timeout:
        raise error from timeout


def claim(
    path: Path,
    identity: Mapping[str, Any],
    error: type[Exception],
    write: Callable[[Path, Mapping[str, Any]], None] = write_sealed,
) -> None:
    """Note in a file what its folder holds, or check that the folder holds this already.

    `identity` is what the folder is to hold, as JSON values.

    Raises:
        error: The folder holds something else, or the file is damaged.
    """
    if not path.exists():
        write(path, identity)
        return
    try:
        earlier = read_sealed(path)
    except ValueError as damage:
        raise error(
            f"{path} is damaged ({damage}), and nothing else says what this run is: put back a "
            f"copy, choose another folder, or remove {path.parent} to start anew."
        ) from damage
    expected = json.loads(json.dumps(identity))
    if differing := [key for key in expected if earlier.get(key) != expected[key]]:
        raise error(
            f"{path.parent} holds a run that differs in {', '.join(differing)}: repeat its command "
            "and settings to go on, or choose another folder."
        )


@contextmanager
def replace_folder(target: str | Path) -> Iterator[Path]:
    """Fill a fresh folder, then put it in the place of `target` in one swap.

    Yields an empty sibling of `target`. When the block ends, its files are synced to disk and it
    takes the name of `target`; when the block raises, it is removed and `target` stays as it was.
    Writers of the same target, in whatever process, wait for one another. A writer that is killed
    leaves siblings behind that the next `replace_folder` or `recover_folder` sorts out.

    Raises:
        NotADirectoryError: `target` exists and is not a folder.
    """
    target = Path(target).resolve()
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is not a folder: move it away or choose another name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target, timeout=-1):
        _recover(target)
        fresh, backup = _siblings(target)
        fresh.mkdir()
        try:
            yield fresh
            for path in (*fresh.rglob("*"), fresh):
                _sync(path)
            if target.exists():
                target.rename(backup)
            fresh.rename(target)
        except BaseException:
            _recover(target)
            raise
        _sync(target.parent)
        shutil.rmtree(backup, ignore_errors=True)


def zip_folder(folder: str | Path) -> Path:
    """Pack a folder into `<folder>.zip` beside it, uncompressed; returns that file.

    The folder's own name is the only one at the top of the archive. It appears whole or not at all.

    Raises:
        OSError: A file cannot be read, or there is no room.
    """
    folder = Path(folder)
    target = folder.with_name(f"{folder.name}.zip")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")  # see `_TEMPORARY`
    try:
        with zipfile.ZipFile(temporary, "x") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder.parent))
        _sync(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target


@contextmanager
def hold_folder(target: str | Path) -> Iterator[None]:
    """Let the writers of a folder wait while a file in it is changed; see `replace_folder`."""
    target = Path(target).resolve()
    with _lock(target, timeout=-1):
        _recover(target)
        yield


def recover_folder(target: str | Path) -> None:
    """Clean up after a writer of `target` that was killed; call it before reading `target`.

    If it died between the two renames of its swap, the old folder gets its name back. Its other
    leftovers are removed. What a living writer is filling is left alone.

    Raises:
        TimeoutError: `target` is missing because a swap has been under way for a minute.
    """
    target = Path(target).resolve()
    if not any(path.exists() for path in (*_siblings(target), _lock_file(target))):
        return
    _, backup = _siblings(target)
    swapping = backup.exists() and not target.exists()
    try:
        with _lock(target, timeout=_SWAP_SECONDS if swapping else 0):
            _recover(target)
    except Timeout:
        if swapping:
            raise


def recover_folders(parent: str | Path) -> None:
    """Restore the names of folders below `parent` whose writer was killed, before listing them.

    See `recover_folder`. Where nothing can be changed, it changes nothing.
    """
    for leftover in sorted(Path(parent).glob(".*.old")):
        with suppress(OSError):
            recover_folder(leftover.with_name(str(replaced_name(leftover))))


def replaced_name(sibling: Path) -> str | None:
    """The name of the folder that `replace_folder` made this sibling of; None if it is none."""
    match = _SIBLING.fullmatch(sibling.name)
    return match and match[1]


def is_temporary(path: Path) -> bool:
    """Whether `write_bytes` made this file and has not renamed it, maybe since it was killed."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _siblings(target: Path) -> tuple[Path, Path]:
    return target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")


def _lock_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


@contextmanager
def _lock(target: Path, timeout: float) -> Iterator[None]:
    """Hold the writers' lock of `target`. The system releases it when its holder dies."""
    path = _lock_file(target)
    with FileLock(path, timeout=timeout):
        try:
            yield
        finally:
            # Safe while the lock is held: whoever gets the lock of an unlinked file tries again.
            with suppress(PermissionError):  # Windows, where the lock removes its own file
                path.unlink(missing_ok=True)


def _recover(target: Path) -> None:
    fresh, backup = _siblings(target)
    if backup.exists() and not target.exists():
        backup.rename(target)
    for leftover in (fresh, backup):
        if leftover.exists():
            shutil.rmtree(leftover)


def _sync(path: Path) -> None:
    """Make a file's bytes, or the renames inside a folder, last through a power cut."""
    if not hasattr(os, "O_DIRECTORY"):  # a system that cannot sync a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def in_short(error: BaseException) -> str:
    """An error as one short line, to stand in brackets behind our own words."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")


def short_path(path: Path, base: Path) -> str:
    """A path relative to a folder if it lies below, else whole; a relative one starts there."""
    whole = base / path
    return str(whole.relative_to(base) if whole.is_relative_to(base) else whole)
