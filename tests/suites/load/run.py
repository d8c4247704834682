"""Many users at once: `python -m tests.suites.load.run --users 64 --minutes 10 --json OUT`.

Starts the app. Each user asks one question after another, some leave in the middle, some move the
sliders of what-if meanwhile. Every answer is compared with what the same prompt gets alone; those
that differ are read again by `judge`, which tells rounding from an answer that belongs
to somebody else. Ends with 1 on a lost or mixed-up answer, a crash, work that goes on for nobody,
or memory that grows.
"""

import argparse
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, quantiles
from typing import Any

import httpx
from gradio_client import Client

from cgclora.models.backbone import EMBEDDED, load_backbone
from evals.tasks import TASKS
from evals.tasks.samples import load_samples
from tests.browser.app_server import ADAPTERS, Running, held, start, wait_until_ready
from tests.helpers.measured import conclude, stamp
from tests.suites.fuzz.run import wrong_inside
from tests.suites.load.judge import Judge
from tests.suites.load.prompt import Prompt
from tests.suites.load.users import Reply, Sliders, ask

GROWTH_BAR = 10.0
"""Most megabytes a minute that the process may grow by once it is warm."""

GAP_BAR = 0.5
"""Most nats between the likeliest token and the said one, for an answer to be its prompt's own."""

WARM_SECONDS = 120.0
QUIET_SECONDS = 15.0
"""Within so many seconds after the last user has left nothing is computed any more."""

SETTINGS = {
    "CGCLORA_MAX_PER_MINUTE": "999999",  # all users have one address here
    "CGCLORA_MAX_WAITING": "32",  # fewer than the users, so that some are refused
    "CGCLORA_ALLOW_JOBS": "0",
    "CGCLORA_JSON_LOG": "1",
}
"""In front of the defaults: visitors meet the same weights in few bits, so users do, too."""

_LEAVES = 0.1  # of all questions are given up
_LOOK_SECONDS = 2.0


@dataclass
class Seen:
    """What came of all questions.

    Attributes:
        counts: `own`, `lost`, `refused` and `left`, `moved` and `not moved`.
        apart: Answers that are not what their prompt gets alone: its place, and the text.
        seconds: That each answer took, its refusals included.
        memory: Seconds since the beginning and bytes held.
        alone: What each prompt gets when nobody else asks.
    """

    counts: Counter[str] = field(default_factory=Counter)
    apart: Counter[tuple[int, str]] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def shipped_prompts(clusters: Mapping[str, Sequence[str]], most: int = 2) -> list[Prompt]:
    """Our samples' prompts of all tasks of some clusters, so many of each."""
    samples = load_samples()
    return [
        Prompt(cluster, task, TASKS[task].prompt(sample.fields))
        for cluster, tasks in clusters.items()
        for task in tasks
        for sample in samples.get(task, [])[:most]
    ]


def load(
    app: Running, prompts: Sequence[Prompt], users: int, seconds: float, *, movers: int = 2
) -> tuple[Seen, dict[str, Any]]:
    """Let users ask for some time.

    Args:
        app: Who answers.
        prompts: What is asked.
        users: How many ask.
        seconds: How long.
        movers: How many more move sliders.

    Returns:
        What came of it, and how it ended: `quiet_after` seconds, None if that took too long.
    """
    with httpx.Client(base_url=app.address, timeout=300) as client:
        seen = Seen(alone=[_alone(client, prompt) for prompt in prompts])
    end, threads = threading.Event(), []
    begun = time.monotonic()

    def user(number: int) -> None:
        chance = random.Random(number)
        with httpx.Client(base_url=app.address, timeout=300) as client:
            while not end.is_set() and app.process.poll() is None:
                place = chance.randrange(len(prompts))
                leave = chance.uniform(0, 5) if chance.random() < _LEAVES else None
                started = time.monotonic()
                while (reply := ask(client, prompts[place], end, leave)).kind == "refused":
                    with seen.lock:
                        seen.counts["refused"] += 1
                    end.wait(reply.retry_after)
                    if end.is_set():
                        return
                _count(seen, reply, place, time.monotonic() - started)

    def mover(number: int) -> None:
        with Sliders(app.address, f"mover-{number}") as sliders:
            while not end.is_set() and app.process.poll() is None:
                said = sliders.move(random.Random(number).choice(prompts), end)
                with seen.lock:
                    seen.counts[said] += 1

    threads = [threading.Thread(target=user, args=(number,)) for number in range(users)]
    threads += [threading.Thread(target=mover, args=(number,)) for number in range(movers)]
    for thread in threads:
        thread.start()
    while (now := time.monotonic() - begun) < seconds and app.process.poll() is None:
        seen.memory.append((now, held(app.process.pid, "VmRSS") or 0))
        time.sleep(min(_LOOK_SECONDS, max(0.0, seconds - now)))
    end.set()  # those who wait leave
    for thread in threads:
        thread.join()
    return seen, {"prompts": len(prompts), "quiet_after": _quiet_after(app, time.monotonic())}


def _alone(client: httpx.Client, prompt: Prompt) -> str:
    reply = ask(client, prompt)
    assert reply.kind == "answer", reply
    return reply.answer


def _count(seen: Seen, reply: Reply, place: int, seconds: float) -> None:
    with seen.lock:
        if reply.kind != "answer":
            seen.counts[reply.kind] += 1
            return
        seen.seconds.append(seconds)
        if reply.answer == seen.alone[place]:
            seen.counts["own"] += 1
        else:
            seen.apart[place, reply.answer] += 1


def _quiet_after(app: Running, left: float) -> float | None:
    """Seconds until nobody waits and nothing is computed, from when the last user left."""
    while time.monotonic() - left < QUIET_SECONDS and app.process.poll() is None:
        before = _computed(app.process.pid)
        since = time.monotonic() - left
        time.sleep(1)
        waiting = httpx.get(f"{app.address}/ready", timeout=30).json()["waiting"]
        if waiting == 0 and _computed(app.process.pid) - before < 0.3:
            return round(since, 1)
    return None


def _computed(process: int) -> float:
    """Seconds that all cores together have worked for a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def exchanged(prompts: Sequence[Prompt], alone: Sequence[str]) -> Iterator[tuple[int, str]]:
    """For each place the answer to another prompt, of the same task if there is another one."""
    for place, (prompt, own) in enumerate(zip(prompts, alone, strict=True)):
        others = [
            (other.task != prompt.task, text)
            for other, text in zip(prompts, alone, strict=True)
            if text != own
        ]
        if others:
            yield place, min(others, key=lambda one: one[0])[1]


def report(
    seen: Seen,
    ended: Mapping[str, Any],
    prompts: Sequence[Prompt],
    gap: Callable[[Prompt, str], float],
    *,
    alive: bool,
    log: str,
) -> dict[str, Any]:
    """The measurement, as JSON values, with whether each bar was reached.

    Args:
        seen: What came of all questions.
        ended: How it ended, see `load`.
        prompts: What was asked.
        gap: How far a text is from what a prompt gets, see `Judge.gap`.
        alive: Whether the server was running at the end.
        log: What it said.
    """
    cuts = quantiles(seen.seconds, n=100) if len(seen.seconds) > 1 else [0.0] * 99
    warm = [(at / 60, held_now / 1e6) for at, held_now in seen.memory if at > WARM_SECONDS]
    slope = linear_regression(*zip(*warm, strict=True)).slope if len(warm) > 9 else None
    gaps = {(place, text): gap(prompts[place], text) for place, text in seen.apart}
    others = [gap(prompts[place], text) for place, text in exchanged(prompts, seen.alone)]
    close = {one: nats for one, nats in gaps.items() if nats <= GAP_BAR}
    strange = [[place, text] for place, text in gaps if (place, text) not in close]
    counts = {
        "own": seen.counts["own"],
        "close": sum(seen.apart[one] for one in close),
        "other": sum(seen.apart[place, text] for place, text in strange),
        "lost": seen.counts["lost"],
    }
    inside = wrong_inside(log)
    bars = {
        "nothing lost": counts["lost"] == 0,
        "nothing mixed up": counts["other"] == 0,
        "alive": alive,
        "nothing wrong inside": not inside,
        "quiet": ended["quiet_after"] is not None,
        "memory": slope is None or slope < GROWTH_BAR,
    }
    return {
        **ended,
        "answers": counts,
        "nats": {"close": max(close.values(), default=0.0), "bar": GAP_BAR},
        "exchanged": {"tried": len(others), "found": sum(nats > GAP_BAR for nats in others)},
        "refused": seen.counts["refused"],
        "left": seen.counts["left"],
        "slider moves": seen.counts["moved"],
        "slider moves refused": seen.counts["not moved"],
        "seconds": {f"p{cut}": round(cuts[cut - 1], 2) for cut in (50, 95, 99)},
        "memory": {
            "peak": max((held_now for _, held_now in seen.memory), default=0),
            "megabytes_a_minute": slope,
            "bar": GROWTH_BAR,
        },
        "inside": dict(inside),
        "strange": strange[:20],
        "reached": bars,
    }


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the report")
    options = parser.parse_args()
    stamped = stamp()
    with start(SETTINGS, tracebacks=None) as app:
        wait_until_ready(app)
        tasks = Client(app.address, verbose=False).predict(api_name="/tasks")["tasks"]
        clusters: dict[str, list[str]] = {}
        for task in tasks:
            clusters.setdefault(task["cluster"], []).append(task["name"])
        prompts = shipped_prompts(clusters)
        seen, ended = load(app, prompts, options.users, 60 * options.minutes)
        alive, log = app.process.poll() is None, app.log.read_text("utf-8", "replace")
    judge = Judge(load_backbone(EMBEDDED, int8=True), {name: ADAPTERS / name for name in clusters})
    found = {
        **stamped,
        "users": options.users,
        "minutes": options.minutes,
        "settings": SETTINGS,
        **report(seen, ended, prompts, judge.gap, alive=alive, log=log),
    }
    conclude(found, options.json)


if __name__ == "__main__":
    main()
