"""Where data lies, and the raw objects in it: files, folders with splits, the Hugging Face hub."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgclora.data.records import DataError

FOLDER_VARIABLE = "CGCLORA_DATA"
"""Environment variable that names the data folder where no argument does."""

FAMILIES = ["promptcblue", "firefly"]
"""Folders below a data folder in which the files of a split may lie; more may be appended."""

SPLITS = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
"""Each split with the names that it goes by."""

VALUE_WIDTH = 80
"""Characters of a value that an error message shows."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_FILE_ENDINGS = (".jsonl", ".json")
_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
_SPACE = re.compile(r"[ \t\r\n]*")


class FieldError(ValueError):
    """A field that no record can be made of; a field of None is the object as a whole."""

    def __init__(self, field: str | None, message: str, value: object) -> None:
        super().__init__(field, message, value)
        self.field = field
        self.message = message
        self.value = value


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a source."""

    file: str  # the file, relative to the folder that was read; the hub id for a row of its dataset
    line: int  # line or row number, from 1
    id: str  # of the record, when the object brings none
    content: object  # the object, or a `FieldError` that says why there is none
    note: str = ""  # where to look, when the line does not say it


@dataclass(frozen=True, slots=True)
class Source:
    """Something that data is read from."""

    place: str  # the file or folder with the way to it, or the hub id
    name: str  # the name of the file or folder without the way to it, or the hub id
    split: str | None  # `train`, `dev` or `test`; None for a file whose name says none of them
    # Its objects, which can be gone through once. Going through them raises `DataError` where the
    # file or the hub cannot be read, or a JSON list is broken.
    entries: Iterator[Entry]


def data_folder(argument: str | Path | None) -> Path:
    """The folder that an argument names, else the one that `CGCLORA_DATA` names.

    Raises:
        DataError: Neither names one, or it is not a folder.
    """
    named = argument or os.environ.get(FOLDER_VARIABLE)
    if not named:
        raise DataError(
            f"no data folder is known: give one as argument, or set the environment variable "
            f"{FOLDER_VARIABLE} to one."
        )
    folder = Path(named)
    if not folder.is_dir():
        by = "" if argument else f", which {FOLDER_VARIABLE} names,"
        raise DataError(f"the data folder {folder}{by} is not a folder.")
    return folder


def open_source(source: str | Path | None, split: str) -> Source:
    """A file, a split of a folder, or a split of a dataset on the Hugging Face hub.

    None takes the folder of `CGCLORA_DATA`. The split, a name in `SPLITS`, does not matter for a
    file.

    Raises:
        DataError: There is no such split, folder or file of the split.
    """
    name = next((key for key, names in SPLITS.items() if split in names), None)
    if name is None:
        choices = ", ".join(choice for names in SPLITS.values() for choice in names)
        raise DataError(f"there is no split {split!r}; name one of: {choices}.")
    if isinstance(source, str) and _is_hub_id(source):
        return Source(source, source, name, _hub_entries(source, name))
    path = Path(source) if source else data_folder(None)
    if not path.is_dir():
        of_file = next((key for key, names in SPLITS.items() if path.stem in names), None)
        return Source(str(path), path.name, of_file, _file_entries(path, path.name))
    entries = (
        entry
        for file in _split_files(path, name)
        for entry in _file_entries(file, file.relative_to(path).as_posix())
    )
    return Source(str(path), path.resolve().name, name, entries)


def _is_hub_id(source: str) -> bool:
    return (
        _HUB_ID.fullmatch(source) is not None
        and not source.endswith(_FILE_ENDINGS)
        and not Path(source).exists()
    )


def _split_files(folder: Path, split: str) -> list[Path]:
    for places in ([folder], [folder / family for family in FAMILIES]):
        if files := [file for place in places if (file := _split_file(place, split))]:
            return files
    names = " or ".join(f"{name}.jsonl" for name in SPLITS[split])
    raise DataError(
        f"{folder} has no {split} split: put {names} (.json will do) there, or into one of the "
        f"folders {' and '.join(FAMILIES)} below it."
    )


def has_split(folder: Path, split: str) -> bool:
    """Whether a folder, or a folder of `FAMILIES` below it, has files of a split of `SPLITS`."""
    return any(_candidates(place, split) for place in (folder, *map(folder.joinpath, FAMILIES)))


def _candidates(folder: Path, split: str) -> list[Path]:
    named = (folder / (name + ending) for name in SPLITS[split] for ending in _FILE_ENDINGS)
    return [file for file in named if file.is_file()]


def _split_file(folder: Path, split: str) -> Path | None:
    files = _candidates(folder, split)
    if len(files) > 1:
        raise DataError(
            f"{folder} has more than one {split} split ({', '.join(file.name for file in files)}): "
            "name the file that is meant."
        )
    return files[0] if files else None


def _file_entries(path: Path, name: str) -> Iterator[Entry]:
    family = path.absolute().parent.name
    stem = f"{family}-{path.stem}" if family in FAMILIES else path.stem
    decoder = _Decoder()
    try:
        with path.open("rb") as file:
            is_first = True
            for number, line in enumerate(file, start=1):
                raw = line
                if number == 1:
                    if raw.startswith(_WIDE_MARKS):
                        raise DataError(f"{path} is UTF-16 or UTF-32 text: save it as UTF-8.")
                    raw = raw.removeprefix(_MARK)
                if not raw or raw.isspace():
                    continue
                if is_first and raw.lstrip().startswith(b"["):
                    yield from _list_entries(path, name, stem)
                    return
                is_first = False
                yield Entry(name, number, f"{stem}-{number}", decoder.line(raw))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error


def _list_entries(path: Path, name: str, stem: str) -> Iterator[Entry]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {_not_utf8(error, 'file')}.") from error
    decoder, number, line, counted = _Decoder(), 0, 1, 0

    def broken(problem: str, position: int) -> DataError:
        row = text.count("\n", 0, position) + 1
        column = position - text.rfind("\n", 0, position)
        return DataError(
            f"{path}, line {row}, column {column}: {problem} after {number} items of the JSON "
            "list. Is the file cut off? Get it whole."
        )

    at = _skip_space(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            content, end = decoder.item(text, at)
        except json.JSONDecodeError as error:
            raise broken(error.msg, error.pos) from error
        except (ValueError, RecursionError) as error:
            raise broken(str(error), at) from error
        number += 1
        yield Entry(name, line, f"{stem}-{number}", content, f" (item {number} of the list)")
        at = _skip_space(text, end)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
            if text[at : at + 1] == "]":
                raise broken("nothing follows the comma", at)
        elif text[at : at + 1] != "]":
            raise broken("expected ',' or ']'", at)
    if (rest := _skip_space(text, at + 1)) < len(text):
        raise broken("expected nothing more", rest)


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _hub_entries(name: str, split: str) -> Iterator[Entry]:
    try:
        import datasets  # noqa: PLC0415 - an optional extra, and slow to import
        from datasets.exceptions import DatasetsError  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f"{name} is neither a file nor a folder here. To load it from the Hugging Face hub: "
            "pip install 'cgclora[data]'"
        ) from error
    try:
        present = datasets.get_dataset_split_names(name)
        chosen = next((name for name in SPLITS[split] if name in present), None)
        if chosen is None:
            raise DataError(f"{name} on the hub has no {split} split; it has {sorted(present)}.")
        rows = datasets.load_dataset(name, split=chosen)
    except DataError:
        raise
    except ConnectionError as error:
        raise DataError(
            f"{name} is neither a file nor a folder here, and the Hugging Face hub cannot be "
            f"reached ({error}): connect to the network, or give a file or folder."
        ) from error
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""  # it often names the file
        raise DataError(f"cannot load {name} from the Hugging Face hub: {error}{cause}") from error
    for number, row in enumerate(rows, start=1):
        # A table has every column in every row; null is how it writes a field that is not there.
        content = {field: value for field, value in row.items() if value is not None}
        yield Entry(name, number, f"{split}-{number}", content)


class _Decoder:
    """JSON as the standard has it: Python would also take NaN, and the last of two equal keys."""

    def __init__(self) -> None:
        self._flaws: list[FieldError] = []
        self._json = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def line(self, raw: bytes) -> object:
        """The value of one line, or a `FieldError`."""
        self._flaws.clear()
        try:
            text = raw.decode()
            value = self._json.decode(text)
        except UnicodeDecodeError as error:
            return FieldError(None, _not_utf8(error, "line"), raw[error.start :][:20])
        except json.JSONDecodeError as error:
            problem = (
                f"not JSON ({error.msg} at column {error.colno}); "
                "expected an object a line, or one list of objects"
            )
            start = max(0, error.pos - 30)
            return FieldError(None, problem, text[start : start + VALUE_WIDTH])
        except (ValueError, RecursionError) as error:
            return FieldError(None, f"not usable ({error})", text[:VALUE_WIDTH])
        return self._flaws[0] if self._flaws else value

    def item(self, text: str, at: int) -> tuple[object, int]:
        """The value that starts at a position, or a `FieldError`; and where it ends.

        Raises:
            ValueError: There is none; mostly a `JSONDecodeError`.
            RecursionError: It is nested too deeply.
        """
        self._flaws.clear()
        value, end = self._json.raw_decode(text, at)
        return (self._flaws[0] if self._flaws else value), end

    # These note a flaw instead of raising it, so that what follows in a list can still be read.

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            values = [value for name, value in pairs if name == twice]
            self._flaws.append(FieldError(twice, "must stand once in an object", values))
        return fields

    def _constant(self, name: str) -> float:
        self._flaws.append(FieldError(None, "a number that JSON does not have", name))
        return math.nan

    def _float(self, digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else self._constant(digits)


def _not_utf8(error: UnicodeDecodeError, what: str) -> str:
    return (
        f"not UTF-8 text (byte 0x{error.object[error.start]:02x} at position {error.start} of the "
        f"{what}); convert the file, for example: iconv -f GB18030 -t UTF-8"
    )
