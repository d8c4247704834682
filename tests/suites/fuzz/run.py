"""Calls that no page makes: `python -m tests.suites.fuzz.run --calls 20000 --json OUT`.

Starts the app with a tiny model and calls it in all wrong ways. The same seed makes the same calls,
though not in the same order. Ends with 1 if a bar is missed: nothing goes wrong inside, no reply
holds what a visitor must not see, the process lives on, answers rightly, and holds bounded memory.
"""

import argparse
import json
import os
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch

from tests.browser.app_server import ROOT, Running, held, start, wait_until_ready
from tests.helpers.measured import conclude, stamp
from tests.helpers.tiny import make_model, make_tokenizer
from tests.suites.fuzz.calls import TASKS, call
from tests.suites.fuzz.http import API, Call, Page
from tests.ui.test_app import save_adapter

SECRET = "a-secret-of-this-process-alone"
QUESTION = {"task": "NER", "prompt": "头痛和发热是感冒的常见症状。"}

GROWTH_BAR = 1_000_000_000
"""Most bytes that the process may hold more than before the first call, at any time."""

_ANSWERED = ("200", "302", "304", "307", "400", "403", "404", "405", "413", "422")
_ANSWERED += ("429", "503", "refused", "cut", "unsent")  # there is nobody to answer

_WORKERS = 4
_SECONDS = 60.0


@dataclass
class Found:
    """What came of the calls.

    Attributes:
        calls: How many of each kind.
        statuses: How many replies of each.
        failed: Calls whose reply says 500 or that got none, by what was called; their numbers.
        leaks: Calls whose reply held what it must not, in the same way.
    """

    calls: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    failed: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    leaks: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, number: int, made: Call, status: str, leaks: Sequence[str]) -> None:
        """Count a call."""
        self.calls[made.kind] += 1
        self.statuses[status] += 1
        if status not in _ANSWERED:
            self.failed[f"{made.kind}: {status}"].append(number)
        for leak in leaks:
            self.leaks[f"{made.kind}: {leak}"].append(number)


def run(app: Running, calls: int, seed: int, private: Mapping[str, str]) -> Found:
    """Make the calls, some at a time.

    Args:
        app: Who is called.
        calls: How many.
        seed: Decides which.
        private: What no reply may hold, by what it is.
    """
    page = Page.of(httpx.get(f"{app.address}/config", timeout=_SECONDS).json())
    found, numbers, lock = Found(), iter(range(calls)), threading.Lock()

    def work(worker: int) -> None:
        with httpx.Client(base_url=app.address, timeout=_SECONDS) as client:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None or app.process.poll() is not None:
                    return
                chance = random.Random(f"{seed} {number}")
                made = call(chance, page, _marker(worker))
                status, said = _send(client, app.address, made, f"fuzz-{seed}-{number}")
                leaks = _leaks(made, said, private, worker)
                with lock:
                    found.add(number, made, status, leaks)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(_WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _marker(worker: int) -> str:
    return f"visitor-{worker}-alone"


def _send(client: httpx.Client, address: str, made: Call, name: str) -> tuple[str, str]:
    """A reply's status, or why there is none; its headers and body with those of what follows."""
    headers = {**made.headers, "X-Request-ID": made.headers.get("X-Request-ID", name)}
    if made.cut:
        return _send_in_part(address, made, headers)
    try:
        silence = 1.0 if made.endless else _SECONDS
        status, said = _read(client, made.method, made.path, made.body, headers, silence)
        event = _event(said) if made.follow and status == "200" else None
        if event is not None:
            _, more = _read(client, "GET", made.follow.replace("{}", event), b"", headers, _SECONDS)
            said += more
    except httpx.LocalProtocolError:  # nothing that a client of this kind could send
        return "unsent", ""
    except httpx.TransportError as error:
        return type(error).__name__, repr(error)
    # Gradio answers with 500 to an event, too, whose handler refused: it says why.
    return "refused" if status == "500" and '"error":"' in said else status, said


def _read(
    client: httpx.Client,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    silence: float,
) -> tuple[str, str]:
    """Status, and headers and body as far as they come before the reply falls silent.

    Only once it has begun: a server with much to do may take longer to begin.
    """
    with client.stream(method, path, content=body or None, headers=headers) as reply:
        reply.request.extensions["timeout"]["read"] = silence  # of the parts that follow
        said = bytearray(repr(reply.headers).encode())
        with suppress(httpx.ReadTimeout):
            for chunk in reply.iter_bytes():
                said += chunk
    return str(reply.status_code), said.decode("utf-8", "replace")


def _event(said: str) -> str | None:
    found = re.search(r'"event_id":"(\w+)"', said)
    return found[1] if found else None


def _send_in_part(address: str, made: Call, headers: Mapping[str, str]) -> tuple[str, str]:
    """The same by a line that goes dead before all is sent."""
    host, port = address.removeprefix("http://").split(":")
    lines = [f"{made.method} {made.path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name != "Host"]
    lines.append(f"Content-Length: {len(made.body) + made.cut}")
    with socket.create_connection((host, int(port)), timeout=_SECONDS) as line:
        line.sendall("\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + made.body)
    return "cut", ""


def _leaks(made: Call, said: str, private: Mapping[str, str], worker: int) -> list[str]:
    """What a reply holds that it must not; what the call itself said is no secret."""
    asked = made.path + made.body.decode("utf-8", "replace") + repr(made.headers)
    others = {f"text of visitor {n}": _marker(n) for n in range(_WORKERS) if n != worker}
    return [
        name
        for name, words in {**private, **others}.items()
        if words in said and words not in asked
    ]


# The log ---------------------------------------------------------------------------------------

_PLACE = re.compile(r'File ".*?([^/]+/[^/]+\.py)", line \d+, in (\S+)')

_WRONG = ("error", "critical")


def wrong_inside(log: str) -> Counter[str]:
    """Tracebacks and errors in a server's log, by where they arose."""
    found: Counter[str] = Counter()
    for block in log.split("Traceback (most recent call last):")[1:]:
        last = next((line for line in block.splitlines()[1:] if line and line[0] != " "), "")
        places = [" ".join(place) for place in _PLACE.findall(block.partition(last)[0])]
        found[f"{last.partition(':')[0]} at {(places or ['?'])[-1]}"] += 1
    for line in log.splitlines():
        if line.startswith('{"time"') and (said := json.loads(line))["level"] in _WRONG:
            found[f"{said['event'][:200]} at {(said.get('at') or ['?'])[-1]}"] += 1
    return found


# The server ------------------------------------------------------------------------------------


@contextmanager
def serving(
    others: Mapping[str, str] | None = None,
) -> Iterator[tuple[Running, dict[str, str]]]:
    """The app with a tiny model, as the public meets it; with what no reply may hold.

    Args:
        others: More of its environment.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model("qwen2").to(torch.bfloat16).save_pretrained(folder / "backbone")
        make_tokenizer().save_pretrained(folder / "backbone")
        save_adapter(folder / "adapters" / "general", TASKS)
        settings = {
            "CGCLORA_ADAPTERS": str(folder / "adapters"),
            "CGCLORA_BACKBONE": str(folder / "backbone"),
            "CGCLORA_RUNS": str(folder / "runs"),
            "CGCLORA_ALLOW_JOBS": "0",
            "CGCLORA_END_JOBS": "1",  # a call may start an export, which writes to the folder
            "CGCLORA_JSON_LOG": "1",
            "CGCLORA_MAX_PER_MINUTE": "999999",
            "CGCLORA_MAX_ANSWER_TOKENS": "8",
            "GRADIO_TEMP_DIR": str(folder / "uploads"),
            "OMP_NUM_THREADS": "1",
            "CGCLORA_TEST_SECRET": SECRET,
            **(others or {}),
        }
        private = {
            "the environment": SECRET,
            "the adapters' folder": settings["CGCLORA_ADAPTERS"],
            "the backbone's folder": settings["CGCLORA_BACKBONE"],
            "the runs' folder": settings["CGCLORA_RUNS"],
            "the project's folder": str(ROOT),
            "Python's folder": sys.prefix,
            "the home folder": str(Path.home()) + os.sep,
            "app.py": "splash = SplashPage()",
            "/etc/passwd": "root:x:0:0",
        }
        with start(settings, tracebacks=None) as app:
            wait_until_ready(app)
            yield app, private


def _answer(address: str) -> str:
    said = httpx.post(f"{address}{API}/call/v2/generate", json=QUESTION, timeout=_SECONDS).text
    path = f"{address}{API}/call/generate/{_event(said)}"
    reply = httpx.get(path, timeout=_SECONDS).text
    found = re.search(r"event: complete\ndata: (.+)", reply)
    return str(json.loads(found[1])[0]["answer"]) if found else reply


def measure(calls: int, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """All of it, as JSON values.

    Args:
        calls: How many.
        seed: Decides which.
        keep: Where the server's log is kept.
    """
    with serving() as (app, private):
        right = _answer(app.address)
        before = held(app.process.pid, "VmRSS") or 0
        started = time.monotonic()
        found = run(app, calls, seed, private)
        seconds = time.monotonic() - started
        alive = app.process.poll() is None
        same = alive and _answer(app.address) == right
        after, peak = (held(app.process.pid, what) or 0 for what in ("VmRSS", "VmHWM"))
        log = app.log.read_text("utf-8", "replace")
    if keep:
        keep.write_text(log, "utf-8")
    inside = wrong_inside(log)
    return {
        "calls": sum(found.calls.values()),
        "seed": seed,
        "seconds": round(seconds, 1),
        "kinds": dict(found.calls.most_common()),
        "statuses": dict(found.statuses.most_common()),
        "failed": found.failed,
        "leaks": found.leaks,
        "inside": dict(inside.most_common()),
        "memory": {"before": before, "after": after, "peak": peak, "bar": GROWTH_BAR},
        "reached": {
            "all answered": not found.failed and sum(found.calls.values()) == calls,
            "no leaks": not found.leaks and SECRET not in log,
            "nothing wrong inside": not inside,
            "alive": alive,
            "answers rightly": same,
            "memory": peak - before < GROWTH_BAR,
        },
    }


def main() -> None:
    """Call as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the report")
    parser.add_argument("--log", type=Path, metavar="OUT", help="where to keep the server's log")
    options = parser.parse_args()
    stamped = stamp()
    conclude({**stamped, **measure(options.calls, options.seed, options.log)}, options.json)


if __name__ == "__main__":
    main()
