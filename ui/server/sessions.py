"""What Gradio remembers of a page or a call, without what nothing here asks for.

A program's call is a page of its own to Gradio: thousands a day, and none says goodbye.
"""

from __future__ import annotations

from asyncio import Queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeVar

import gradio as gr
from gradio import state_holder
from gradio.utils import LRUCache

T = TypeVar("T")

_RECENT = 2000


class Session(state_holder.SessionState):
    """The state of one page.

    Gradio keeps a copy of what all components say to the browser, for links to a state of the
    page, of which there are none here (see `ui.server.guard`): 0.6 MB and 33 ms for each call.

    Args:
        blocks: The page.
    """

    def __init__(self, blocks: gr.Blocks) -> None:
        nothing_copied = SimpleNamespace(default_config=blocks.default_config, blocks=())
        super().__init__(nothing_copied)  # type: ignore[arg-type]


class Recent(LRUCache[str, T]):
    """What is kept of the pages and calls that were spoken of last.

    Of any other there is something empty, which is not kept: Gradio clears away what it has of a
    page that has left and ends the page's work afterwards, which may speak in between.

    Args:
        empty: Makes it.
    """

    def __init__(self, empty: Callable[[], T]) -> None:
        super().__init__(_RECENT)
        self._empty = empty

    def __getitem__(self, name: str) -> T:
        if name in self:
            self.move_to_end(name)
        return super().__getitem__(name)

    def __missing__(self, name: str) -> T:
        return self._empty()


def remember_little(page: gr.Blocks) -> None:
    """From now on, in all pages of this process; `page` has a queue already."""
    state_holder.SessionState = Session  # type: ignore[misc]  # looked up by name
    page._queue.pending_messages_per_session = Recent(Queue)
    page._queue.pending_event_ids_session = Recent(set)
