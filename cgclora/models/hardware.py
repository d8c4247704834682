"""What this machine has: devices, the number formats that they compute in, free memory."""

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def choose_device(device: str) -> torch.device:
    """The device of that name; `auto` takes the first there is of CUDA, MPS, CPU.

    Raises:
        ValueError: There is no such device here.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{device!r} is no device: use auto, cpu, cuda or mps.") from error
    count = torch.cuda.device_count() if chosen.type == "cuda" else 1
    if not there.get(chosen.type) or (chosen.index or 0) >= count:
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
        if found := _bytes_in("/proc/self/status", "VmHWM:"):
            return found[0]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # kilobytes but on macOS


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = _bytes_in("/proc/meminfo", "MemAvailable:")
    limit, used, counts = (
        _read_text(f"/sys/fs/cgroup/memory.{name}").split() for name in ("max", "current", "stat")
    )
    if used and limit and limit[0].isdigit():  # a container's limit; its page cache can be had back
        cached = counts[counts.index("inactive_file") + 1] if "inactive_file" in counts else 0
        found.append(int(limit[0]) - int(used[0]) + int(cached))
    return min(found, default=None)


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware does; emulation is slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return _mps_knows_bfloat16(device)
    features = set(_read_text("/proc/cpuinfo").split())
    return not features.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})  # the last is ARM's name


def _mps_knows_bfloat16(device: torch.device) -> bool:
    try:
        torch.ones(1, device=device, dtype=torch.bfloat16)
    except (TypeError, RuntimeError):  # before macOS 14
        return False
    return True


def _bytes_in(path: str, name: str) -> list[int]:
    """What a file of the system says in kilobytes under a name; nothing if it does not."""
    lines = _read_text(path).splitlines()
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith(name)]


def _read_text(path: str) -> str:
    """A file's text; nothing where the system has no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
