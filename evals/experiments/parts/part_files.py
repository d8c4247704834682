"""The format of part files: zip files of limited size that hold the folders of a comparison.

    part-001.zip, part-002.zip, ...    first series
    part-weights-001.zip, ...          second series, see `SERIES`

An entry is a file, or a piece of a file that spans several parts of its series; all pieces have the
file's path. The entry `index.json` describes all parts at the time this one was written:

    format        version of this layout
    written       number of the writing call; the index with the highest number is the newest
    comparison    hash, backbone and data of the comparison's recipe.json
    folders       by path below the comparison's folder, the files by name: bytes, sha256, and the
                  parts with its pieces, in order

Only the last part of a series is ever rewritten. A changed file is added again in a later part and
its old pieces stay, so a folder is available as in the newest index whose pieces are all there.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cgclora.storage import atomic_io
from evals.runs.run_dir import RunError

FORMAT = 1
INDEX = "index.json"
SERIES = ("part-", "part-weights-")
"""Prefixes of the parts' names, the more important series first; they sort in this order."""

_PART = re.compile(r"(part-(?:weights-)?)(\d{3,9})\.zip")
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)  # valid everywhere, neither hidden nor `..`
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMPRESSED = (".parquet", ".safetensors")  # deflating them saves nothing
_LARGEST_INDEX = 64 * 10**6  # bytes; a comparison of a thousand adapters has one of 2 MB
_SMALLEST_PIECE = 1024  # bytes; smaller pieces go into the next part


@dataclass(frozen=True)
class File:
    """A file of a comparison: its size in bytes, and the parts with its pieces, in order."""

    bytes: int
    sha256: str
    parts: tuple[str, ...]


Folders = Mapping[str, Mapping[str, File]]
"""Files by folder (its path below the comparison's, "" for that one itself) and name."""


@dataclass(frozen=True)
class Part:
    """An open part."""

    series: str  # one of `SERIES`
    number: int  # in its series
    archive: zipfile.ZipFile
    written: int  # see the module's text, like the two below
    comparison: Mapping[str, Any]
    folders: Folders
    paths: frozenset[str]  # paths of its entries


Parts = Mapping[str, Part]
"""By name, in the order of series and number."""


def path_of(folder: str, name: str) -> str:
    """The path of a file below the comparison's folder."""
    return f"{folder}/{name}" if folder else name


@contextmanager
def open_parts(folder: Path) -> Iterator[Parts]:
    """Open the parts in a folder and check them against their indexes, without reading files.

    Raises:
        RunError: A part is damaged, names a path outside of a comparison, or belongs to another
            comparison than the first one.
    """
    with ExitStack() as opened:
        parts: dict[str, Part] = {}
        matches = [(_PART.fullmatch(path.name), path) for path in folder.glob("part-*")]
        for series, number, path in sorted((m[1], int(m[2]), path) for m, path in matches if m):
            try:
                archive = opened.enter_context(zipfile.ZipFile(path))
                part = _part(series, number, archive)
            except _DAMAGED as error:
                raise RunError(
                    f"{path} is damaged or no part of a comparison ({error}): fetch it again, or "
                    "take it out of the folder."
                ) from error
            first = next(iter(parts.values()), part)
            if part.comparison != first.comparison:
                raise RunError(
                    f"{path} is of another comparison than {next(iter(parts))}: give each "
                    "comparison's parts a folder of their own."
                )
            parts[path.name] = part
        yield parts


_DAMAGED = (
    *(ValueError, KeyError, TypeError, AttributeError, EOFError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
    RuntimeError,  # zipfile's error for encryption and unknown compression
)


def _part(series: str, number: int, archive: zipfile.ZipFile) -> Part:
    """Check an archive and read its index; raises one of `_DAMAGED`."""
    if any(info.header_offset < 0 for info in archive.infolist()):
        raise ValueError("an entry lies before its beginning")  # reading it would raise OSError
    if any(info.extra or info.comment for info in archive.infolist()):
        raise ValueError("a field's length is wrong")  # zipfile would skip the following entries
    if archive.getinfo(INDEX).file_size > _LARGEST_INDEX:
        raise ValueError(f"{INDEX} is larger than {_LARGEST_INDEX} bytes")
    index = json.loads(archive.read(INDEX))
    if index["format"] != FORMAT:
        raise ValueError(f"its format is {index['format']!r}, this version reads {FORMAT}")
    folders = {
        _checked_folder(folder): {
            _checked_name(folder, name): _file(facts) for name, facts in entries.items()
        }
        for folder, entries in index["folders"].items()
    }
    sizes = {
        path_of(folder, name): file.bytes
        for folder, entries in folders.items()
        for name, file in entries.items()
    }
    contents = [info for info in archive.infolist() if info.filename != INDEX]
    for info in contents:
        if info.filename not in sizes:
            raise ValueError(f"its index does not have {info.filename!r}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"{info.filename} is a link")
        if info.file_size > sizes[info.filename]:
            raise ValueError(f"{info.filename} is larger than its index says")
    paths = frozenset(info.filename for info in contents)
    if len(paths) < len(contents):
        raise ValueError("it has two entries of one name")
    return Part(
        series, number, archive, int(index["written"]), dict(index["comparison"]), folders, paths
    )


def _checked_folder(folder: str) -> str:
    top, *below = folder.split("/")
    named = below and all(map(_NAME.fullmatch, below))
    if folder and not (top in {"adapters", "runs"} and named):
        raise ValueError(f"{folder!r} is no folder of a comparison")
    return folder


def _checked_name(folder: str, name: str) -> str:
    if not _NAME.fullmatch(name) or (not folder and name != "recipe.json"):
        raise ValueError(f"{path_of(folder, name)!r} is no file of a comparison")
    return name


def _file(facts: Mapping[str, Any]) -> File:
    file = File(facts["bytes"], facts["sha256"], tuple(facts["parts"]))
    if type(file.bytes) is not int or file.bytes < 0 or not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"{dict(facts)} are no facts of a file")
    if not file.parts or not all(map(_PART.fullmatch, file.parts)):
        raise ValueError(f"{list(file.parts)} are no parts")
    return file


def available(parts: Parts) -> tuple[Folders, dict[str, tuple[str, ...]]]:
    """The complete folders, and the parts to look for of each file of the others, by path.

    Each complete folder is as in the newest index of which all pieces are there.
    """
    complete: dict[str, Mapping[str, File]] = {}
    newest: dict[str, dict[str, tuple[str, ...]]] = {}  # missing parts by folder and path
    for part in sorted(parts.values(), key=lambda part: part.written, reverse=True):
        for folder, entries in part.folders.items():
            if folder not in complete:
                missing = {
                    path_of(folder, name): _missing_parts(parts, folder, name, file)
                    for name, file in entries.items()
                }
                newest.setdefault(folder, missing)
                if not any(missing.values()):
                    complete[folder] = entries
    incomplete = [paths for folder, paths in newest.items() if folder not in complete]
    missing_parts = {path: names for paths in incomplete for path, names in paths.items() if names}
    return complete, dict(sorted(missing_parts.items()))


def _missing_parts(parts: Parts, folder: str, name: str, file: File) -> tuple[str, ...]:
    """The parts that lack their piece of this version of a file."""
    path = path_of(folder, name)
    holding = {
        one
        for one, part in parts.items()
        if path in part.paths and part.folders[folder][name] == file
    }
    return tuple(one for one in file.parts if one not in holding)


def copy(parts: Parts, path: str, file: File, target: BinaryIO | None = None) -> None:
    """Check an available file against its hash, and copy it into `target` if that is given.

    Raises:
        RunError: The file is damaged; the content of `target` must not be used.
    """
    digest, missing_bytes = hashlib.sha256(), file.bytes
    try:
        for name in file.parts:
            with parts[name].archive.open(path) as piece:
                while chunk := piece.read(1 << 20):
                    if (missing_bytes := missing_bytes - len(chunk)) < 0:
                        raise ValueError("it is larger than the index says")
                    digest.update(chunk)
                    if target is not None:
                        target.write(chunk)
        if missing_bytes or digest.hexdigest() != file.sha256:
            raise ValueError("its hash is not the one in the index")
    except _DAMAGED as error:
        raise RunError(
            f"{path} is damaged in {', '.join(file.parts)} ({error}): fetch them again."
        ) from error


# Writing ----------------------------------------------------------------------------------


def index_of(written: int, comparison: Mapping[str, Any], folders: Folders) -> bytes:
    """The content of an index, see the module's text."""
    listed = {
        folder: {name: vars(file) for name, file in entries.items()}
        for folder, entries in folders.items()
    }
    values = {"format": FORMAT, "written": written, "comparison": comparison, "folders": listed}
    return json.dumps(values, separators=(",", ":")).encode()


def index_size(comparison: Mapping[str, Any], folders: Folders, room: int) -> int:
    """The maximum bytes of an index in a part, if parts have `room` bytes or more for pieces."""
    longest = f"{SERIES[-1]}{10**9}.zip"
    guessed = {
        folder: {
            name: File(one.bytes, one.sha256, (longest,) * (one.bytes // room + 2))
            for name, one in entries.items()
        }
        for folder, entries in folders.items()
    }
    # Not deflated: the compressed size depends on the hashes.
    return len(index_of(10**9, comparison, guessed)) + _size(INDEX, b"")


class Packer:
    """Adds files to the last part of a series, and to further parts.

    Args:
        series: One of `SERIES`.
        parts: All existing parts.
        kept: Folders whose files stay in the last part.
        room: Bytes of a part for pieces.

    Raises:
        RunError: The last part is damaged.
    """

    def __init__(self, series: str, parts: Parts, kept: Folders, room: int) -> None:
        self._series = series
        self._room = room
        last = next((part for part in [*parts.values()][::-1] if part.series == series), None)
        self._number = last.number if last else 1
        self._content: dict[str, list[tuple[str, bytes]]] = {self._part: []}
        self._changed: set[str] = set()
        for folder, entries in kept.items():
            for name, file in entries.items():
                if last and self._part in file.parts:
                    path = path_of(folder, name)
                    try:
                        piece = last.archive.read(path)
                    except _DAMAGED as error:
                        raise RunError(
                            f"{path} is damaged in {last.archive.filename} ({error}): remove "
                            "that part, and what it held is written again."
                        ) from error
                    self._content[self._part].append((path, piece))
        self._free = room - sum(_size(*piece) for piece in self._content[self._part])
        if self._free < 0:  # the index has grown
            self._next()

    @property
    def pieces(self) -> dict[str, Sequence[tuple[str, bytes]]]:
        """Paths and contents of each changed part, the last part first.

        Parts written in this order never lose a file in between.
        """
        return {
            part: pieces
            for part, pieces in reversed(self._content.items())
            if part in self._changed
        }

    @property
    def _part(self) -> str:
        return f"{self._series}{self._number:03d}.zip"

    def _next(self) -> None:
        self._number += 1
        self._content[self._part] = []
        self._free = self._room

    def add(self, path: str, content: bytes) -> File:
        """Append a file; what does not fit goes into the next part."""
        rest = content
        names: list[str] = []
        while True:
            piece = rest
            if _size(path, rest) > self._free:
                piece = rest[: max(0, (self._free - _size(path, b"")) * 999 // 1000 - 64)]
            if len(piece) >= min(_SMALLEST_PIECE, len(rest)) and _size(path, piece) <= self._free:
                self._content[self._part].append((path, piece))
                self._free -= _size(path, piece)
                self._changed.add(self._part)
                names.append(self._part)
                rest = rest[len(piece) :]
                if not rest:
                    return File(len(content), atomic_io.sha256(content), tuple(names))
            self._next()


def archive_of(index: bytes, pieces: Sequence[tuple[str, bytes]]) -> bytes:
    """The content of a part; equal pieces give equal bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, content in ((INDEX, index), *pieces):
            entry = zipfile.ZipInfo(path)  # its date is always 1980
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, _compression(path))
    return stream.getvalue()


def _compression(path: str) -> int:
    return zipfile.ZIP_STORED if path.endswith(_COMPRESSED) else zipfile.ZIP_DEFLATED


def _size(path: str, content: bytes) -> int:
    """The maximum bytes of an entry in a part, with its headers and the archive's end."""
    deflated = _compression(path) == zipfile.ZIP_DEFLATED
    return len(zlib.compress(content) if deflated else content) + 2 * len(path.encode()) + 128
