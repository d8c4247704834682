"""Rate limit per visitor."""

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
"""Beyond so many, visitors without a question in the last minute are dropped."""


class Rates:
    """Counts each visitor's questions within the last minute.

    Args:
        per_minute: Questions that are allowed.
        proxied: Whether a proxy names the client in `X-Forwarded-For`.
        clock: A monotonic clock in seconds.
    """

    def __init__(
        self,
        per_minute: int,
        *,
        proxied: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = per_minute
        self._proxied = proxied
        self._clock = clock
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def count(self, request: gr.Request) -> None:
        """Count a visitor's question.

        Raises:
            BusyError: The limit is reached; this question does not count.
        """
        visitor, now = self._visitor(request), self._clock()
        with self._lock:
            if len(self._times) >= _MOST_VISITORS:
                self._times = {
                    name: times for name, times in self._times.items() if now - times[-1] < _MINUTE
                }
            times = self._times.setdefault(visitor, deque())
            while times and now - times[0] >= _MINUTE:
                times.popleft()
            if len(times) >= self._limit:
                seconds = int(_MINUTE - (now - times[0])) + 1
                raise BusyError(
                    f"one visitor may ask {self._limit} questions a minute: ask again in "
                    f"{seconds} s."
                )
            times.append(now)

    def _visitor(self, request: gr.Request) -> str:
        """The client's address, as far as it is known."""
        if self._proxied:
            # Clients can forge the earlier entries: the proxy appends the last one.
            addresses = request.headers.get("x-forwarded-for", "").split(",")
            public = [address for address in map(str.strip, addresses) if _is_public(address)]
            if public:
                return public[-1]
        return request.client.host if request.client else ""


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
