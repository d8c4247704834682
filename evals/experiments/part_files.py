"""Parts: zip files of limited size that hold the folders of a comparison.

    part-001.zip, part-002.zip, ...    one series
    part-weights-001.zip, ...          another, see `SERIES`

An entry of a part is a file, or the piece of one that lies in several parts of its series; all
pieces of a file have its path. The entry `index.json` says what all parts held when this one was
written:

    format        version of this layout
    written       number of the call that wrote it; of two indexes the one with the higher is newer
    comparison    hash, backbone and data of the comparison's recipe.json
    folders       for each folder, by its path below the comparison's, its files by name: bytes,
                  sha256, and the parts with its pieces, in order

Only the last part of a series is ever written again. A file that changed since is added in a later
part, and the one before stays where it was; so a folder counts as there in the newest index of
which all pieces are there.
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
"""What the names of parts begin with, the important series first, as they sort by name."""

_PART = re.compile(r"(part-(?:weights-)?)(\d{3,9})\.zip")
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)  # on any system, neither hidden nor `..`
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PACKED = (".parquet", ".safetensors")  # deflating them again would only take time
_LARGEST_INDEX = 64 * 10**6  # bytes; a comparison of a thousand adapters has one of 2 MB
_SMALLEST_PIECE = 1024  # bytes; a file is not split for less


@dataclass(frozen=True)
class File:
    """A file of a comparison.

    Attributes:
        size: In bytes.
        sha256: Of its content.
        parts: Names of those with its pieces, in order.
    """

    size: int
    sha256: str
    parts: tuple[str, ...]


Folders = Mapping[str, Mapping[str, File]]
"""Files by folder, as the path below the comparison's folder ("" is that one), and name."""


@dataclass(frozen=True)
class Part:
    """A part that is open.

    Attributes:
        series: One of `SERIES`.
        number: In its series.
        archive: To read from.
        written, comparison, folders: See the module's text.
        paths: What it holds.
    """

    series: str
    number: int
    archive: zipfile.ZipFile
    written: int
    comparison: Mapping[str, Any]
    folders: Folders
    paths: frozenset[str]


Parts = Mapping[str, Part]
"""By name, in the order of series and number."""


def path_of(folder: str, name: str) -> str:
    """The path of a file below the comparison's folder."""
    return f"{folder}/{name}" if folder else name


@contextmanager
def open_parts(folder: Path) -> Iterator[Parts]:
    """The parts in a folder, after checking that each is what its index says; files are not read.

    Raises:
        RunError: A part is damaged, names a path outside of a comparison, or is of another
            comparison than the others.
    """
    with ExitStack() as opened:
        parts: dict[str, Part] = {}
        matches = [(_PART.fullmatch(path.name), path) for path in folder.glob("part-*")]
        found = [(match[1], int(match[2]), path) for match, path in matches if match]
        for series, number, path in sorted(found):
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
    RuntimeError,  # as zipfile calls what is encrypted, or compressed in an unknown way
)


def _part(series: str, number: int, archive: zipfile.ZipFile) -> Part:
    """What an archive says of itself; raises one of `_DAMAGED` if that cannot be."""
    if any(info.header_offset < 0 for info in archive.infolist()):
        raise ValueError("an entry lies before its beginning")  # seeking there is an OSError
    if any(info.extra or info.comment for info in archive.infolist()):
        raise ValueError("a field's length is wrong")  # zipfile misses the entries behind it
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
    sizes = {path_of(f, name): one.size for f, own in folders.items() for name, one in own.items()}
    entries = [info for info in archive.infolist() if info.filename != INDEX]
    for info in entries:
        if info.filename not in sizes:
            raise ValueError(f"its index does not have {info.filename!r}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"{info.filename} is a link")
        if info.file_size > sizes[info.filename]:
            raise ValueError(f"{info.filename} is larger than its index says")
    paths = frozenset(info.filename for info in entries)
    if len(paths) < len(entries):
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
    if type(file.size) is not int or file.size < 0 or not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"{dict(facts)} are no facts of a file")
    if not file.parts or not all(map(_PART.fullmatch, file.parts)):
        raise ValueError(f"{list(file.parts)} are no parts")
    return file


def available(parts: Parts) -> Folders:
    """The folders of which all pieces are there, each as in the newest such index."""
    found: dict[str, Mapping[str, File]] = {}
    for part in _newest_first(parts):
        for folder, entries in part.folders.items():
            if folder not in found and not any(
                _lacking(parts, folder, name, file) for name, file in entries.items()
            ):
                found[folder] = entries
    return found


def missing(parts: Parts, there: Folders) -> dict[str, tuple[str, ...]]:
    """The paths of files that an index has and the parts have not, with the parts to look for.

    Args:
        parts: All that are there.
        there: What is `available` in them.
    """
    found: dict[str, tuple[str, ...]] = {}
    seen = set(there)
    for part in _newest_first(parts):
        for folder in part.folders.keys() - seen:
            for name, file in part.folders[folder].items():
                found[path_of(folder, name)] = _lacking(parts, folder, name, file)
        seen |= part.folders.keys()
    return {path: names for path, names in sorted(found.items()) if names}


def _newest_first(parts: Parts) -> list[Part]:
    return sorted(parts.values(), key=lambda part: part.written, reverse=True)


def _lacking(parts: Parts, folder: str, name: str, file: File) -> tuple[str, ...]:
    """The parts that do not hold their piece of this very file."""
    path = path_of(folder, name)
    holding = {
        one
        for one, part in parts.items()
        if path in part.paths and part.folders[folder][name] == file
    }
    return tuple(one for one in file.parts if one not in holding)


def copy(parts: Parts, path: str, file: File, target: BinaryIO | None = None) -> None:
    """Read a file from its parts, and check that it is the one that was written.

    Args:
        parts: All that are there.
        path: Of the file.
        file: What is `available`.
        target: Where its content goes; None only checks it.

    Raises:
        RunError: It is damaged. What is in `target` then must not be used.
    """
    digest, left = hashlib.sha256(), file.size
    try:
        for name in file.parts:
            with parts[name].archive.open(path) as piece:
                while chunk := piece.read(1 << 20):
                    if (left := left - len(chunk)) < 0:
                        raise ValueError("it is larger than the index says")
                    digest.update(chunk)
                    if target is not None:
                        target.write(chunk)
        if left or digest.hexdigest() != file.sha256:
            raise ValueError("its hash is not the one in the index")
    except _DAMAGED as error:
        raise RunError(
            f"{path} is damaged in {', '.join(file.parts)} ({error}): fetch them again."
        ) from error


# Writing ----------------------------------------------------------------------------------


def index_of(written: int, comparison: Mapping[str, Any], folders: Folders) -> bytes:
    """The content of an index; see the module's text."""
    listed = {
        folder: {
            name: {"bytes": one.size, "sha256": one.sha256, "parts": one.parts}
            for name, one in entries.items()
        }
        for folder, entries in folders.items()
    }
    values = {"format": FORMAT, "written": written, "comparison": comparison, "folders": listed}
    return json.dumps(values, separators=(",", ":")).encode()


def index_size(comparison: Mapping[str, Any], folders: Folders, room: int) -> int:
    """The most bytes that an index takes in a part, wherever the files' pieces will be.

    Args:
        comparison: See the module's text.
        folders: Whose files' parts do not count.
        room: The least that a part has for pieces, in bytes.
    """
    longest = f"{SERIES[-1]}{10**9}.zip"
    guessed = {
        folder: {
            name: File(one.size, one.sha256, (longest,) * (one.size // room + 2))
            for name, one in entries.items()
        }
        for folder, entries in folders.items()
    }
    # As if it were not deflated: how well it will be depends on the hashes.
    return len(index_of(10**9, comparison, guessed)) + _size(INDEX, b"")


class Packer:
    """Fills the last part of a series, and further ones.

    Args:
        series: One of `SERIES`.
        parts: All that are there; those of the series but the last stay as they are.
        kept: The folders whose files must stay in the last one.
        room: For pieces in a part, in bytes.

    Raises:
        RunError: The last part is damaged.

    Attributes:
        pieces: Of each part to which something was added all paths and contents, the last part
            first: written in this order, nothing that is there is ever gone in between.
    """

    def __init__(self, series: str, parts: Parts, kept: Folders, room: int) -> None:
        self._series = series
        self._room = room
        last = [part for part in parts.values() if part.series == series][-1:]
        self._number = last[0].number if last else 1
        self._content: dict[str, list[tuple[str, bytes]]] = {self._part: []}
        self._grown: set[str] = set()
        for folder, entries in kept.items():
            for name, file in entries.items():
                if self._part in file.parts:
                    path = path_of(folder, name)
                    try:
                        piece = last[0].archive.read(path)
                    except _DAMAGED as error:
                        raise RunError(
                            f"{path} is damaged in {last[0].archive.filename} ({error}): remove "
                            "that part, and what it held is written again."
                        ) from error
                    self._content[self._part].append((path, piece))
        self._left = room - sum(_size(*piece) for piece in self._content[self._part])
        if self._left < 0:  # the index has grown
            self._next()

    @property
    def pieces(self) -> dict[str, Sequence[tuple[str, bytes]]]:
        """What is to be written, see the class's text."""
        return {
            part: pieces for part, pieces in reversed(self._content.items()) if part in self._grown
        }

    @property
    def _part(self) -> str:
        return f"{self._series}{self._number:03d}.zip"

    def _next(self) -> None:
        self._number += 1
        self._content[self._part] = []
        self._left = self._room

    def add(self, path: str, content: bytes) -> File:
        """Put a file behind the others; what does not fit goes into the next part."""
        rest, names = content, list[str]()
        while True:
            piece = rest
            if _size(path, rest) > self._left:
                piece = rest[: max(0, (self._left - _size(path, b"")) * 999 // 1000 - 64)]
            if len(piece) >= min(_SMALLEST_PIECE, len(rest)) and _size(path, piece) <= self._left:
                self._content[self._part].append((path, piece))
                self._left -= _size(path, piece)
                self._grown.add(self._part)
                names.append(self._part)
                rest = rest[len(piece) :]
                if not rest:
                    return File(len(content), atomic_io.sha256(content), tuple(names))
            self._next()


def archive_of(index: bytes, pieces: Sequence[tuple[str, bytes]]) -> bytes:
    """The content of a part. The same pieces always give the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, content in ((INDEX, index), *pieces):
            entry = zipfile.ZipInfo(path)  # of 1980, whenever it is made
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, _compression(path))
    return stream.getvalue()


def _compression(path: str) -> int:
    return zipfile.ZIP_STORED if path.endswith(_PACKED) else zipfile.ZIP_DEFLATED


def _size(path: str, content: bytes) -> int:
    """The most bytes that an entry takes in a part, with its headers and the archive's end."""
    deflated = _compression(path) == zipfile.ZIP_DEFLATED
    return len(zlib.compress(content) if deflated else content) + 2 * len(path.encode()) + 128
