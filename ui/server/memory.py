"""Bounds on the memory that Gradio keeps.

To Gradio every call of a program is a page of its own, thousands a day, which never closes.
"""

from asyncio import Queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeVar

import gradio as gr
from gradio import state_holder
from gradio.utils import LRUCache

T = TypeVar("T")

_SESSIONS = 2000


def bound_sessions(page: gr.Blocks) -> None:
    """Limit what Gradio keeps of sessions, in this process; the page has a queue already."""
    state_holder.SessionState = SmallSession  # type: ignore[misc]  # looked up by name
    page._queue.pending_messages_per_session = RecentSessions(Queue)
    page._queue.pending_event_ids_session = RecentSessions(set)


class SmallSession(state_holder.SessionState):
    """The state of one session.

    Gradio copies the configuration of all components for links to a state of the page, which
    `ui.server.guard` switches off: 0.6 MB and 33 ms for each call.
    """

    def __init__(self, blocks: gr.Blocks) -> None:
        nothing_copied = SimpleNamespace(default_config=blocks.default_config, blocks=())
        super().__init__(nothing_copied)  # type: ignore[arg-type]


class RecentSessions(LRUCache[str, T]):
    """Values of the most recently used sessions; others have an empty value that is not stored.

    Gradio removes the values of a closed page and ends its events afterwards, which may still
    write to them.
    """

    def __init__(self, empty: Callable[[], T]) -> None:
        super().__init__(_SESSIONS)
        self._empty = empty

    def __getitem__(self, name: str) -> T:
        if name in self:
            self.move_to_end(name)
        return super().__getitem__(name)

    def __missing__(self, name: str) -> T:
        return self._empty()
