"""What each open page shows, so that outdated events no longer write to it."""

import itertools
import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

View = TypeVar("View")


@dataclass(frozen=True)
class Shown(Generic[View]):
    """What the newest event shows on one page."""

    ticket: int  # unique number of the event
    view: View  # what is shown
    busy: bool  # whether the event continues


class PageSessions(Generic[View]):
    """Open pages by session id; on each page only the newest event may continue."""

    def __init__(self) -> None:
        self._shown: dict[str, Shown[View]] = {}
        self._tickets = itertools.count(1)
        self._lock = threading.Lock()

    def begin(self, session: str, view: View, *, busy: bool) -> int:
        """Show something new and return its ticket; earlier tickets become outdated."""
        with self._lock:
            ticket = next(self._tickets)
            self._shown[session] = Shown(ticket, view, busy)
            return ticket

    def update(self, session: str, ticket: int, view: View, *, busy: bool) -> bool:
        """Show more of the same event; returns False if its ticket is outdated."""
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
