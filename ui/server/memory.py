"""Bounds on the memory that torch, the allocator and Gradio keep.

Each batch has another shape, for which torch compiles its bf16 products on CPUs and caches a
thousand of them: 110 what-if comparisons took half a gigabyte. glibc keeps freed memory: an engine
that was called from 64 threads held 2.3 GB afterwards, of which a trim released 0.7. And to Gradio
every call of a program is a page of its own, thousands a day, which never closes.
"""

import ctypes
import sys
import threading
import time
from asyncio import Queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeVar

import gradio as gr
from gradio import state_holder
from gradio.utils import LRUCache

from evals.jobs.processes import set_for_this_process

T = TypeVar("T")

_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_CACHED_PRODUCTS = 128  # a batch needs a dozen at a time
_TRIM_SECONDS = 15.0
_ARENA_MAX = -8  # malloc.h
_ARENAS = 2  # every thread that allocates would otherwise get one of its own
_SESSIONS = 2000


def bound_memory() -> None:
    """Limit torch's caches and return freed memory; to be called before torch is imported."""
    for cache in _CACHES:
        set_for_this_process(cache, str(_CACHED_PRODUCTS))
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "malloc_trim"):
        return
    library.mallopt(_ARENA_MAX, _ARENAS)

    def trim() -> None:
        while True:
            time.sleep(_TRIM_SECONDS)
            library.malloc_trim(0)

    threading.Thread(target=trim, name="memory", daemon=True).start()


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
