"""How often one visitor may ask."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import deque
from collections.abc import Callable

import gradio as gr

from ui.engine.client import BusyError

_MINUTE = 60.0
_MOST_VISITORS = 10_000
"""So many are remembered before those who asked nothing for a minute are forgotten."""


class Rates:
    """Counts the questions of each visitor within the last minute.

    Args:
        per_minute: Most questions.
        proxied: Whether a proxy says whose a request is, in `X-Forwarded-For`.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        per_minute: int,
        *,
        proxied: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = per_minute
        self._proxied = proxied
        self._clock = clock
        self._asked: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def count(self, request: gr.Request) -> None:
        """Count a visitor's question.

        Raises:
            BusyError: The visitor has asked too much; this one does not count.
        """
        visitor, now = self._visitor(request), self._clock()
        with self._lock:
            if len(self._asked) >= _MOST_VISITORS:
                self._asked = {
                    name: times for name, times in self._asked.items() if now - times[-1] < _MINUTE
                }
            times = self._asked.setdefault(visitor, deque())
            while times and now - times[0] >= _MINUTE:
                times.popleft()
            if len(times) >= self._most:
                seconds = int(_MINUTE - (now - times[0])) + 1
                raise BusyError(
                    f"{self._most} questions within a minute are as many as one visitor may ask: "
                    f"ask again in {seconds} s."
                )
            times.append(now)

    def _visitor(self, request: gr.Request) -> str:
        """Whose request it is, as far as can be told."""
        if self._proxied:
            # The proxy adds to what the visitor sent, which may be made up: the last one counts.
            said = request.headers.get("x-forwarded-for", "").split(",")
            public = [one for one in map(str.strip, said) if _is_public(one)]
            if public:
                return public[-1]
        return request.client.host if request.client else ""


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
