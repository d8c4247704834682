"""The tab that explains the method and this installation."""

WORDS: dict[str, tuple[str, str]] = {
    "tab about": ("关于", "About"),
}
