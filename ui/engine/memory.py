"""Bounds on the memory that torch and the allocator keep.

Each batch has another shape, for which torch compiles its bf16 products on CPUs and caches a
thousand of them: 110 what-if comparisons took half a gigabyte. glibc keeps freed memory: an engine
that was called from 64 threads held 2.3 GB afterwards, of which a trim released 0.7.
"""

import ctypes
import sys
import threading
import time

from evals.jobs.processes import set_for_this_process

_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_CACHED_PRODUCTS = 128  # a batch needs a dozen at a time
_TRIM_SECONDS = 15.0
_ARENA_MAX = -8  # malloc.h
_ARENAS = 2  # every thread that allocates would otherwise get one of its own


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
