"""Adding a task from the page: the form asks for less, a job trains and measures, and both show."""

import copy
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Page

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.storage.atomic_io import read_sealed
from cgclora.training.task_list import grown
from evals.experiments.training_log import read_log
from evals.jobs.queue import Jobs
from evals.jobs.worker import work
from tests.browser.app_tour import visiting
from tests.helpers.queues import Waiting, Worked
from tests.helpers.records import lines
from tests.helpers.reference import scatter
from tests.helpers.tiny import make_backbone, save_backbone
from tests.helpers.tiny_models import tiny_models
from tests.ui.tabs.test_train import (
    ENGLISH,
    figures,
    filled_in,
    settings_of,
    tab_of,
    visitor,
)
from tests.ui.test_app import MARKUP, save_adapter
from ui.components.texts import TEXTS, text
from ui.engine.engine import AppEngine
from ui.shell import Shell
from ui.tabs.train import growth
from ui.tabs.train.form import SIZES, STAND_INS
from ui.tabs.train.tab import Train

BASE_TASKS = ("SentimentAnalyze", "NER")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_backbone(tmp_path_factory.mktemp("backbone")))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One adapter that can take tasks, and one that cannot."""
    folder = tmp_path_factory.mktemp("adapters")
    save_adapter(folder / "general", BASE_TASKS)
    scatter(Adapter.attach(make_backbone(), AdapterConfig.lora(("x",)))).save(folder / "plain")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def engine(adapters: Path, runs: Path) -> AppEngine:
    return AppEngine(adapters, tiny_models(), trained=runs / "training")


@pytest.fixture
def jobs(runs: Path) -> Jobs:
    return Waiting(runs / "jobs")


@pytest.fixture
def tab(engine: AppEngine, jobs: Jobs, runs: Path) -> Train:
    return tab_of(engine, jobs, runs)


def upload(folder: Path, *tasks: str) -> str:
    """A file of eight records of each task."""
    items = [
        {"task": task, "input": f"question {i} of {task}", "target": ("yes", "no")[i % 2]}
        for task in tasks
        for i in range(8)
    ]
    return str(lines(folder / "mine.jsonl", *items))


def chosen(folder: Path, *tasks: str, **more: Any) -> dict[str, Any]:
    """The form with an upload of these tasks for the adapter `general`."""
    values = {"source": "upload", "train_file": upload(folder, *tasks), "base": "general"}
    return {**values, "batch_size": 6, "epochs": 2, "evaluations": 1, "name": "grown", **more}


def inspect(tab: Train, **values: Any) -> dict[Any, Any]:
    return tab.inspect(ENGLISH, *filled_in(tab, **values))


def plan(tab: Train, **values: Any) -> dict[Any, Any]:
    return tab.plan(ENGLISH, *filled_in(tab, **values))


def start(tab: Train, **values: Any) -> dict[Any, Any]:
    return tab.submit(ENGLISH, *filled_in(tab, **values))


# Form -----------------------------------------------------------------------------------------


def test_a_run_may_start_from_adapters_that_can_take_a_task(tab: Train) -> None:
    arrived = tab.show(visitor(lang="en", base="general"), None, None)[tab.form.settings["base"]]
    assert [name for _, name in arrived["choices"]] == ["", "general"]
    assert arrived["choices"][1][0] == "Add to General (2 tasks)"
    assert arrived["value"] == "general"
    for unknown in ("gone", ""):
        arrived = tab.show(visitor(lang="en", base=unknown), None, None)
        assert "value" not in arrived[tab.form.settings["base"]]


def test_tasks_that_the_adapter_has_are_left_out_and_that_is_said(
    tab: Train, tmp_path: Path
) -> None:
    updates = inspect(tab, **chosen(tmp_path, "NER", "greet"))
    report = updates[tab.form.report]
    assert figures(report) == ["1", "6", "2"]
    assert "Left out, because General has them already: Named entities" in report
    assert TEXTS["train_find_one_task"][1] not in report
    assert updates[tab.form.data["tasks"]]["choices"] == ["greet"]
    alone = inspect(tab, **chosen(tmp_path, "NER", "greet", base=""))[tab.form.report]
    assert figures(alone)[0] == "2"


def test_data_without_a_new_task_is_refused_in_words(
    tab: Train, jobs: Jobs, tmp_path: Path
) -> None:
    values = chosen(tmp_path, "NER")
    words = "General has all of these tasks already: Named entities"
    assert words in inspect(tab, **values)[tab.form.report]
    assert text("train_no_data", "en") in plan(tab, **values)[tab.form.budget]
    assert words in start(tab, **values)[tab.outcome]
    assert jobs.all() == []


def test_an_adapter_that_cannot_take_a_task_is_refused_in_words(
    tab: Train, jobs: Jobs, tmp_path: Path
) -> None:
    values = chosen(tmp_path, "greet", base="plain")
    assert "plain cannot take a task" in plan(tab, **values)[tab.form.budget]
    assert "plain cannot take a task" in start(tab, **values)[tab.outcome]
    assert jobs.all() == []


def test_sizes_and_method_are_those_of_the_adapter(tab: Train, tmp_path: Path) -> None:
    fields = tab.form.settings
    of_new = (*SIZES, "method", "alpha", "modules", "half")
    for base, is_visible in (("general", False), ("", True)):
        updates = plan(tab, **chosen(tmp_path, "greet", base=base))
        shown = [updates[fields[name]]["visible"] for name in of_new if name != "lora_rank"]
        assert set(shown) - ({False} if base == "" else set()) == {is_visible}


def test_the_budget_counts_what_is_added(tab: Train, adapters: Path, tmp_path: Path) -> None:
    shown = plan(tab, **chosen(tmp_path, "greet", "mood"))[tab.form.budget]
    model = make_backbone()
    before = AdapterConfig(BASE_TASKS)
    sizes = [
        Adapter.attach(model, config, name=name).num_parameters()
        for name, config in (("before", before), ("after", grown(before, ["greet", "mood"])))
    ]
    cells = re.findall(r"<td>(.*?)</td>", shown)
    expected = [sizes[0], sizes[1] - sizes[0], sizes[1]]
    assert cells[0::4] == [f"{size / 1e6:.2f} M" for size in expected]
    assert cells[1::4] == [f"{4 * size / 1e6:.1f} MB" for size in expected]  # in float32
    assert cells[2::4] == ["12", "4", "16"]
    assert cells[3::4] == ["10", "–", "10"]
    assert figures(shown)[3] == "4"  # steps: two tasks of six records, twice, six a step


def test_the_command_is_the_one_that_is_run_but_for_its_paths(
    tab: Train, jobs: Jobs, adapters: Path, tmp_path: Path
) -> None:
    values = chosen(tmp_path, "NER", "greet")
    shown = shlex.split(plan(tab, **values)[tab.command])
    start(tab, **values)
    (job,) = jobs.all()
    assert shown[:5] == ["python", "-m", "evals", "add-task", "--adapter"]
    assert shown[5] == job.command[4] == str(adapters / "general")
    assert shown[-2:] == ["--task", "greet"]  # the visitor's file has others
    paths = [*STAND_INS, "runs/training/grown"]
    assert [part for part in shown[6:-2] if part not in paths] == [
        part for part in job.command[5:] if not part.startswith(str(tmp_path / "runs"))
    ]
    assert (job.facts["base"], job.facts["tasks"]) == ("general", ["greet"])
    assert {"greet"} == {
        line.split('"task": "')[1].split('"')[0]
        for line in (job.folder / "train.jsonl").read_text().splitlines()
    }


def test_the_server_s_folder_is_not_shown_to_visitors(
    engine: AppEngine, jobs: Jobs, runs: Path, tmp_path: Path
) -> None:
    tab = tab_of(engine, jobs, runs, allowed=False)
    shown = plan(tab, **chosen(tmp_path, "greet"))
    assert "--adapter general " in shown[tab.command]
    assert figures(shown[tab.form.budget])[0] != ""


# Run ------------------------------------------------------------------------------------------


def test_a_task_is_trained_measured_and_shown_before_and_after(
    engine: AppEngine, jobs: Jobs, runs: Path, tmp_path: Path, backbone: str
) -> None:
    tab = tab_of(engine, jobs, runs, backbone=backbone)
    start(tab, **chosen(tmp_path, "greet"))
    (job,) = jobs.all()
    work(jobs.root, idle=0.0)
    assert jobs.get(job.id).state == "done", jobs.get(job.id).log_tail()
    shown = tab.runs.updates(job.id, ENGLISH)
    report = read_sealed(runs / "training" / "grown" / "adapter" / "manifest.json")["added"]
    facts = report["tasks"]["greet"]
    assert facts["records"] == 2
    head = shown[tab.runs.head]
    assert "added to General" in head
    before, after = (f"{100 * facts[side]['value']:.1f}" for side in ("before", "after"))
    assert f"{before} → {after}" in head
    assert "2 / 2" in head
    assert TEXTS["train_others_changed"][1] not in head
    bars, zeros = shown[tab.runs.seesaw]["value"].data
    assert (list(bars.y), list(bars.x)) == (["greet"], [100 * facts["gain"]["value"]])
    assert (list(zeros.y), list(zeros.x)) == ([*BASE_TASKS], [0, 0])
    words = [note.text for note in shown[tab.runs.seesaw]["value"].layout.annotations]
    assert words[1:] == ["identical", "identical"]
    # The gates of the new task are in the third row of the log, its experts behind the others'.
    log = read_log(runs / "training" / "grown")
    assert log is not None
    (share,) = shown[tab.runs.gates]["value"].data
    assert (share.name, [*share.y]) == ("greet", [row[2][6] / sum(row[2]) for _, row in log.gates])
    assert "grown" in engine.clusters()
    assert engine.tasks("grown") == ("NER", "SentimentAnalyze", "greet") or "greet" in engine.tasks(
        "grown"
    )
    arrived = tab.show(visitor(lang="en"), "upload", 1)[tab.form.settings["base"]]
    assert [name for _, name in arrived["choices"]] == ["", "general", "grown"]


def test_between_training_and_report_the_page_says_what_is_done(
    tab: Train, jobs: Jobs, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tab, **chosen(tmp_path, "greet"))
    (job,) = jobs.all()
    (runs / "training" / "grown" / "adapter").mkdir(parents=True)
    words = text("train_measuring", "en")
    assert words not in tab.runs.show(job, "en", "")
    object.__setattr__(job, "state", "running")
    assert words in tab.runs.show(job, "en", "")


REPORT: dict[str, Any] = {
    "tasks": {
        MARKUP: {
            "metric": "accuracy",
            "records": 9,
            "before": {"value": 0.0},
            "after": {"value": 0.5},
            "gain": {
                **{"value": 0.5, "low": 0.25, "high": 0.75, "standard_error": 0.1},
                **{"p_value": 0.01, "samples": 9, "adjusted": 0.01},
            },
        }
    },
    "unchanged": {
        "NER": {
            **{"identical": True, "weights": 1234, "changed": []},
            **{"prompts": 3, "tokens": 8, "difference": 0.0},
        }
    },
}


TITLES = {MARKUP: MARKUP, "NER": "Named entities"}


def test_a_task_that_changed_is_shown_as_changed() -> None:
    report = copy.deepcopy(REPORT)
    report["unchanged"]["NER"] |= {"identical": False, "changed": ["a"], "difference": 0.5}
    shown = growth.outcome(report, TITLES, "en")
    assert TEXTS["train_others_changed"][1] in shown
    assert "0 / 1" in shown
    assert "1 <code>a</code>" in shown
    notes = growth.seesaw(report, "#123456", TITLES, "en").layout.annotations
    assert [note.text for note in notes] == ["<b>+50.0</b>", "changed"]


def test_names_of_tasks_are_never_markup() -> None:
    shown = growth.outcome(REPORT, TITLES, "zh")
    figure = growth.seesaw(REPORT, "#123456", TITLES, "zh")
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "<script>" not in figure.data[0].hovertext[0]
    assert "<script>" not in "".join(figure.layout.yaxis.ticktext)


# In a browser ---------------------------------------------------------------------------------


@pytest.fixture
def page(engine: AppEngine, runs: Path, backbone: str) -> Iterator[Page]:
    jobs = Worked(runs / "jobs")
    with gr.Blocks() as built:
        shell = Shell(built)
        with shell.tab("train"):
            Train(shell, engine, jobs, settings_of(runs, backbone=backbone))
        shell.wire()
    engine.start()
    with visiting(built, "tab=train&lang=en&source=upload") as page:
        page.locator("#train-report .train-empty").wait_for()
        yield page
    jobs.end()


@pytest.mark.browser
def test_a_visitor_adds_a_task_and_sees_before_and_after(page: Page, tmp_path: Path) -> None:
    assert page.locator("#train-method").is_visible()
    page.locator("#train-file input[type=file]").set_input_files(upload(tmp_path, "NER", "greet"))
    page.locator("#train-report .train-figures").wait_for()
    page.locator("#train-base input").click()
    page.get_by_role("option", name="General").click()
    page.get_by_text("Left out, because General").wait_for()
    page.locator("#train-budget").get_by_text("+ greet").wait_for()
    page.locator("#train-method").wait_for(state="hidden")
    page.wait_for_function("document.querySelector('#train-command textarea').value.match('add-')")
    page.locator("#train-start").click()
    page.locator("#train-job .job").wait_for()
    page.reload()
    page.locator(".job.done").wait_for(timeout=120_000)
    page.locator("#train-job .train-proof summary").click()
    page.locator("#train-job .train-proof tbody tr").nth(1).wait_for()
    page.locator(".js-plotly-plot").first.get_by_text("identical").first.wait_for()
