"""The tabs of the app, one entry each, in the order in which the page shows them."""

from collections.abc import Callable
from dataclasses import dataclass

from evals.jobs.queue import Jobs
from evals.leaderboard.run_sources import Library
from ui.engine.engine import AppEngine
from ui.engine.settings import Settings
from ui.server.exports import export_jobs
from ui.shell import Shell
from ui.tabs.about.tab import About
from ui.tabs.benchmark.tab import Benchmark
from ui.tabs.compare.tab import Compare
from ui.tabs.export.tab import ExportTab
from ui.tabs.gates.tab import Gates
from ui.tabs.leaderboard.tab import Leaderboard
from ui.tabs.train.tab import Train
from ui.tabs.try_it.tab import TryIt


@dataclass(frozen=True)
class Services:
    """What the tabs are built on."""

    engine: AppEngine
    library: Library  # the runs of the leaderboards
    jobs: Jobs  # the queue of evaluations and trainings
    settings: Settings  # where results are stored, and what visitors may do


@dataclass(frozen=True)
class TabEntry:
    """One tab."""

    id: str  # its name in the address (`?tab=`) and in element ids (`tab-{id}`)
    title: tuple[str, str]  # in Chinese and English
    # Makes its components in the tab that is open for building, and registers with the shell what
    # runs when the tab is shown (`Shell.on_show`) or the page opens.
    build: Callable[[Shell, Services], object]
    link_keys: tuple[str, ...] = ()  # parameters of the address that hold what the tab shows


TABS = (
    TabEntry(
        "try", ("试一试", "Try it"), lambda shell, on: TryIt(shell, on.engine), ("cluster", "task")
    ),
    TabEntry(
        "gates",
        ("门控", "Gates"),
        lambda shell, on: Gates(shell, on.engine),
        ("cluster", "task", "module", "view"),
    ),
    TabEntry(
        "leaderboard",
        ("排行榜", "Leaderboard"),
        lambda shell, on: Leaderboard(shell, on.library.shipped, on.library.local),
        ("board", "board-*"),
    ),
    TabEntry(
        "benchmark",
        ("评测", "Benchmark"),
        lambda shell, on: Benchmark(shell, on.engine, on.jobs, on.settings),
        ("bench", "bench_data", "bench_tasks", "bench_n", "bench_job"),
    ),
    TabEntry(
        "compare",
        ("比较", "Compare"),
        lambda shell, on: Compare(shell, on.engine, on.jobs, on.settings),
        ("compare_source", "comparison"),
    ),
    TabEntry(
        "train",
        ("训练", "Train"),
        lambda shell, on: Train(shell, on.engine, on.jobs, on.settings),
        ("source", "base", "method", "run"),
    ),
    TabEntry(
        "export",
        ("导出", "Export"),
        lambda shell, on: ExportTab(shell, on.engine, export_jobs(on.settings), on.settings),
        ("export-*",),
    ),
    TabEntry(
        "about",
        ("关于", "About"),
        lambda shell, on: About(shell, on.engine),
        ("about-adapter", "about-layer", "about-task", "about-part"),
    ),
)
"""All tabs of the page."""
