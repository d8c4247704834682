"""Memory that is kept for later, and seldom fits what comes later, is kept in bounds.

Each batch has another shape. For each, torch compiles its bf16 products on CPUs anew, and keeps a
thousand of them: 110 comparisons of what-if took half a gigabyte for good. And glibc keeps what was
freed: an engine that 64 threads had asked held 2.3 GB afterwards, of which a trim gave 0.7 back.
"""

import ctypes
import sys
import threading
import time

from evals.jobs.processes import set_for_this_process

_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_KEPT = 128  # compiled products; a batch needs a dozen at a time, a training other shapes
_SECONDS = 15.0
_ARENA_MAX = -8  # malloc.h
_ARENAS = 2  # each thread that asks for memory would keep some of its own


def bound_memory() -> None:
    """From now on; to be called before torch is imported."""
    for cache in _CACHES:
        set_for_this_process(cache, str(_KEPT))
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "malloc_trim"):
        return
    library.mallopt(_ARENA_MAX, _ARENAS)

    def trim() -> None:
        while True:
            time.sleep(_SECONDS)
            library.malloc_trim(0)

    threading.Thread(target=trim, name="memory", daemon=True).start()
