"""The tab of the leaderboards."""

WORDS: dict[str, tuple[str, str]] = {
    "tab leaderboard": ("排行榜", "Leaderboard"),
}
