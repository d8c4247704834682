"""What each open page shows, as the server knows it: who may still write on the page."""

import itertools
import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

View = TypeVar("View")


@dataclass(frozen=True)
class Shown(Generic[View]):
    """The newest thing on one page.

    Attributes:
        ticket: Its number; no two are the same.
        view: How far it has come.
        busy: Whether it goes on.
    """

    ticket: int
    view: View
    busy: bool


class Visits(Generic[View]):
    """The open pages by session. On each page the newest thing alone may go on."""

    def __init__(self) -> None:
        self._shown: dict[str, Shown[View]] = {}
        self._tickets = itertools.count(1)
        self._lock = threading.Lock()

    def begin(self, session: str, view: View, *, busy: bool) -> int:
        """Show something new and return its ticket; those given before are out of date."""
        with self._lock:
            ticket = next(self._tickets)
            self._shown[session] = Shown(ticket, view, busy)
            return ticket

    def go_on(self, session: str, ticket: int, view: View, *, busy: bool) -> bool:
        """Show more of the same, unless the ticket is out of date; returns whether it is not."""
        with self._lock:
            if not self.is_newest(session, ticket):
                return False
            self._shown[session] = Shown(ticket, view, busy)
            return True

    def is_newest(self, session: str, ticket: int) -> bool:
        """Whether nothing has begun since on a page that is still open."""
        shown = self._shown.get(session)
        return shown is not None and shown.ticket == ticket

    def shown(self, session: str) -> Shown[View] | None:
        """What the page shows; None before it shows anything."""
        return self._shown.get(session)

    def forget(self, session: str) -> None:
        """The page is closed."""
        with self._lock:
            self._shown.pop(session, None)
