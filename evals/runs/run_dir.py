"""A run on disk: which method answered which records, its answers and its scores.

    manifest.json         method, data, engine and hardware, and the hashes of the other files
    predictions.parquet   a row for each record, without the dataset's text
    metrics.json          the scores of each task with their item noise, once it is scored
    replicates.parquet    each task's main score on shared resamples of its records, from which two
                          runs are compared record by record without the data
    log.jsonl             progress over time

While answers come in, a folder beside it, `<run>.partial`, has a line an answer with a checksum; a
damaged line is ignored and its record answered again. The run folder itself is made in one swap at
the end, and so is every rescoring: it is always complete.

Fields of the manifest:

    format            version of this layout
    method            name on the leaderboard, such as `CGC-LoRA`
    label             tells runs of one method apart, such as `seed 1`; may be empty
    seed              of the training; null where nothing was trained
    split             the part of the data, such as `test`
    prompt            see `evals.runs.evaluate.PROMPTS`
    backbone          name and fingerprint of the backbone; null for a remote engine
    adapters          each adapter's manifest, and the tasks that it answered
    trainable_parameters, total_rank, active_rank
                      summed over the adapters (active rank: the largest); null without any
    training_seconds  summed over the adapters; null without any
    data              name and hash of the source, and for each task number and hash of records
    tasks             for each task its version and the hash of its prompts
    decoding          the engine's settings
    seconds, tokens   of answering: wall time and generated tokens
    peak_memory       while answering, in bytes: of the process, or of its tensors on a GPU
    forgetting        what `evals.runs.forgetting` measured with the run's model, if it did
    created, code, versions, hardware
                      see `cgclora.storage.provenance`
    files             sha256 of the other files
    seal              sha256 of the other fields, see `cgclora.storage.atomic_io.write_sealed`

Columns of the predictions: task, id, prediction, finish, tokens, and after scoring parsed (the
answer's items as JSON) and score (of the record, by the task's main metric).
"""

from __future__ import annotations

import io
import json
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from filelock import AcquireReturnProxy

from cgclora.storage import atomic_io

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
MANIFEST_FILE = "manifest.json"
METRICS_FILE = "metrics.json"
REPLICATES_FILE = "replicates.parquet"
PREDICTIONS_FILE = "predictions.parquet"
ANSWERS_FILE = "answers.jsonl"
IDENTITY_FILE = "identity.json"

_AGAIN = "fetch the run again, or predict anew"


class RunError(RuntimeError):
    """A run folder that cannot be made, read or resumed; the message says why."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to a record."""

    task: str
    id: str  # of the record in its data
    prediction: str
    finish: str  # why it ended: `end`, `stop` or `length`
    tokens: int  # generated


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    manifest: Mapping[str, Any]  # see the module's text
    metrics: Mapping[str, Any] | None  # by task, see `evals.runs.score`; None unscored

    def predictions(self) -> pd.DataFrame:
        """A row for each record, see the module's text; RunError if the file is damaged."""
        import pandas as pd  # noqa: PLC0415 - slow to import, and a leaderboard needs no rows

        # Arrow's threads and a Python file may abort the process as it ends (apache/arrow#34314).
        return pd.read_parquet(io.BytesIO(self._content(PREDICTIONS_FILE)), use_threads=False)

    def replicates(self) -> dict[str, npt.NDArray[np.float32]]:
        """The main score on each of the first shared resamples, [R], by task.

        Raises:
            RunError: The run has not been scored, or the file is missing or damaged.
        """
        if self.metrics is None:
            raise RunError(f"{self.folder} has no scores yet: python -m evals score.")
        import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import

        table = pq.ParquetFile(io.BytesIO(self._content(REPLICATES_FILE))).read(use_threads=False)
        return {task: table[task].to_numpy() for task in table.column_names}

    def _content(self, name: str) -> bytes:
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror}.") from error
        if atomic_io.sha256(content) != self.manifest["files"].get(name):
            raise RunError(f"{path} is damaged: {_AGAIN}.")
        return content


class Unfinished:
    """The answers of an unfinished run, in a folder beside its own.

    Args:
        run: The folder of the finished run.
        identity: Facts of the run; a folder with other ones is not resumed.

    Attributes:
        done: The predictions so far, by task and id.
        seconds: Time spent on them by all processes.

    Raises:
        RunError: The run is finished, is another one, or another process works on it.
    """

    def __init__(self, run: str | Path, identity: Mapping[str, Any]) -> None:
        self.run = Path(run)
        self.folder = partial_folder(self.run)
        if (self.run / MANIFEST_FILE).exists():
            discard_answers(self.run)
            raise RunError(f"{self.run} is a finished run: choose another folder, or remove it.")
        if self.run.exists() and any(self.run.iterdir()):
            raise RunError(f"{self.run} holds something other than a run: choose another folder.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _held(self.folder, self.run)
        try:
            atomic_io.claim(self.folder / IDENTITY_FILE, identity, RunError)
            answers = filter(None, map(_prediction, _whole_lines(self.folder / ANSWERS_FILE)))
            self.done = {(one.task, one.id): one for one in answers}
            self.seconds = sum(map(self._seconds, _whole_lines(self.folder / atomic_io.LOG_FILE)))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock for other processes."""
        self._lock.lock.release()

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Save answers to disk."""
        lines = []
        for one in predictions:
            self.done[one.task, one.id] = one
            values = [one.task, one.id, one.prediction, one.finish, one.tokens]
            lines.append(json.dumps([*values, _check(values)], ensure_ascii=False) + "\n")
        with (self.folder / ANSWERS_FILE).open("a", encoding="utf-8") as stream:
            stream.write("".join(lines))

    def log_progress(self, done: int, seconds: float, left: float | None = None) -> None:
        """Add a line to the run's log.

        Args:
            done: Number of answered records.
            seconds: Since the line before, or since this process began to answer.
            left: Seconds until the last answer of all runs that are answered together, see
                `evals.runs.time_left`; None while unknown.
        """
        self.seconds += seconds
        line = {
            "time": round(time.time(), 1),
            "done": done,
            "seconds": round(seconds, 3),
            "seconds_left": None if left is None else round(left, 1),
        }
        with (self.folder / atomic_io.LOG_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**line, "check": _check(line)}) + "\n")

    def finish(self, manifest: Mapping[str, Any], order: Sequence[tuple[str, str]]) -> Run:
        """Make the run folder and remove this one.

        Args:
            manifest: Without format and files.
            order: Task and id of every record, in the order of the rows.
        """
        names = Prediction.__dataclass_fields__
        columns = {name: [getattr(self.done[key], name) for key in order] for name in names}
        log = (self.folder / atomic_io.LOG_FILE).read_bytes()
        _write(self.run, manifest, {PREDICTIONS_FILE: _parquet(columns), atomic_io.LOG_FILE: log})
        _empty(self.folder)
        return read_run(self.run)

    def _seconds(self, line: str) -> float:
        try:
            facts = json.loads(line)
            if facts.pop("check", None) not in (None, _check(facts)):
                raise ValueError("it is not what was written")
            return float(facts["seconds"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(
                f"{self.folder / atomic_io.LOG_FILE} is damaged ({error!r}) in the line {line!r}: "
                "remove that line and give the command again; its seconds are not counted then."
            ) from error


def discard_answers(run: Path) -> None:
    """Remove the answers that a killed process left beside its finished run, unless locked."""
    folder = partial_folder(run)
    if not folder.is_dir() or not (run / MANIFEST_FILE).exists():
        return
    with suppress(RunError), _held(folder, run):
        _empty(folder)


def partial_folder(run: Path) -> Path:
    """The folder of an unfinished run's answers."""
    return run.with_name(f"{run.name}.partial")


def _held(folder: Path, run: Path) -> AcquireReturnProxy[Any]:
    """Lock the folder of a run's answers; RunError if another process holds it."""
    return atomic_io.acquire(
        folder / ".lock", RunError(f"another process works on {run}: wait for it.")
    )


def _empty(folder: Path) -> None:
    """Remove the files of an unfinished run, and its folder if that is empty then."""
    names = {ANSWERS_FILE, atomic_io.LOG_FILE, IDENTITY_FILE, ".lock"}
    for path in folder.iterdir():
        if path.name in names or atomic_io.is_temporary(path):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # it holds other files
        folder.rmdir()


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file, after cutting off an incomplete last one."""
    content = path.read_bytes() if path.exists() else b""
    if (whole := content.rfind(b"\n") + 1) < len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)
    return atomic_io.whole_lines(path)


def _check(values: Any) -> int:
    """A checksum of JSON values, to detect damaged lines."""
    return zlib.crc32(json.dumps(values).encode())


def _prediction(line: str) -> Prediction | None:
    """The answer of a line; None if it is damaged. Lines of older versions have no checksum."""
    try:
        values = json.loads(line)
        prediction = Prediction(*values[:5])
    except (ValueError, TypeError):
        return None
    is_whole = isinstance(values, list) and values[5:] in ([], [_check(values[:5])])
    return prediction if is_whole else None


def read_run(folder: str | Path) -> Run:
    """Read a finished run; its predictions are read and checked on use.

    Raises:
        RunError: The folder is not a run, is damaged, or has a newer format.
    """
    folder = Path(folder)
    atomic_io.recover_folder(folder)
    try:
        manifest = atomic_io.read_sealed(folder / MANIFEST_FILE)
        written = manifest["format"]
        hashes = dict(manifest["files"])
        if not isinstance(written, int) or written > FORMAT:
            raise RunError(
                f"{folder} has format {written!r}, this version reads up to {FORMAT}: "
                "update cgclora."
            )
        unscored = Run(folder, manifest, None)
        metrics = json.loads(unscored._content(METRICS_FILE)) if METRICS_FILE in hashes else None
    except OSError as error:
        raise RunError(f"{folder} holds no run: {error.strerror} ({error.filename}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / MANIFEST_FILE} is damaged ({error!r}): {_AGAIN}.") from error
    return Run(folder, manifest, metrics)


def find_runs(root: str | Path) -> list[Path]:
    """The folders of finished runs below a folder, sorted; interrupted replacements are undone."""
    folders = set()
    for folder in [path.parent for path in Path(root).rglob(MANIFEST_FILE)]:
        if name := atomic_io.replaced_name(folder):
            target = folder.with_name(name)
            with suppress(OSError):  # the folder is read-only
                atomic_io.recover_folder(target)
            folders.add(target)
        else:
            folders.add(folder)
    required = (MANIFEST_FILE, PREDICTIONS_FILE)
    return sorted(one for one in folders if all((one / name).exists() for name in required))


def write_scores(
    run: Run,
    metrics: Mapping[str, Any],
    replicates: Mapping[str, npt.NDArray[np.float32]],
    columns: Mapping[str, Sequence[Any]],
) -> Run:
    """Add scores to a run, whose folder is replaced in one swap.

    Args:
        run: The run.
        metrics: Scores by task.
        replicates: The main score on the shared resamples, [R], by task.
        columns: `parsed` and `score` for each row of the predictions.

    Raises:
        RunError: The predictions are damaged.
    """
    rows = run.predictions().assign(**columns)
    content = {
        PREDICTIONS_FILE: _parquet({name: rows[name].tolist() for name in rows.columns}),
        METRICS_FILE: atomic_io.json_text(metrics).encode(),
        REPLICATES_FILE: _parquet(replicates),
        atomic_io.LOG_FILE: (run.folder / atomic_io.LOG_FILE).read_bytes(),
    }
    facts = {name: value for name, value in run.manifest.items() if name not in {"format", "files"}}
    _write(run.folder, facts, content)
    return read_run(run.folder)


def annotate(run: Run, facts: Mapping[str, Any]) -> Run:
    """Add facts to a run's manifest, such as what was measured after it was answered.

    Raises:
        RunError: As `read_run`.
    """
    with atomic_io.hold_folder(run.folder):
        manifest = read_run(run.folder).manifest
        atomic_io.write_sealed(run.folder / MANIFEST_FILE, {**manifest, **facts})
    return read_run(run.folder)


def _write(folder: Path, manifest: Mapping[str, Any], content: Mapping[str, bytes]) -> None:
    with atomic_io.replace_folder(folder) as new:
        for name, data in content.items():
            (new / name).write_bytes(data)
        hashes = {name: atomic_io.sha256(data) for name, data in content.items()}
        values = {"format": FORMAT, **manifest, "files": hashes}
        atomic_io.write_sealed(new / MANIFEST_FILE, values)


def _parquet(columns: Mapping[str, Any]) -> bytes:
    """Columns as a parquet file; equal columns give equal bytes."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and a leaderboard needs no rows
    import pyarrow.parquet as pq  # noqa: PLC0415

    stream = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), stream, compression="zstd")
    return stream.getvalue()
