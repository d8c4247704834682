"""A trial: what is tried, on which folder, and what came of it."""

from __future__ import annotations

import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory


@dataclass
class Scene:
    """Where a trial takes place.

    Attributes:
        folder: Its own; empty at first.
        random: Draws the moment.
        moment: What was drawn, in words; set by the trial before the fault.
    """

    folder: Path
    random: Random
    moment: str = ""


def _always() -> str:
    return ""


@dataclass(frozen=True)
class Kind:
    """One kind of trial.

    Attributes:
        fault: What is done, such as `kill -9`.
        work: What it is done to, such as `training`.
        share: Trials among those of the long form.
        run: Does it; returns what was found, and raises where something was lost.
        skipped: Why it cannot be tried on this machine; empty where it can.
    """

    fault: str
    work: str
    share: int
    run: Callable[[Scene], str]
    skipped: Callable[[], str] = field(default=_always)


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        fault: See `Kind`.
        work: See `Kind`.
        seed: Of the trial.
        moment: When the fault came, in words.
        found: What was found afterwards.
        problem: What was lost or went wrong; empty where nothing did.
    """

    fault: str
    work: str
    seed: int
    moment: str
    found: str
    problem: str = ""


def seed_of(kind: Kind, seed: int, number: int) -> int:
    """The seed of a kind's trial of some number, whichever other kinds are tried."""
    return zlib.crc32(f"{seed} {kind.fault} {kind.work} {number}".encode())


def attempt(kind: Kind, seed: int) -> Outcome:
    """One trial."""
    with TemporaryDirectory(prefix="fault-") as folder:
        scene = Scene(Path(folder), Random(seed))
        try:
            found, problem = kind.run(scene), ""
        except Exception:  # whatever it is, it is what the trial was made to find
            found, problem = "", traceback.format_exc(limit=-4)
    return Outcome(kind.fault, kind.work, seed, scene.moment, found, problem)
