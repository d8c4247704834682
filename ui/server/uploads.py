"""What a visitor may upload, and how much all of them together."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from starlette.types import Message, Receive

from cgclora.data.records import DataError
from ui.engine.settings import AppLimits

_BLOCK = 1 << 20
_KINDS = (".jsonl", ".json")
_HOUR = 3600.0


class Quota:
    """Counts what was uploaded within the last hour, lest many small files fill the disk.

    Args:
        most: Bytes.
        clock: Seconds that never go back.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._came: deque[tuple[float, int]] = deque()
        self._sum = 0

    @property
    def is_full(self) -> bool:
        """Whether there is no room before something is an hour old."""
        while self._came and self._clock() - self._came[0][0] >= _HOUR:
            self._sum -= self._came.popleft()[1]
        return self._sum >= self._most

    def counted(self, receive: Receive) -> Receive:
        """A body as it comes; the line is dead where there is no more room."""

        async def next_message() -> Message:
            message = await receive()
            if size := len(message.get("body", b"")):
                self._came.append((self._clock(), size))
                self._sum += size
            return {"type": "http.disconnect"} if self.is_full else message

        return next_message


def check_upload(path: Path, limits: AppLimits) -> None:
    """Refuse a file that is too much to be read while others wait.

    Raises:
        DataError: It is gone, of another kind, or larger or longer than the limits allow.
        OSError: It cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path.name} is not there any more: upload it again.")
    if path.suffix.lower() not in _KINDS:
        raise DataError(f"{path.name}: upload a file that ends in {' or '.join(_KINDS)}.")
    size = path.stat().st_size
    if size > limits.upload_mb * 1_000_000:
        raise DataError(
            f"{path.name} has {size / 1e6:.0f} MB, at most {limits.upload_mb} are read here: "
            "upload a part of it."
        )
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))
    if lines > limits.upload_lines:
        raise DataError(
            f"{path.name} has {lines} lines, at most {limits.upload_lines} are read here: upload "
            "a part of it."
        )
