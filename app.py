"""The web app: `python app.py`. Also what a Space runs.

Environment: GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where to listen, CGCLORA_ADAPTERS names a
folder of adapter folders, CGCLORA_BACKBONE a local folder or hub id in place of the embedded
backbone.
"""

import os
from pathlib import Path
from typing import Any

import gradio as gr

from ui.api import add_endpoints
from ui.engine import Engine, loader
from ui.shell import Shell
from ui.texts import I18N, TEXTS
from ui.theme import theme
from ui.try_it import TryIt

_ASSETS = Path(__file__).resolve().parent / "assets"


def build(engine: Engine) -> gr.Blocks:
    """The page and its endpoints."""
    page = gr.Blocks(title=TEXTS["page"][0], analytics_enabled=False, fill_width=True)
    with page:
        shell = Shell(page)
        with shell.tab("try"):
            TryIt(page, shell, engine)
        shell.wire()
        add_endpoints(engine)
    page.queue(max_size=32, api_open=False)
    return page


def launch(engine: Engine, **settings: Any) -> gr.Blocks:
    """Serve the page, then load the model; `settings` go to `gr.Blocks.launch`."""
    page = build(engine)
    page.launch(
        prevent_thread_lock=True,
        i18n=I18N,
        theme=theme(),
        css_paths=sorted((_ASSETS / "style").glob("*.css")),
        footer_links=["api"],
        allowed_paths=[],
        max_file_size="1mb",
        **settings,
    )
    engine.start()
    return page


if __name__ == "__main__":
    launch(
        Engine(
            folder=Path(os.environ.get("CGCLORA_ADAPTERS", _ASSETS / "adapters")),
            load=loader(os.environ.get("CGCLORA_BACKBONE")),
        )
    ).block_thread()
