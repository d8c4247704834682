"""The web app: `python app.py`. Also what a Space runs.

Environment:
    GRADIO_SERVER_NAME, GRADIO_SERVER_PORT  where to listen
    CGCLORA_ADAPTERS    a folder of adapter folders in place of the shipped ones
    CGCLORA_BACKBONE    a local folder or hub id in place of the embedded backbone
    CGCLORA_INT8        0 decodes on CPUs by the weights as they are, not by copies in few bits
    CGCLORA_RUNS        where evaluations and trainings are kept; by default `runs` beside this file
    CGCLORA_KEEP, CGCLORA_KEEP_DATASET  where evaluations are kept as well, see `evals.keeper`
    CGCLORA_ALLOW_JOBS  1 lets visitors start them, 0 does not; by default this machine's own may
    CGCLORA_DATA        a folder with the datasets, for the texts behind scores and for training
"""

import os

if __name__ == "__main__":
    from ui.doorstep import Doorstep

    doorstep = Doorstep()  # before the imports that take seconds

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr

from evals.jobs import Jobs
from evals.keeper import keepers
from evals.library import Library
from ui.about.tab import About
from ui.api import add_endpoints
from ui.benchmark.tab import Benchmark
from ui.engine import Engine, loader
from ui.gates.tab import Gates
from ui.leaderboard.tab import Leaderboard
from ui.shell import Shell
from ui.texts import I18N, TEXTS
from ui.theme import theme
from ui.train.tab import Train
from ui.try_it.tab import TryIt
from ui.zero import ZERO_GPU

_HERE = Path(__file__).resolve().parent
_ASSETS = _HERE / "assets"
_AT_HOME = ("", "127.0.0.1", "localhost", "::1")


def build(engine: Engine, runs: Path = _HERE / "runs", *, allowed: bool = True) -> gr.Blocks:
    """The page and its endpoints.

    Args:
        engine: Who answers.
        runs: Where evaluations and trainings are kept.
        allowed: Whether visitors may start them.
    """
    page = gr.Blocks(
        title=TEXTS["page"][0],
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(600, 3600),  # uploads that nothing came of go within the hour
    )
    jobs, backbone = Jobs(runs / "jobs"), os.environ.get("CGCLORA_BACKBONE")
    library = Library(_ASSETS / "results", runs / "evaluations")
    with page:
        shell = Shell(page)
        with shell.tab("try"):
            TryIt(shell, engine)
        with shell.tab("gates"):
            Gates(shell, engine)
        with shell.tab("leaderboard"):
            Leaderboard(shell, library.shipped, library.local)
        with shell.tab("benchmark"):
            Benchmark(shell, engine, jobs, allowed, backbone=backbone)
        with shell.tab("train"):
            Train(shell, engine, jobs, runs, allowed, backbone=backbone)
        with shell.tab("about"):
            About(shell, engine)
        shell.wire()
        add_endpoints(engine, library)
    page.queue(max_size=32, api_open=False)
    return page


def launch(
    engine: Engine,
    runs: Path = _HERE / "runs",
    *,
    allowed: bool = True,
    built: Callable[[], None] = lambda: None,
    **settings: Any,
) -> gr.Blocks:
    """Serve the page, then load the model; on ZeroGPU the other way round, see `ui.zero`.

    Args:
        engine: Who answers.
        runs: As for `build`.
        allowed: As for `build`.
        built: Called before the page is served.
        settings: For `gr.Blocks.launch`.
    """
    page = build(engine, runs, allowed=allowed)
    if ZERO_GPU:
        engine.start()
    built()
    page.launch(
        prevent_thread_lock=True,
        i18n=I18N,
        theme=theme(),
        css_paths=sorted((_ASSETS / "style").glob("*.css")),
        footer_links=[],  # the About tab says it, in the language of the page
        allowed_paths=[],
        max_file_size="64mb" if allowed else "4mb",
        mcp_server=find_spec("mcp") is not None,
        **settings,
    )
    if not ZERO_GPU:
        engine.start()
    return page


def _jobs_allowed() -> bool:
    """Whoever can reach the page could fill the disk: by default only this machine's own people."""
    said = os.environ.get("CGCLORA_ALLOW_JOBS", "")
    if said in ("0", "1"):
        return said == "1"
    shared = os.environ.get("GRADIO_SHARE", "").lower() == "true" or "SPACE_ID" in os.environ
    return not shared and os.environ.get("GRADIO_SERVER_NAME", "") in _AT_HOME


if __name__ == "__main__":
    folder = Path(os.environ.get("CGCLORA_RUNS", _HERE / "runs"))
    for keeper in keepers(folder, os.environ):
        keeper.start()
    launch(
        Engine(
            folder=Path(os.environ.get("CGCLORA_ADAPTERS", _ASSETS / "adapters")),
            load=loader(
                os.environ.get("CGCLORA_BACKBONE"), int8=os.environ.get("CGCLORA_INT8") != "0"
            ),
            trained=folder / "training",
        ),
        folder,
        allowed=_jobs_allowed(),
        built=doorstep.close,
    ).block_thread()
