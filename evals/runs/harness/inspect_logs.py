"""Logs of inspect_ai: an `.eval` file, which is a zip of JSON files, or one `.json` file.

    header.json            `eval` (task, version, model) and `status`
    reductions.json        of each scorer the score of each sample over its epochs
    samples/<id>_epoch_<n>.json    `id`, `input`, `target`, `choices`

A `.json` file has all of it: header, and `reductions` and `samples` as lists.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evals.runs.harness.logs import LoggedTask, choose, in_range, item_hash, scored
from evals.runs.run_dir import RunError

_ZSTANDARD = 93
"""A method of compression that zipfile does not know before Python 3.14."""


def read_archive(path: Path) -> dict[str, Any]:
    """The content of an `.eval` file in the form of a `.json` log.

    Raises:
        zipfile.BadZipFile, LookupError, OSError, ValueError: It is damaged or unfinished.
    """
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if "header.json" not in names:
            raise RunError(f"{path} is unfinished: let inspect finish or retry the evaluation.")
        reductions = "reductions.json"
        return {
            **_member(archive, "header.json"),
            "reductions": _member(archive, reductions) if reductions in names else None,
            "samples": [
                {key: sample.get(key) for key in ("id", "input", "target", "choices")}
                for name in sorted(names)
                if name.startswith("samples/")
                for sample in [_member(archive, name)]
            ],
        }


def read_task(path: Path, log: Mapping[str, Any], metric: str | None) -> LoggedTask:
    """The task of a log.

    Args:
        path: Of the log, for errors.
        log: Its content.
        metric: The scorer to compare, with `/<key>` where its scores have several; None takes the
            first.

    Raises:
        RunError: The evaluation was not finished, or has no such scorer.
        LookupError, TypeError, ValueError: The content is not what inspect writes.
    """
    if log["status"] != "success" or not log.get("reductions"):
        raise RunError(
            f"{path} has no scores, its status is {log['status']!r}: let inspect finish or retry it"
        )
    hashes = {str(sample["id"]): _hash(sample) for sample in log["samples"] or ()}
    by_scorer: dict[str, dict[str, float]] = {}
    for reduction in log["reductions"]:
        for sample in reduction["samples"]:
            for key, value in _numbers(reduction["scorer"], sample["value"]):
                by_scorer.setdefault(key, {}).setdefault(str(sample["sample_id"]), value)
    usable = [name for name, scores in by_scorer.items() if in_range(scores.values())]
    chosen = choose(usable, metric)
    if chosen is None:
        raise RunError(
            f"{path} has no scores{f' of {metric!r}' if metric else ''} within 0 and 1, its "
            f"scorers are {', '.join(by_scorer) or 'none'}"
        )
    items = [(one, hashes[one], value) for one, value in by_scorer[chosen].items()]
    return scored(log["eval"]["task"], chosen, str(log["eval"]["task_version"]), items)


def _numbers(scorer: str, value: Any) -> Iterator[tuple[str, float]]:
    """Each number of a score, with its name; a score that is not a number is no score."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numbers(f"{scorer}/{key}", part)
    elif isinstance(value, int | float) and math.isfinite(value):
        yield scorer, float(value)


def _hash(sample: Mapping[str, Any]) -> str:
    """Of input, choices and target; ids of messages are drawn anew in each evaluation."""
    asked = sample["input"]
    if isinstance(asked, list):
        asked = [[message["role"], message["content"]] for message in asked]
    return item_hash([asked, sample.get("choices"), sample["target"]])


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    """The JSON of a file in the archive."""
    info = archive.getinfo(name)
    if info.compress_type != _ZSTANDARD:
        return json.loads(archive.read(info))
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and not needed by older logs

    with Path(str(archive.filename)).open("rb") as stream:
        stream.seek(info.header_offset)
        header = stream.read(
            30
        )  # of the member: it ends with the lengths of two fields that follow
        lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        stream.seek(sum(lengths), 1)
        packed = stream.read(info.compress_size)
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as unpacked:
        content = unpacked.read()
    if zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(f"{name} does not have its checksum")
    return json.loads(content)
