"""What `compare` is given: a run folder of ours, or a log of another harness."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evals.runs.harness import inspect_logs, lm_eval_logs
from evals.runs.harness.logs import Log
from evals.runs.run_dir import MANIFEST_FILE, Run, RunError, read_run
from evals.runs.scored_run import UNREADABLE

_INSPECT = re.compile(r"\d{4}-\d\d-\d\dT.+\.(eval|json)")
"""Name of a file that inspect writes."""


def read(path: Path, metric: str | None = None) -> Run | Log:
    """Read a run folder, or a log.

    Args:
        path: A run folder; a file of results of lm-evaluation-harness or a folder with one, at any
            depth; a log file of inspect or a folder of them.
        metric: The metric of a log to compare, see `lm_eval_logs` and `inspect_logs`; None takes
            the first.

    Raises:
        RunError: There is no such thing, or it is damaged; or a metric of a run is wanted.
    """
    logs = _files(path)
    if not logs:
        if metric:
            raise RunError(
                f"--metric chooses from the scores of logs, but {path} is none: the main metric of "
                "a task is compared in runs."
            )
        return read_run(path)
    try:
        return _log(path, logs, metric)
    except RunError:
        raise
    except (*UNREADABLE, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path} is damaged, or of an unknown version: {error!r}. Fetch or make it again."
        ) from error


def _files(path: Path) -> Sequence[Path]:
    """The files of a log; none if the path is not one."""
    if path.is_file():
        return [path]
    if (path / MANIFEST_FILE).exists():
        return []
    names = (lm_eval_logs.RESULTS, _INSPECT)
    files = sorted(
        one for one in path.rglob("*") if any(name.fullmatch(one.name) for name in names)
    )
    results = [one for one in files if lm_eval_logs.RESULTS.fullmatch(one.name)]
    if len(results) > 1 or 0 < len(results) < len(files):
        raise RunError(
            f"{path} holds {len(files)} logs, such as {', '.join(one.name for one in files[:3])}: "
            "name the file of one."
        )
    return files


def _log(path: Path, files: Sequence[Path], metric: str | None) -> Log:
    contents = [
        inspect_logs.read_archive(file)
        if zipfile.is_zipfile(file)
        else json.loads(file.read_text(encoding="utf-8"))
        for file in files
    ]
    if len(contents) == 1 and "configs" in contents[0]:
        return lm_eval_logs.read_results(files[0], contents[0], metric)
    if any("eval" not in content for content in contents):
        raise RunError(
            f"{path} is no log: give results_*.json of lm-evaluation-harness, or a log of inspect."
        )
    names = [str(content["eval"]["task"]) for content in contents]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise RunError(f"{path} holds several logs of {', '.join(twice)}: name the file of one.")
    tasks, left_out = {}, {}
    for name, file, content in zip(names, files, contents, strict=True):
        try:
            tasks[name] = inspect_logs.read_task(file, content, metric)
        except RunError as error:
            left_out[name] = str(error)
    models = dict.fromkeys(str(content["eval"]["model"]) for content in contents)
    return Log(f"{', '.join(models)} ({path})", tasks, left_out)
