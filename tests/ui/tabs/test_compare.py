"""The tab that compares methods: data, plan and cost, the job, and what it shows as it goes."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from evals.__main__ import main
from evals.experiments.own_data.comparison import DATA_FOLDER, read_comparison
from evals.jobs.queue import Job, Jobs
from evals.methods import METHODS
from evals.tasks.samples import OWN_EXAMPLE
from tests.helpers.queues import Waiting
from tests.helpers.records import lines
from tests.helpers.tiny import save_backbone
from tests.helpers.tiny_models import tiny_models
from tests.ui.test_app import MARKUP, save_adapter
from ui.components.texts import TEXTS, text
from ui.engine.engine import AppEngine
from ui.engine.settings import Settings
from ui.shell import Shell
from ui.tabs.compare import view
from ui.tabs.compare.runs import figures, kept_methods
from ui.tabs.compare.tab import Compare

Updates = dict[Any, Any]


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CGCLORA_DATA", raising=False)


@pytest.fixture
def engine(tmp_path: Path) -> AppEngine:
    save_adapter(tmp_path / "adapters" / "general", ("NER",))
    return AppEngine(
        tmp_path / "adapters",
        tiny_models(),
        trained=tmp_path / "runs" / "training",
    )


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Waiting(tmp_path / "runs" / "jobs")


@pytest.fixture
def tab(engine: AppEngine, jobs: Jobs, tmp_path: Path) -> Compare:
    return tab_of(engine, jobs, tmp_path)


def tab_of(engine: AppEngine, jobs: Jobs, folder: Path, **settings: Any) -> Compare:
    with gr.Blocks():
        shell = Shell(gr.Blocks())
        with shell.tab("compare"):
            return Compare(shell, engine, jobs, Settings(runs=folder / "runs", **settings))


def visitor(**query: str) -> gr.Request:
    return SimpleNamespace(session_hash="one", query_params=query, headers={})  # type: ignore[return-value]


ENGLISH = visitor(lang="en")


def filled_in(tab: Compare, **changes: Any) -> list[Any]:
    """The values of the form as it comes, with some changed."""
    values = {name: getattr(field, "value", None) for name, field in tab.inputs.items()}
    return [*(values | {"source": "example", "name": "mine"} | changes).values()]


def report(tab: Compare, **changes: Any) -> str:
    return str(tab.inspect(ENGLISH, *filled_in(tab, **changes))[tab.form.report])


def plan(tab: Compare, **changes: Any) -> Updates:
    return tab.plan(ENGLISH, *filled_in(tab, **changes))


def start(tab: Compare, **changes: Any) -> Updates:
    return tab.submit(ENGLISH, *filled_in(tab, **changes))


def upload(folder: Path, count: int = 20, **more: str) -> str:
    items = [
        {"task": task, "input": f"{task}：{place}", "target": target}
        for place in range(count)
        for task, target in (("换算", f"{place}米"), ("评价", "好" if place % 2 else "坏"))
    ]
    return str(lines(folder / "mine.jsonl", *items, *([more] if more else [])))


# The form ---------------------------------------------------------------------------------


def test_the_example_is_split_and_its_tasks_are_recognised(tab: Compare) -> None:
    shown = report(tab)
    counts = [int(n) for n in re.findall(r"<b>(\d+)</b><span>", shown)]
    whole = len(OWN_EXAMPLE.read_text(encoding="utf-8").splitlines())
    assert counts[0] == 4
    assert sum(counts[1:]) == whole == 480
    assert text("compare_made", "en", names="dev records and test records") in shown


def test_the_table_of_tasks_can_be_corrected(tab: Compare, tmp_path: Path) -> None:
    first = tab.inspect(ENGLISH, *filled_in(tab))
    written = first[tab.form.own.written]
    listed = first[tab.form.own.parts[0]]["value"]
    for words in ("Accuracy", "Numeric match", "one label", "lines of key and value"):
        assert words in listed
    changed = written.replace('title = ["换算", "换算"]', 'title = ["单位", "Units"]')
    corrected = {"own_written": changed, "own_recognised": written}
    assert "Units" in report(tab, **corrected)
    start(tab, **corrected)
    out = tmp_path / "runs" / "evaluations" / "mine"
    assert '"Units"' in (out / DATA_FOLDER / "tasks.toml").read_text(encoding="utf-8")
    wrong = {"own_written": written.replace('"number"', '"colour"', 1), "own_recognised": written}
    updates = tab.inspect(ENGLISH, *filled_in(tab, **wrong))
    assert TEXTS["own_wrong"][1] in updates[tab.form.own.parts[2]]["value"]
    assert TEXTS["jobs_not_started"][1] in start(tab, name="other", **wrong)[tab.outcome]


def test_before_a_file_is_chosen_nothing_is_wrong(tab: Compare) -> None:
    assert text("compare_upload_first", "en") in report(tab, source="upload")
    updates = plan(tab, source="upload")
    assert text("compare_no_data", "en") in updates[tab.form.estimate]
    assert updates[tab.command] == ""


def test_an_upload_is_shown_as_text_and_without_its_folder(tab: Compare, tmp_path: Path) -> None:
    for place in range(3):
        file = upload(tmp_path, task=MARKUP, input=f"{place}{MARKUP}", target=MARKUP)
    shown = report(tab, source="upload", train_file=file)
    assert "one prompt only" in shown
    assert "<script>" not in shown
    assert "<img" not in shown
    assert str(tmp_path) not in shown


def test_chosen_tasks_are_kept_and_those_of_an_older_source_passed_over(tab: Compare) -> None:
    updates = tab.inspect(ENGLISH, *filled_in(tab, tasks=["换算", "gone"]))
    assert updates[tab.form.data["tasks"]]["value"] == ["换算"]
    assert "点菜" not in updates[tab.form.report]


def test_the_command_shown_does_what_the_button_does(tab: Compare, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "source": "upload",
        "train_file": upload(tmp_path),
        "methods": ["LoRA (Full)", "CGC-LoRA"],
        "seeds": 2,
        "learning_rates": ["0.003"],
        "epochs": 1.0,
        "test_records": 5,
    }
    line = shlex.split(plan(tab, **changes)[tab.command])
    assert line[:4] == ["python", "-m", "evals", "compare-methods"]
    options = line[4:]
    options[0] = changes["train_file"]
    options[options.index("--out") + 1] = str(tmp_path / "by-hand" / "mine")
    assert main(["compare-methods", *options, "--plan"]) == 0
    start(tab, **changes)
    begun = read_comparison(tmp_path / "runs" / "evaluations" / "mine")
    assert begun is not None
    recipe = begun.plan.recipe
    assert recipe.methods == ("LoRA (Full)", "CGC-LoRA")
    assert (recipe.seeds, recipe.learning_rates) == ((0, 1), (0.003,))
    assert (recipe.training.epochs, recipe.records.test) == (1.0, 5)


def test_impossible_wishes_are_said_in_place_of_the_cost(tab: Compare) -> None:
    for changes in ({"methods": []}, {"learning_rates": []}, {"epochs": -1.0}):
        updates = plan(tab, **changes)
        assert TEXTS["train_bad_settings"][1] in updates[tab.form.estimate]
        assert updates[tab.command] == ""


def test_a_budget_that_nothing_fits_is_said(tab: Compare) -> None:
    assert TEXTS["compare_too_long"][1] in plan(tab, minutes=1)[tab.form.estimate]
    assert TEXTS["compare_too_long"][1] not in plan(tab, minutes=60)[tab.form.estimate]


# The job ----------------------------------------------------------------------------------


def test_a_comparison_is_begun_with_its_data(tab: Compare, jobs: Jobs, tmp_path: Path) -> None:
    start(tab, source="upload", train_file=upload(tmp_path))
    (job,) = jobs.all()
    assert (job.kind, job.title, job.clean) == ("compare", "mine", ())
    assert job.facts["data"] == "mine.jsonl"
    out = tmp_path / "runs" / "evaluations" / "mine"
    assert (out / DATA_FOLDER / "test.jsonl").is_file()
    assert "tasks.toml" in {path.name for path in (out / DATA_FOLDER).iterdir()}


@pytest.mark.parametrize("name", ["", "-a", "a/b", "名", "x" * 41])
def test_bad_names_are_refused(tab: Compare, jobs: Jobs, name: str) -> None:
    assert TEXTS["jobs_bad_name"][1] in start(tab, name=name)[tab.outcome]
    assert jobs.all() == []


def test_a_name_is_taken_once(tab: Compare, jobs: Jobs) -> None:
    start(tab)
    assert text("compare_name_taken", "en", name="mine") in start(tab)[tab.outcome]
    assert len(jobs.all()) == 1


def test_on_a_public_server_nothing_starts_and_nothing_is_fetched(
    engine: AppEngine, jobs: Jobs, tmp_path: Path
) -> None:
    tab = tab_of(engine, jobs, tmp_path, jobs_allowed=False)
    assert TEXTS["jobs_not_allowed"][1] in start(tab)[tab.outcome]
    arrived = tab.show(ENGLISH, None, None)
    sources = arrived[tab.form.data["source"]]["choices"]
    assert "hub" not in [name for _, name in sources]
    assert jobs.all() == []
    assert report(tab)


def test_the_tab_comes_with_report_and_plan(tab: Compare) -> None:
    arrived = tab.show(visitor(lang="en", compare_source="example"), None, None)
    assert arrived[tab.form.report] == report(tab)
    assert arrived[tab.form.estimate] == plan(tab)[tab.form.estimate]
    assert "runs/evaluations/mine-1" in arrived[tab.command]
    assert tab.name not in arrived  # the field was built with it
    assert tab.arrived not in arrived
    nothing = tab.show(ENGLISH, None, None)
    assert text("compare_upload_first", "en") in nothing[tab.form.report]
    assert nothing[tab.command] == ""
    start(tab, name="mine-1")
    later = tab.show(visitor(lang="en", compare_source="example"), None, None)
    assert later[tab.name] == "mine-2"
    assert "runs/evaluations/mine-2" in later[tab.command]


def test_the_tab_does_not_wait_for_large_data(
    tab: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    couplets = [{"kind": "Couplet", "input": f"{n}" * 2**18, "target": "y"} for n in range(5)]
    lines(tmp_path / "firefly" / "train.jsonl", *couplets)
    monkeypatch.setenv("CGCLORA_DATA", str(tmp_path))
    arrived = tab.show(visitor(lang="en", compare_source="general"), None, None)
    assert text("train_reading", "en") in arrived[tab.form.report]
    assert arrived[tab.arrived] == 1  # which calls for the report


# What it shows ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs after the command has run with a tiny backbone."""
    folder = tmp_path_factory.mktemp("finished")
    backbone = save_backbone(folder / "backbone")
    out = folder / "runs" / "evaluations" / "mine"
    options = ["--method", "LoRA (Single)", "--method", "CGC-LoRA", "--rate", "0.01"]
    options += ["--backbone", str(backbone), "--epochs", "1", "--test-records", "4"]
    assert main(["compare-methods", upload(folder), "--out", str(out), *options]) == 0
    return folder


def job_of(folder: Path, state: str = "done") -> Job:
    facts = {"data": "mine.jsonl", "tasks": ["换算", "评价"], "methods": [1, 2], "seeds": 1}
    return Job("1", folder, "compare", "mine", (), "", facts, state=state)  # type: ignore[arg-type]


def test_the_board_has_every_method_and_task(finished: Path) -> None:
    comparison = read_comparison(finished / "runs/evaluations/mine")
    assert comparison is not None
    shown = view.shown(job_of(finished), comparison, "en", "")
    assert comparison.board is not None
    for name in ("LoRA (Single)", "CGC-LoRA", "换算", "评价"):
        assert name in shown
    assert shown.count('class="reached"') == 2  # one seed: all there is
    assert f"board={comparison.board.id}" in shown
    drawn = figures(comparison, "en")
    assert all(figure is not None for figure in drawn)
    gates = drawn[2]
    weights = [value for trace in gates.data for row in trace.z for value in row if value]
    assert sum(weights) == pytest.approx(2, abs=1e-3)  # two tasks, whose weights add up to 1


def test_a_queued_comparison_shows_that_it_waits(tab: Compare, jobs: Jobs) -> None:
    start(tab)
    (job,) = jobs.all()
    shown = tab.runs.show(job, "en", "")
    assert TEXTS["jobs_wait"][1] in shown
    assert 'class="reached"' not in shown
    updates = tab.runs.show_details(job, "en")
    assert all(updates[place]["visible"] is False for _, place in tab.runs.figures)


def test_a_kept_adapter_becomes_one_of_the_page(
    engine: AppEngine, jobs: Jobs, finished: Path
) -> None:
    tab = tab_of(engine, jobs, finished)
    engine.trained = finished / "runs" / "training"
    comparison = read_comparison(finished / "runs/evaluations/mine")
    assert comparison is not None
    assert kept_methods(comparison) == ["CGC-LoRA"]
    jobs.root.mkdir(parents=True, exist_ok=True)
    job = jobs.submit("compare", [], title="mine", facts={"tasks": [], "methods": []})
    said = tab.runs.keep_adapter(job.id, "CGC-LoRA", ENGLISH)["value"]
    assert "mine-cgc-lora" in said
    assert "mine-cgc-lora" in engine.configs
    assert set(engine.configs["mine-cgc-lora"].tasks) == {"换算", "评价"}
    refused = tab.runs.keep_adapter(job.id, "LoRA (Single)", ENGLISH)["value"]
    assert TEXTS["compare_not_kept"][1] in refused


def test_a_removed_comparison_leaves_nothing(tab: Compare, jobs: Jobs, tmp_path: Path) -> None:
    start(tab)
    (job,) = jobs.all()
    jobs.stop(job.id)
    tab.runs.delete(job.id)
    assert not (tmp_path / "runs" / "evaluations" / "mine").exists()


def test_every_method_that_can_be_compared_is_offered(tab: Compare) -> None:
    offered = [name for _, name in tab.form.wishes["methods"].choices]
    assert offered == [name for name, one in METHODS.items() if one.adapters != "added"]
