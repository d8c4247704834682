"""The tab that starts evaluations."""

WORDS: dict[str, tuple[str, str]] = {
    "tab benchmark": ("评测", "Benchmark"),
}
