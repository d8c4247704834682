"""A clock that jumps: set years ahead, years back, or back between two writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from cgclora.models.embedded import EMBEDDED
from cgclora.storage import provenance
from evals.experiments.training_log import read_log
from evals.runs.run_dir import read_run
from tests.helpers.queues import Waiting
from tests.suites.faults.kills import (
    check_cache,
    check_run,
    check_training,
    kept_of,
    usual_conversion,
    usual_training,
    usual_writing,
)
from tests.suites.faults.processes import Say, Work, kill, start
from tests.suites.faults.scene import Kind, Scene
from tests.suites.faults.works import convert, train, write_run
from tests.suites.faults.world import make_world

FAULT = "clock"

_YEAR = 365 * 86400.0
_JUMPS = (-50 * _YEAR, -_YEAR, -3600.0, -1.0, 0.0, 3600.0, _YEAR, 50 * _YEAR)
"""Seconds by which the clock is off."""

_BETWEEN = 3  # looks at the clock between two jumps


@contextmanager
def clock(seed: int) -> Iterator[None]:
    """A clock that jumps to and fro, for `time` and what stamps results."""
    random, looks, offset = Random(seed), 0, 0.0
    now, to_utc, to_local, to_text = time.time, time.gmtime, time.localtime, time.strftime

    def jumping() -> float:
        nonlocal looks, offset
        if looks % _BETWEEN == 0:
            offset = random.choice(_JUMPS)
        looks += 1
        return now() + offset

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(jumping(), tz or UTC)

    with (
        mock.patch("time.time", jumping),
        mock.patch("time.gmtime", lambda at=None: to_utc(jumping() if at is None else at)),
        mock.patch("time.localtime", lambda at=None: to_local(jumping() if at is None else at)),
        mock.patch("time.strftime", lambda text, at=None: to_text(text, at or to_utc(jumping()))),
        mock.patch.object(provenance, "datetime", Jumping),
    ):
        yield


def under_clock(say: Say, seed: int, work: Work, *arguments: Any) -> None:
    """Do work under such a clock."""
    with clock(seed):
        work(say, *arguments)


def _seeds(scene: Scene) -> Sequence[int]:
    """Of the clocks before and after an interruption."""
    return scene.random.randrange(2**31), scene.random.randrange(2**31)


def _to_the_end(seed: int, work: Work, *arguments: Any) -> list[Any]:
    child = start(under_clock, seed, work, *arguments)
    child.hear()
    assert child.failure is None, child.failure
    return child.said


def _training(scene: Scene) -> str:
    world = make_world(scene.folder)
    folder = world.runs / "mine"
    first, second = _seeds(scene)
    kill(scene, usual_training()[0], under_clock, first, train, folder)
    scene.moment += ", the clock jumping"
    _to_the_end(second, train, folder)
    log = read_log(folder)
    assert log is not None
    assert log.seconds_a_step is None or log.seconds_a_step >= 0
    check_training(world, folder)
    return "the same weights"


def _writing(scene: Scene) -> str:
    world = make_world(scene.folder)
    folder = world.runs / "run"
    first, second = _seeds(scene)
    said = kill(scene, usual_writing()[0], under_clock, first, write_run, world.folder, folder)
    scene.moment += ", the clock jumping"
    if not (folder / "metrics.json").exists():
        said += _to_the_end(second, write_run, world.folder, folder)
    check_run(world, folder, kept=kept_of(said), whole=True)
    assert read_run(folder).manifest["seconds"] >= 0
    return "the same run"


def _converting(scene: Scene) -> str:
    world = make_world(scene.folder, package=True)
    first, second = _seeds(scene)
    kill(scene, usual_conversion()[0], under_clock, first, convert, world.folder)
    scene.moment += ", the clock jumping"
    _to_the_end(second, convert, world.folder)
    said = _to_the_end(first, convert, world.folder)
    assert said == ["converted"], f"converted again: {said}"
    assert (world.folder / "cache" / EMBEDDED).is_dir()
    check_cache(world)
    return "one cache, not made again"


def _queue(scene: Scene) -> str:
    world = make_world(scene.folder)
    seed, _ = _seeds(scene)
    scene.moment = "between jobs"
    with clock(seed):
        queue = Waiting(Path(world.runs))
        ids = [queue.submit("train", ["-m", "cgclora"], title=str(n)).id for n in range(5)]
        stopped = scene.random.choice(ids)
        queue.stop(stopped)
        queue.resume(stopped)
        jobs = {job.id: job for job in queue.all()}
        assert len(jobs) == len(set(ids)) == 5
        assert [job.id for job in queue.all()] == ids[::-1], "not the newest first"
        order = sorted(ids, key=lambda name: jobs[name].place)
    assert order == [*(name for name in ids if name != stopped), stopped], "not in their order"
    world.check()
    return "in their order"


KINDS = (
    Kind(FAULT, "training", 6, _training),
    Kind(FAULT, "writing a run", 6, _writing),
    Kind(FAULT, "converting the backbone", 6, _converting),
    Kind(FAULT, "a queue of jobs", 12, _queue),
)
