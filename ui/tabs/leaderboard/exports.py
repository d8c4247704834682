"""What a visitor takes away from the board: files, a picture, a citation."""

import json
from typing import Any

import gradio as gr

from evals.leaderboard.exports import board_as_json, board_csv
from evals.leaderboard.run_sources import Library
from ui.components.html import block
from ui.components.texts import language_of
from ui.shell import AT_ONCE
from ui.tabs.leaderboard import sharing
from ui.tabs.leaderboard.layout import (
    SAVE,
    SAVE_PICTURE,
    WITH_ADDRESS,
    LeaderboardLayout,
)
from ui.tabs.leaderboard.query import Query, run_query


class Exports:
    """The events of the buttons below the board."""

    def __init__(self, tab: LeaderboardLayout, library: Library, query: list[Any]) -> None:
        """Register the events.

        Args:
            tab: Its components.
            library: The runs.
            query: The components that hold the fields of a `Query`.
        """
        self._library = library
        file = tab.file
        for button, handler in ((tab.csv, self.csv), (tab.json, self.json)):
            button.click(handler, query, file, **AT_ONCE).then(None, file, None, js=SAVE, **AT_ONCE)
        view = [tab.address, tab.scheme, *query]
        tab.picture.click(self.picture, view, file, js=WITH_ADDRESS, **AT_ONCE).then(
            None, file, None, js=SAVE_PICTURE, **AT_ONCE
        )
        shown = [*view, tab.citation]
        tab.cite.click(self.toggle_citation, shown, tab.citation, js=WITH_ADDRESS, **AT_ONCE)

    def csv(self, *values: Any) -> str:
        """The table as it is shown, for the browser to save."""
        shown = run_query(self._library, Query.of(*values))
        if shown.filtered is None:
            return ""
        content = board_csv(shown.entries, [task.name for task in shown.filtered.tasks])
        return _file(shown.filtered.id, "csv", "text/csv", content)

    def json(self, *values: Any) -> str:
        """The shown entries with all their numbers, for the browser to save."""
        shown = run_query(self._library, Query.of(*values))
        if shown.filtered is None:
            return ""
        written = board_as_json(shown.drawn, self._library)
        content = json.dumps(written, ensure_ascii=False, indent=2)
        return _file(shown.filtered.id, "json", "application/json", content)

    def picture(self, request: gr.Request, address: str, scheme: str, *values: Any) -> str:
        """A picture of the view, for the browser to save; the scheme is `dark` or `light`."""
        shown = run_query(self._library, Query.of(*values))
        language = language_of(request)
        drawn = sharing.picture(shown, str(address or ""), language, dark=scheme == "dark")
        if not drawn or shown.board is None:
            return ""
        return _file(shown.board.id, "png", "image/svg+xml", drawn)

    def toggle_citation(self, request: gr.Request, address: str, _scheme: str, *values: Any) -> Any:
        """Show how to cite the view, or close that again."""
        *query, citation = values
        if citation:
            return block("")
        shown = run_query(self._library, Query.of(*query))
        return block(sharing.citation(shown, str(address or ""), language_of(request)))


def _file(board: str, ending: str, kind: str, content: str) -> str:
    """A file for the browser to save, as the JSON that its scripts read."""
    return json.dumps({"name": f"leaderboard-{board}.{ending}", "type": kind, "text": content})
