"""Put faults in and see what is lost: `python -m tests.suites.faults --trials 200 --json OUT`.

Kills, full disks, damage, second processes, wrong clocks. Every trial works on a folder of its own
that holds what was committed before: two adapters and a scored run. A fault comes at a moment drawn
with the trial's seed. Afterwards nothing that was committed may be missing or changed, the app's
engine starts, the leaderboard shows the other runs and names a damaged one, and the interrupted
work goes on to the result of work that was not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
# What a killed process leaves is cleared away in the end, and need not be told.
os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"

from cgclora.storage import provenance
from cgclora.storage.atomic_io import write_json
from tests.helpers.measured import stamp
from tests.suites.faults import clocks, damage, full_disk, kills, together
from tests.suites.faults.scene import Kind, Outcome, attempt, seed_of

KINDS: tuple[Kind, ...] = (
    *kills.KINDS,
    *full_disk.KINDS,
    *damage.KINDS,
    *together.KINDS,
    *clocks.KINDS,
)
"""All that is tried."""

LONG = 200
"""Kills of the long form; the other faults come in proportion."""


def trials(kinds: Sequence[Kind], most: int, seed: int) -> Iterator[tuple[Kind, int]]:
    """Each trial's kind and seed.

    Args:
        kinds: What to try.
        most: Kills in all.
        seed: Of all draws.
    """
    for kind in kinds:
        for number in range(max(1, round(kind.share * most / LONG))):
            yield kind, seed_of(kind, seed, number)


def table(kinds: Sequence[Kind], outcomes: Sequence[Outcome]) -> str:
    """A line for each kind: its trials, how many lost nothing, and what was found."""
    lines = [f"{'fault':<16} {'of':<32} {'trials':>6} {'passed':>6}  found"]
    for kind in kinds:
        own = [one for one in outcomes if (one.fault, one.work) == (kind.fault, kind.work)]
        passed = [one for one in own if not one.problem]
        counts = Counter(one.found for one in passed).most_common()
        found = ", ".join(f"{count} {name}" for name, count in counts)
        found = found or kind.skipped() or "-"
        lines.append(f"{kind.fault:<16} {kind.work:<32} {len(own):>6} {len(passed):>6}  {found}")
    return "\n".join(lines)


def verdict(outcomes: Sequence[Outcome]) -> str:
    """The one line that counts."""
    passed = sum(not one.problem for one in outcomes)
    what = "nothing lost" if passed == len(outcomes) else "SOMETHING WAS LOST in the others"
    return f"{passed} of {len(outcomes)} trials: {what}"


def report(
    kinds: Sequence[Kind], outcomes: Sequence[Outcome], seed: int, seconds: float
) -> dict[str, Any]:
    """The outcomes with what they were found on."""
    return {
        **stamp(),
        "seed": seed,
        "seconds": round(seconds),
        "skipped": [
            {"fault": kind.fault, "work": kind.work, "reason": reason}
            for kind in kinds
            if (reason := kind.skipped())
        ],
        "trials": len(outcomes),
        "passed": sum(not one.problem for one in outcomes),
        "outcomes": [asdict(one) for one in outcomes],
    }


def main() -> int:
    """Try as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites.faults", description=__doc__)
    parser.add_argument(
        "--trials", type=int, default=LONG, help="kills; the other faults come in proportion"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--only", default="", help="part of a fault's or a work's name")
    parser.add_argument(
        "--again", type=int, metavar="SEED", help="one trial by its own seed; needs --only"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the report")
    options = parser.parse_args()
    provenance.commit()
    kinds = [one for one in KINDS if options.only in f"{one.fault}, {one.work}"]
    possible = [one for one in kinds if not one.skipped()]
    if options.again is None:
        planned = list(trials(possible, options.trials, options.seed))
    else:
        planned = [(kind, options.again) for kind in possible]
    began, outcomes = time.monotonic(), []
    for place, (kind, seed) in enumerate(planned, start=1):
        outcomes.append(attempt(kind, seed))
        if problem := outcomes[-1].problem:
            print(f"{outcomes[-1]}\n{problem}", flush=True)
            print(f'again: --only "{kind.fault}, {kind.work}" --again {seed}', flush=True)
        if sys.stderr.isatty():
            print(f"\r{place} of {len(planned)}", end="", file=sys.stderr, flush=True)
    if options.json:
        seconds = time.monotonic() - began
        write_json(options.json, report(kinds, outcomes, options.seed, seconds))
    print(table(kinds, outcomes))
    print(verdict(outcomes))
    return int(any(one.problem for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
