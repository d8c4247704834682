"""The web app: `python app.py`. Also what a Space runs.

Its environment variables are in `docs/deploy.md`.
"""

import gc
import sys

if __name__ == "__main__":
    from ui.engine.model_process import open_models
    from ui.engine.settings import Settings, SettingsError
    from ui.server.quick_import import without_stubs
    from ui.server.splash import SplashPage

    splash = SplashPage()  # before the imports that take seconds
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        sys.exit(f"{error}")
    models = open_models(settings)  # loads while this process imports the page
    gc.disable()  # until everything is imported, which takes 15 % longer with it
    with without_stubs():
        import gradio  # noqa: F401 - what is imported below is imported by then

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr

from evals.jobs.backup import backups
from evals.jobs.queue import Jobs
from evals.leaderboard.run_sources import Library
from ui.api import add_endpoints
from ui.components.texts import I18N, TEXTS
from ui.components.theme import theme
from ui.engine.engine import AppEngine
from ui.engine.memory import bound_memory
from ui.engine.model_process import ModelProcess
from ui.engine.models import Models
from ui.engine.settings import Settings
from ui.engine.zero_gpu import ZERO_GPU
from ui.server.exports import export_jobs, remove_expired_regularly, routes
from ui.server.log import set_up_log
from ui.server.memory import bound_sessions
from ui.server.page import Page
from ui.server.rates import Rates
from ui.server.service import around, shut_down_on_sigterm
from ui.shell import Shell
from ui.tabs.registry import TABS, Services, TabEntry

_ASSETS = Path(__file__).resolve().parent / "assets"
_THREADS = 40  # of Gradio, for short events
_SESSIONS = 1000  # whose state is stored; 25 kB each, see `ui.server.memory`
_EMBEDDING = ("https://huggingface.co", "https://*.hf.space")  # a Space's page shows it in a frame


def build(engine: AppEngine, settings: Settings, tabs: Sequence[TabEntry] = TABS) -> gr.Blocks:
    """The page and its endpoints."""
    page = Page(
        title=TEXTS["page"][0],
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(600, 3600),  # removes unused uploads within the hour
    )
    library = Library(_ASSETS / "results", settings.runs / "evaluations")
    services = Services(engine, library, Jobs(settings.runs / "jobs"), settings)
    with page:
        shell = Shell(page)
        for tab in tabs:
            with shell.tab(tab.id, tab.title):
                tab.build(shell, services)
        shell.wire()
        add_endpoints(engine, library)
    page.queue(max_size=_rows(engine), api_open=False)
    bound_sessions(page)
    return page


def launch(
    engine: AppEngine,
    settings: Settings,
    *,
    built: Callable[[], None] = lambda: None,
    **others: Any,
) -> gr.Blocks:
    """Serve the page, then load the model; on ZeroGPU the other way round, see `zero_gpu`.

    `built` is called before the page is served; `others` are for `gr.Blocks.launch`.
    """
    page = build(engine, settings)
    if ZERO_GPU:
        engine.start()
    built()
    page.launch(
        prevent_thread_lock=True,
        i18n=I18N,
        theme=theme(),
        css_paths=sorted((_ASSETS / "style").glob("*.css")),
        footer_links=[],  # the About tab has them, in the page's language
        allowed_paths=[],
        max_file_size=f"{engine.limits.upload_mb if settings.jobs_allowed else 1}mb",
        max_threads=_THREADS + _rows(engine),  # a waiting request holds one
        state_session_capacity=_SESSIONS,
        mcp_server=find_spec("mcp") is not None,
        app_kwargs=around(
            engine,
            routes=routes(settings),
            embedded_by=_EMBEDDING if settings.on_space else (),
        ),
        **others,
    )
    if not ZERO_GPU:
        engine.start()
    return page


def _rows(engine: AppEngine) -> int:
    """How many requests may be answered or wait."""
    return engine.limits.at_once + engine.limits.waiting


def main(settings: Settings, models: Models | ModelProcess, built: Callable[[], None]) -> None:
    """Serve until the process is stopped."""
    set_up_log(as_json=settings.json_log)
    bound_memory()
    engine = AppEngine(
        folder=settings.adapters,
        models=models,
        trained=settings.runs / "training",
        rates=Rates(settings.limits.per_minute, proxied=settings.proxied),
    )
    for backup in backups(settings.runs, settings.keep, settings.keep_dataset):
        backup.start()
    exports = export_jobs(settings)
    remove_expired_regularly(exports)
    page = launch(engine, settings, built=built)
    gc.freeze()  # what is imported by now stays
    gc.enable()
    ending = (Jobs(settings.runs / "jobs"), exports) if settings.jobs_end else ()
    shut_down_on_sigterm(page, engine, settings.ending_seconds, ending)
    page.block_thread()


if __name__ == "__main__":
    main(settings, models, splash.close)
