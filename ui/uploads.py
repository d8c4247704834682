"""What a visitor may upload."""

from pathlib import Path

from cgclora.data import DataError
from ui.settings import Limits

_BLOCK = 1 << 20
_KINDS = (".jsonl", ".json")


def check_upload(path: Path, limits: Limits) -> None:
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
