"""The tab that trains adapters."""

WORDS: dict[str, tuple[str, str]] = {
    "tab train": ("训练", "Train"),
}
