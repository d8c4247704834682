"""Where the server's files lie, as strangers may know it."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def shown_place(place: str | Path) -> str:
    """A folder's way from the project's, or its name alone where it lies elsewhere.

    Args:
        place: Absolute, or anything else, such as a hub id, which stays as it is.
    """
    path = Path(place)
    if not path.is_absolute():
        return str(place)
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path.name)
