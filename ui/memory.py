"""Memory that the C library keeps for later goes back to the machine.

Each batch has another shape, so what glibc keeps of the last one seldom fits the next. An engine
that 64 threads had asked held 2.3 GB afterwards, of which a trim gave 0.7 back.
"""

import ctypes
import sys
import threading
import time

_SECONDS = 15.0
_ARENA_MAX = -8  # malloc.h
_ARENAS = 2  # each thread that asks for memory would keep some of its own


def give_back_memory() -> None:
    """From now on, now and then; only glibc can."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "malloc_trim"):
        return
    library.mallopt(_ARENA_MAX, _ARENAS)

    def trim() -> None:
        while True:
            time.sleep(_SECONDS)
            library.malloc_trim(0)

    threading.Thread(target=trim, name="memory", daemon=True).start()
