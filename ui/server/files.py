"""Files of visitors and of the server: limits on uploads, and paths as visitors may see them."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from starlette.types import Message, Receive

from cgclora.data.records import DataError
from cgclora.data.sources import FOLDER_VARIABLE
from ui.engine.settings import AppLimits

PROJECT = Path(__file__).resolve().parents[2]

_BLOCK = 1 << 20
_KINDS = (".jsonl", ".json")
_HOUR = 3600.0


class UploadQuota:
    """Limits the bytes of all uploads within an hour: many small files would fill the disk, too."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._uploads: deque[tuple[float, int]] = deque()  # time and bytes
        self._total = 0

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached until older uploads are an hour old."""
        while self._uploads and self._clock() - self._uploads[0][0] >= _HOUR:
            self._total -= self._uploads.popleft()[1]
        return self._total >= self._limit

    def counted(self, receive: Receive) -> Receive:
        """A request body that is counted as it arrives; beyond the limit it is disconnected."""

        async def next_message() -> Message:
            message = await receive()
            if size := len(message.get("body", b"")):
                self._uploads.append((self._clock(), size))
                self._total += size
            return {"type": "http.disconnect"} if self.is_full else message

        return next_message


def check_upload(path: Path, limits: AppLimits) -> None:
    """Refuse a file that is too large to be read while others wait.

    Raises:
        DataError: It is gone, of another kind, or larger or longer than the limits allow.
        OSError: It cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path.name} is no longer on the server: upload it again.")
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


def public_path(path: str | Path) -> str:
    """An absolute path relative to the project, or its last part if it lies elsewhere.

    Anything else, such as a hub id, stays as it is.
    """
    absolute = Path(path)
    if not absolute.is_absolute():
        return str(path)
    is_inside = absolute.is_relative_to(PROJECT)
    return str(absolute.relative_to(PROJECT) if is_inside else absolute.name)


def without_folders(message: str, uploads: Iterable[Path]) -> str:
    """An error message without the server's folders: uploads and data folder by name alone."""
    for upload in uploads:
        message = message.replace(f"{upload.parent}{os.sep}", "")
    data = os.environ.get(FOLDER_VARIABLE)
    return message.replace(data, FOLDER_VARIABLE) if data else message
