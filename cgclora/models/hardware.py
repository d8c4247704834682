"""What this machine has: devices, number formats, free memory; and code compiled for it."""

import ctypes
import functools
import gc
import resource
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def choose_device(device: str) -> torch.device:
    """The device of that name; `auto` takes the first there is of CUDA, MPS, CPU.

    Raises:
        ValueError: There is no such device here.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(kind for kind, present in available.items() if present))
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{device!r} is no device: use auto, cpu, cuda or mps.") from error
    count = torch.cuda.device_count() if chosen.type == "cuda" else 1
    if not available.get(chosen.type) or (chosen.index or 0) >= count:
        raise ValueError(f"There is no device {device!r} here: use auto or cpu.")
    return chosen


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of that name; `auto` takes bfloat16 where the hardware computes in it.

    Raises:
        ValueError: No dtype that a backbone can be loaded in.
    """
    if dtype == "auto":
        return torch.bfloat16 if _computes_in_bfloat16(device) else torch.float32
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if chosen not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"{dtype!r} is no dtype: use auto, float32, bfloat16 or float16.")
    return chosen


class PeakMemory:
    """The most memory held from now on: on a CUDA device that of its tensors, else the process's.

    On Linux what was freed before is given back first; elsewhere the peak since the process began
    is all that the system knows.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            with suppress(OSError, AttributeError):  # not every libc can
                ctypes.CDLL(None).malloc_trim(0)
            with suppress(OSError):  # proc(5): 5 resets the peak resident set size
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def bytes(self) -> int:
        """The peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sizes := _bytes_in("/proc/self/status", "VmHWM:"):
            return sizes[0]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # kilobytes but on macOS


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    sizes = _bytes_in("/proc/meminfo", "MemAvailable:")
    limit, used, counts = (
        _read_text(f"/sys/fs/cgroup/memory.{name}").split() for name in ("max", "current", "stat")
    )
    if used and limit and limit[0].isdigit():  # a container's limit; its page cache can be had back
        cached = counts[counts.index("inactive_file") + 1] if "inactive_file" in counts else 0
        sizes.append(int(limit[0]) - int(used[0]) + int(cached))
    return min(sizes, default=None)


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware does; emulation is slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        try:
            torch.ones(1, device=device, dtype=torch.bfloat16)
        except (TypeError, RuntimeError):  # before macOS 14
            return False
        return True
    features = set(_read_text("/proc/cpuinfo").split())
    return not features.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})  # the last is ARM's name


def _bytes_in(path: str, name: str) -> list[int]:
    """The values in kilobytes under a name in a file of the system, in bytes."""
    lines = _read_text(path).splitlines()
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith(name)]


def _read_text(path: str) -> str:
    """A file's text; nothing where the system has no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class Compiled:
    """A function by `torch.compile`; the first failure gives a warning and ends the attempts.

    The function must set what it changes in place, not add to it, since a failed call is repeated.
    A backend of None compiles nothing; `dynamic` is as for `torch.compile`.
    """

    def __init__(
        self, function: Callable[..., Any], backend: str | None, *, dynamic: bool | None = None
    ) -> None:
        self._function = function
        self._compiled = (
            torch.compile(function, backend=backend, dynamic=dynamic) if backend else function
        )

    @property
    def is_compiled(self) -> bool:
        """Whether it is, as far as is known."""
        return self._compiled is not self._function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function; a lack of memory is raised, since without compiling it needs more."""
        if not self.is_compiled:
            return self._function(*arguments, **options)
        try:
            return self._compiled(*arguments, **options)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever is missing: a compiler, Triton, a kernel
            warn(f"torch.compile failed, so the work goes on without it: {error}")
            self._compiled = self._function
            return self._function(*arguments, **options)


FUSED: dict[str, str | None] = {"cuda": "inductor"}
"""Backend with which steps between products are compiled, by the device's type; elsewhere none."""


def fused(function: Callable[P, T]) -> Callable[P, T]:
    """A function of tensors, compiled on GPUs: one pass over memory where there would be many.

    To be used for element-wise chains without products, modules or state, so that the products stay
    those of the vendor's library. Compiled once for all sizes.
    """
    made: dict[object, Compiled] = {}  # by backend

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        kind = next(one.device.type for one in arguments if isinstance(one, torch.Tensor))
        backend = FUSED.get(kind)
        if backend is None:
            return function(*arguments, **options)
        if backend not in made:
            made[backend] = Compiled(function, backend, dynamic=True)
        result: T = made[backend](*arguments, **options)
        return result

    return call


def warn(words: str) -> None:
    """Warn of something that makes answers slower, in a line."""
    warnings.warn(" ".join(words.split())[:500], RuntimeWarning, stacklevel=3)
