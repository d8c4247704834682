"""What a user of `run` does: asks by the named endpoint, or moves the page's sliders."""

import json
import re
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from tests.suites.load.prompt import Prompt

_API = "/gradio_api"
_RETRY = 2.0  # seconds, where a refusal does not say
_PATIENCE = 300.0
_EXTREMES = (0.0, 2.0)


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        kind: `answer`, `refused`, `left` or `lost`.
        answer: The answer's text, or why there is none.
        retry_after: Seconds after which a refusal says to ask again.
    """

    kind: str
    answer: str = ""
    retry_after: float = _RETRY


def ask(
    client: httpx.Client,
    asked: Prompt,
    end: threading.Event | None = None,
    leave: float | None = None,
) -> Reply:
    """Ask, and read the stream until the answer is there.

    Args:
        client: Of the user.
        asked: The question.
        end: Once set, the user hangs up.
        leave: The user hangs up after so many seconds.
    """
    data = [asked.task, asked.prompt, asked.cluster, False]
    joined = client.post(f"{_API}/call/generate", json={"data": data})
    if joined.status_code == 503:
        return Reply("refused", joined.text, float(joined.headers["retry-after"]))
    if joined.status_code != 200:
        return Reply("lost", joined.text)
    path = f"{_API}/call/generate/{joined.json()['event_id']}"
    # Silent until the answer is there: whoever wants to leave must look up in time.
    patience = httpx.Timeout(_PATIENCE, read=leave or _PATIENCE)
    try:
        with client.stream("GET", path, timeout=patience) as stream:
            return _read(stream, end, None if leave is None else time.monotonic() + leave)
    except httpx.ReadTimeout:
        return Reply("left" if leave is not None else "lost", "timeout")
    except httpx.TransportError as error:
        return Reply("lost", repr(error))


def _read(stream: httpx.Response, end: threading.Event | None, until: float | None) -> Reply:
    event = ""
    for line in stream.iter_lines():
        if (end and end.is_set()) or (until and time.monotonic() > until):
            return Reply("left")
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif event == "complete":
            return Reply("answer", json.loads(line.removeprefix("data: "))[0]["answer"])
        elif event == "error":
            return _refused(line.removeprefix("data: "))
    return Reply("lost", "the stream ended")


def _refused(data: str) -> Reply:
    said = json.loads(data)
    words = (said or {}).get("error") if isinstance(said, dict) else None
    if not words:
        return Reply("lost", data)
    after = re.search(r"in (\d+) s", words)
    return Reply("refused", words, float(after[1]) if after else _RETRY)


class Sliders:
    """A page whose sliders of what-if are moved from one end to the other.

    Args:
        address: Of the app.
        session: Of the page.
    """

    def __init__(self, address: str, session: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=300)
        self._session = session
        config = self._client.get("/config").json()
        kinds = {one["id"]: one["type"] for one in config["components"]}
        events = {one["api_name"]: one for one in config["dependencies"]}
        self._compute = events["compute"]
        self._count = sum(kinds[one] == "slider" for one in self._compute["inputs"])
        wanted = self._compute["inputs"][-self._count :]
        self._begin = next(
            one
            for one in config["dependencies"]
            if one["inputs"] == wanted and self._compute["inputs"][0] in one["outputs"]
        )
        self._moves = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def move(self, asked: Prompt, end: threading.Event) -> str:
        """Move all sliders and wait for the comparison; `moved`, or `not moved` if refused."""
        self._moves += 1
        factors = [_EXTREMES[(place + self._moves) % 2] for place in range(self._count)]
        begun = self._send("run/predict", self._begin, factors)
        ticket = begun["data"][self._begin["outputs"].index(self._compute["inputs"][0])]
        values = [ticket, asked.cluster, asked.task, asked.prompt, self._moves % 3 == 0, *factors]
        if "event_id" not in self._send("queue/join", self._compute, values):
            end.wait(_RETRY)
            return "not moved"
        path = f"{_API}/queue/data?session_hash={self._session}"
        with self._client.stream("GET", path) as stream:
            for line in stream.iter_lines():
                said = json.loads(line.removeprefix("data: ")) if line else {}
                if said.get("msg") == "process_completed":
                    return "moved" if said["success"] else "not moved"
                if end.is_set():
                    break
        return "not moved"

    def _send(self, where: str, event: dict[str, Any], values: list[Any]) -> dict[str, Any]:
        body = {"data": values, "fn_index": event["id"], "session_hash": self._session}
        told: dict[str, Any] = self._client.post(f"{_API}/{where}", json=body).json()
        return told
