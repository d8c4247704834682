"""What Gradio remembers of a page or a call, without what nothing here asks for.

A program's call is a page of its own to Gradio: thousands a day, and none says goodbye.
"""

from __future__ import annotations

from asyncio import Queue
from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio import state_holder
from gradio.utils import LRUCache

_LETTER_BOXES = 2000


class Session(state_holder.SessionState):
    """The state of one page.

    Gradio keeps a copy of what all components say to the browser, for links to a state of the
    page, of which there are none here (see `ui.guard`): 0.6 MB and 33 ms for each call.

    Args:
        blocks: The page.
    """

    def __init__(self, blocks: gr.Blocks) -> None:
        nothing_copied = SimpleNamespace(default_config=blocks.default_config, blocks=())
        super().__init__(nothing_copied)  # type: ignore[arg-type]


class LetterBoxes(LRUCache[str, Queue[Any]]):
    """What is said to pages and calls; what is said to one that has left goes nowhere.

    Gradio clears the box away first and ends the work afterwards, which may speak in between.
    """

    def __missing__(self, name: str) -> Queue[Any]:
        return Queue()


def remember_little(page: gr.Blocks) -> None:
    """From now on, in all pages of this process; `page` has a queue already."""
    state_holder.SessionState = Session  # type: ignore[misc]  # looked up by name
    page._queue.pending_messages_per_session = LetterBoxes(_LETTER_BOXES)
