"""The tab that trains: the form becomes a report, a budget and a run; and runs are shown."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Page

from cgclora.data.task_table import TABLE_FILE
from evals.experiments.training_log import read_log
from evals.jobs.queue import Job, Jobs
from evals.jobs.worker import work
from evals.methods import CGC_LORA
from tests.browser.app_tour import visiting
from tests.helpers.queues import Waiting, Worked
from tests.helpers.records import lines
from tests.helpers.tiny import save_backbone
from tests.helpers.tiny_models import tiny_models
from tests.ui.test_app import MARKUP, save_adapter
from ui.components.texts import TEXTS, text
from ui.engine.engine import AppEngine
from ui.engine.settings import Settings
from ui.shell import Shell
from ui.tabs.jobs import view as jobs_view
from ui.tabs.train import view as train_view
from ui.tabs.train.form import SIZES, STAND_INS
from ui.tabs.train.tab import Train

Updates = dict[Any, Any]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    save_adapter(folder / "general", ("SentimentAnalyze", "NER", "Couplet"))
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_backbone(tmp_path_factory.mktemp("backbone")))


@pytest.fixture
def engine(adapters: Path, tmp_path: Path) -> AppEngine:
    return AppEngine(
        adapters,
        tiny_models(),
        trained=tmp_path / "runs" / "training",
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def jobs(runs: Path) -> Jobs:
    return Waiting(runs / "jobs")


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CGCLORA_DATA", raising=False)


def visitor(**query: str) -> gr.Request:
    return SimpleNamespace(session_hash="one", query_params=query, headers={})  # type: ignore[return-value]


ENGLISH = visitor(lang="en")


@pytest.fixture
def tab(engine: AppEngine, jobs: Jobs, runs: Path) -> Train:
    return tab_of(engine, jobs, runs)


def tab_of(
    engine: AppEngine, jobs: Jobs, runs: Path, allowed: bool = True, backbone: str | None = None
) -> Train:
    with gr.Blocks():
        shell = Shell(gr.Blocks())
        with shell.tab("train"):
            return Train(shell, engine, jobs, settings_of(runs, allowed, backbone))


def settings_of(runs: Path, allowed: bool = True, backbone: str | None = None) -> Settings:
    return Settings(runs=runs, jobs_allowed=allowed, backbone=backbone)


def filled_in(tab: Train, **changes: Any) -> list[Any]:
    """The values of the form as it comes, with some changed."""
    values = {name: getattr(field, "value", None) for name, field in tab.inputs.items()}
    return [*(values | {"source": "samples", "name": "mine"} | changes).values()]


def look(tab: Train, **changes: Any) -> str:
    return str(tab.inspect(ENGLISH, *filled_in(tab, **changes))[tab.form.report])


def plan(tab: Train, **changes: Any) -> Updates:
    return tab.plan(ENGLISH, *filled_in(tab, **changes))


def start(tab: Train, **changes: Any) -> Updates:
    return tab.submit(ENGLISH, *filled_in(tab, **changes))


def upload(folder: Path, *more: object, count: int = 8) -> str:
    """A file of two tasks."""
    items = [
        {"task": task, "input": f"question {number} of {task}", "target": "yes"}
        for task in ("greet", "mood")
        for number in range(count)
    ]
    return str(lines(folder / "mine.jsonl", *items, *more))


def figures(html: str) -> list[str]:
    return re.findall(r"<b>([^<]*)</b><span>", html)


# Data -----------------------------------------------------------------------------------------


def test_our_samples_are_there_at_once_and_said_to_be_few(tab: Train) -> None:
    shown = look(tab)
    assert figures(shown) == ["24", "72", "24"]
    assert "will hardly learn" in shown
    assert text("train_tokens_later", "en") in shown


def test_before_a_file_is_chosen_nothing_is_wrong(tab: Train) -> None:
    assert text("train_upload_first", "en") in look(tab, source="upload")
    updates = plan(tab, source="upload")
    assert text("train_no_data", "en") in updates[tab.form.budget]
    assert updates[tab.command] == ""


def test_bad_lines_of_an_upload_are_told_and_never_markup(tab: Train, tmp_path: Path) -> None:
    bad = {"task": MARKUP, "input": "", "target": MARKUP}
    file = upload(tmp_path, *[bad] * 25, {"task": MARKUP, "input": "a", "target": MARKUP})
    more = upload(tmp_path / "more", {"task": MARKUP, "input": "b", "target": MARKUP})
    shown = look(tab, source="upload", train_file=file, dev_file=more)
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "25 lines cannot be read and are skipped; the first 20" in shown
    assert shown.count("must be non-empty text") == 20
    assert "mine.jsonl, line 17" in shown
    assert str(tmp_path) not in shown


@pytest.mark.parametrize("content", ["", "{", "\xff", "[1, 2"])
def test_an_unreadable_upload_says_what_is_wrong_without_the_folder(
    tab: Train, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(content.encode("latin-1"))
    shown = look(tab, source="upload", train_file=str(file))
    assert TEXTS["jobs_unreadable"][1] in shown
    assert "mine.jsonl" in shown
    assert str(tmp_path) not in shown


def test_a_changed_file_is_read_again(tab: Train, tmp_path: Path) -> None:
    file = upload(tmp_path)
    assert figures(look(tab, source="upload", train_file=file)) == ["2", "12", "4"]
    upload(tmp_path, count=16)
    assert figures(look(tab, source="upload", train_file=file)) == ["2", "24", "8"]


def test_tasks_of_an_older_source_are_passed_over(tab: Train, tmp_path: Path) -> None:
    values = filled_in(
        tab, source="upload", train_file=upload(tmp_path), tasks=["NER", "mood", "gone"]
    )
    updates = tab.inspect(ENGLISH, *values)
    assert updates[tab.form.data["tasks"]]["value"] == ["mood"]
    assert updates[tab.form.data["tasks"]]["choices"] == ["greet", "mood"]
    assert figures(updates[tab.form.report])[0] == "1"


def test_an_unknown_source_is_no_error(tab: Train) -> None:
    assert text("train_upload_first", "en") in look(tab, source="/etc")


def test_clusters_of_the_data_folder_are_offered(
    tab: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"kind": "Couplet", "input": "上联：{}", "target": "{}"}
    for split in ("train", "dev"):
        some = [json.loads(json.dumps(record).replace("{}", f"{split} {n}")) for n in range(3)]
        lines(tmp_path / "firefly" / f"{split}.jsonl", *some)
    monkeypatch.setenv("CGCLORA_DATA", str(tmp_path))
    arrived = tab.show(visitor(lang="en", source="general", method="MOE-LoRA"), None, None)
    choices = [name for _, name in arrived[tab.form.data["source"]]["choices"]]
    assert choices == ["samples", "general", "upload"]
    assert arrived[tab.form.data["source"]]["value"] == "general"
    assert arrived[tab.form.settings["method"]]["value"] == "MOE-LoRA"
    assert figures(arrived[tab.form.report]) == ["1", "3", "3"]
    assert figures(look(tab, source="general")) == ["1", "3", "3"]
    shown = plan(tab, source="general", tasks=["Couplet"])
    assert "--data $CGCLORA_DATA/firefly/train.jsonl" in shown[tab.command]
    assert shown[tab.command].endswith("--task Couplet")
    assert not shown[tab.command_note]["visible"]


def test_the_address_cannot_name_what_is_not_there(tab: Train) -> None:
    arrived = tab.show(visitor(source="/etc", method="LoRAHub"), None, None)
    assert arrived[tab.form.data["source"]]["value"] == "samples"
    assert arrived[tab.form.settings["method"]]["value"] == CGC_LORA


def test_what_is_chosen_stays_when_the_tab_is_shown_again(tab: Train) -> None:
    arrived = tab.show(visitor(source="samples", method="MOE-LoRA"), "upload", 3)
    assert arrived[tab.form.data["source"]]["value"] == "upload"
    assert arrived[tab.arrived] == 4  # which calls for the report on what the page holds
    for part in (tab.name, tab.form.report, tab.form.settings["method"]):
        assert part not in arrived


def test_the_tab_comes_with_report_and_plan(tab: Train) -> None:
    arrived = tab.show(ENGLISH, None, None)
    assert arrived[tab.form.report] == look(tab)
    assert arrived[tab.form.budget] == plan(tab)[tab.form.budget]
    assert "runs/training/my-1" in arrived[tab.command]
    assert tab.name not in arrived  # the field was built with it
    assert arrived[tab.form.settings["lora_rank"]] == gr.update(visible=False)
    assert tab.arrived not in arrived
    start(tab, name="my-1")
    later = tab.show(ENGLISH, None, None)
    assert later[tab.name] == "my-2"
    assert "runs/training/my-2" in later[tab.command]


def test_the_tab_does_not_wait_for_large_data_until_it_was_read_once(
    tab: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "dev"):
        couplets = [
            {"kind": "Couplet", "input": f"{split} {n}" * 2**16, "target": "y"} for n in "12"
        ]
        lines(tmp_path / "firefly" / f"{split}.jsonl", *couplets)
    monkeypatch.setenv("CGCLORA_DATA", str(tmp_path))
    request = visitor(lang="en", source="general")
    arrived = tab.show(request, None, 3)
    assert text("train_reading", "en") in arrived[tab.form.report]
    assert arrived[tab.arrived] == 4  # which calls for the report
    report = look(tab, source="general")
    again = tab.show(request, None, None)
    assert again[tab.form.report] == report
    assert tab.arrived not in again


# Budget and command ---------------------------------------------------------------------------


def test_the_budget_counts_as_the_backbone_does_once_it_is_there(tab: Train) -> None:
    before = plan(tab)[tab.form.budget]
    assert before.count(text("train_after_loading", "en")) == 1  # the share alone
    assert tab.wait(0) == gr.skip()
    tab.engine.start()
    assert tab.engine.wait(60)
    assert not tab.wait(0)[tab.load_clock].active
    after = plan(tab)[tab.form.budget]
    assert text("train_after_loading", "en") not in after
    assert figures(before)[0] == figures(after)[0]
    assert "%" in figures(after)[1]
    assert text("train_tokens_later", "en") not in look(tab)
    modules = plan(tab)[tab.form.settings["modules"]]["choices"]
    assert set(modules) >= {"q_proj", "down_proj"}


def test_steps_follow_records_batch_and_epochs(tab: Train) -> None:
    assert figures(plan(tab)[tab.form.budget])[3] == "18"
    changed = plan(tab, records_per_task=2, batch_size=6, epochs=3)
    assert figures(changed[tab.form.budget])[3] == "24"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": None}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": None}, "learning_rate"),
        ({"alpha": None}, "alpha"),
        ({"common": 0}, "sizes.common"),
        ({"method": "LoRAHub"}, "LoRAHub"),
    ],
)
def test_settings_that_cannot_be_are_named(tab: Train, changes: dict[str, Any], words: str) -> None:
    updates = plan(tab, **changes)
    assert TEXTS["train_bad_settings"][1] in updates[tab.form.budget]
    assert words in updates[tab.form.budget]
    assert updates[tab.command] == ""


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        ("CGC-LoRA", {"common", "specific", "expert_rank"}),
        ("LoRA (Full)", {"lora_rank"}),
        ("MOE-LoRA", {"common", "specific", "expert_rank", "moe_experts"}),
    ],
)
def test_the_sizes_of_the_method_are_asked_for(tab: Train, method: str, sizes: set[str]) -> None:
    updates = plan(tab, method=method)
    assert {name for name in SIZES if updates[tab.form.settings[name]]["visible"]} == sizes


def test_the_command_is_the_one_that_is_run_but_for_its_paths(
    tab: Train, jobs: Jobs, tmp_path: Path
) -> None:
    chosen = {"source": "upload", "train_file": upload(tmp_path), "name": "some-run"}
    shown = shlex.split(plan(tab, **chosen)[tab.command])
    start(tab, **chosen)
    (job,) = jobs.all()
    paths = [STAND_INS[0], STAND_INS[1], "runs/training/some-run"]
    assert [part for part in shown[1:] if part not in paths] == [
        part for part in job.command if not part.startswith(str(tmp_path))
    ]
    assert Path(job.command[job.command.index("--run") + 1]).name == "some-run"


# Starting -------------------------------------------------------------------------------------


def test_a_run_takes_its_place_in_the_queue_with_its_data_beside_it(
    tab: Train, jobs: Jobs, tmp_path: Path
) -> None:
    start(tab, name="first")
    updates = start(tab, name="second", source="upload", train_file=upload(tmp_path))
    second, first = jobs.all()
    assert (first.title, second.title, second.place) == ("first", "second", 2)
    assert first.clean == STAND_INS
    assert second.clean == (*STAND_INS, TABLE_FILE)
    written = [(second.folder / name).read_text().count("\n") for name in STAND_INS]
    assert written == [12, 4]
    assert updates[tab.runs.choice]["value"] == second.id
    assert [name for _, name in updates[tab.runs.choice]["choices"]] == [second.id, first.id]
    assert "queued, place 2" in updates[tab.runs.head]
    assert updates[tab.runs.clock].active
    assert updates[tab.name] == "my-1"


@pytest.mark.parametrize(
    "name", ["", "a b", "../x", "名字", "x" * 41, "general", "taken", "there", "-a", "backbone"]
)
def test_a_name_that_cannot_be_is_refused(tab: Train, jobs: Jobs, runs: Path, name: str) -> None:
    start(tab, name="taken")
    (runs / "training" / "there").mkdir(parents=True)
    updates = start(tab, name=name)
    assert 'class="notice"' in updates[tab.outcome]
    assert len(jobs.all()) == 1


def test_nothing_is_started_without_usable_data_or_settings(tab: Train, jobs: Jobs) -> None:
    for changes in (
        {"source": "upload"},
        {"epochs": 0},
        {"train_file": "/gone", "source": "upload"},
    ):
        assert 'class="notice"' in start(tab, **changes)[tab.outcome]
    assert jobs.all() == []


def test_where_it_is_not_allowed_all_but_training_works(
    engine: AppEngine, jobs: Jobs, runs: Path
) -> None:
    tab = tab_of(engine, jobs, runs, allowed=False, backbone="/elsewhere/on/the/server/own")
    assert plan(tab)[tab.command].endswith("--backbone own")
    assert figures(look(tab))[0] == "24"
    assert plan(tab)[tab.command].startswith("python -m cgclora train")
    assert not tab.start.visible
    assert "CGCLORA_ALLOW_JOBS=1" in start(tab)[tab.outcome]
    assert jobs.all() == []


# Runs -----------------------------------------------------------------------------------------


def small(folder: Path, **more: Any) -> dict[str, Any]:
    """A run of a few steps."""
    chosen = {"source": "upload", "train_file": upload(folder), "batch_size": 6, "epochs": 3}
    return {**chosen, "evaluations": 2, **more}


def test_a_run_is_trained_shown_and_its_adapter_can_be_used(
    engine: AppEngine, jobs: Jobs, runs: Path, tmp_path: Path, backbone: str
) -> None:
    tab = tab_of(engine, jobs, runs, backbone=backbone)
    engine.start()
    start(tab, **small(tmp_path, name="trained"))
    (job,) = jobs.all()
    work(jobs.root, idle=0.0)
    shown = tab.runs.updates(job.id, visitor(lang="en"))
    head = shown[tab.runs.head]
    assert jobs.get(job.id).state == "done", jobs.get(job.id).log_tail()
    assert "Step 6 of 6" in head
    assert "tab=try&amp;cluster=trained&amp;task=greet&amp;lang=en" in head
    assert not any((job.folder / name).exists() for name in STAND_INS)
    assert not shown[tab.runs.clock].active
    log = read_log(runs / "training" / "trained")
    assert log is not None
    names = [line.name for line in shown[tab.runs.losses]["value"].data]
    assert names == ["greet", "mood", "all tasks", "dev"]
    assert list(shown[tab.runs.losses]["value"].data[2].y) == [value for _, value in log.loss]
    assert list(shown[tab.runs.losses]["value"].data[3].y) == [value for _, value in log.dev_loss]
    shares = shown[tab.runs.gates]["value"].data[0].y
    assert all(0 < share < 1 for share in shares)
    assert f"{log.dev_losses['mood'][-1][1]:.3f}" in shown[tab.runs.head]
    assert engine.wait(60)
    engine.refresh()
    assert "trained" in engine.clusters()
    assert tab.runs.seconds_a_character() is not None
    assert figures(plan(tab)[tab.form.budget])[4] != "–"


def test_a_run_that_fails_shows_the_end_of_its_log_alone(
    engine: AppEngine, jobs: Jobs, runs: Path, tmp_path: Path, backbone: str
) -> None:
    tab = tab_of(engine, jobs, runs, backbone=backbone)
    start(tab, **small(tmp_path, name="wild", max_length=3))
    work(jobs.root, idle=0.0)
    (job,) = jobs.all()
    assert job.state == "failed"
    shown = tab.runs.updates(job.id, ENGLISH)
    said = re.search(r"<pre[^>]*>(.*?)</pre>", shown[tab.runs.head], re.DOTALL)
    assert said is not None
    assert "no record within 3 tokens" in said[1]
    assert "-m cgclora" not in said[1]
    assert shown[tab.runs.resume]["visible"]
    assert shown[tab.runs.remove]["visible"]
    assert not shown[tab.runs.stop]["visible"]


def test_runs_are_stopped_resumed_and_removed(tab: Train, jobs: Jobs) -> None:
    start(tab, name="one")
    (job,) = jobs.all()
    act = tab.runs.acting
    stopped = act(jobs.stop)(job.id, ENGLISH)
    assert "stopped" in stopped[tab.runs.head]
    assert (stopped[tab.runs.resume]["visible"], stopped[tab.runs.stop]["visible"]) == (True, False)
    resumed = act(jobs.resume)(job.id, ENGLISH)
    assert "queued" in resumed[tab.runs.head]
    assert resumed[tab.runs.clock].active
    refused = act(jobs.remove)(job.id, ENGLISH)
    assert TEXTS["jobs_action_failed"][1] in refused[tab.runs.problem]["value"]
    act(jobs.stop)(job.id, ENGLISH)
    removed = act(jobs.remove)(job.id, ENGLISH)
    assert removed[tab.runs.no_jobs]["visible"]
    assert not removed[tab.runs.body]["visible"]
    assert jobs.all() == []


def test_a_stopped_run_whose_upload_is_gone_says_so(tab: Train, jobs: Jobs) -> None:
    start(tab, name="one")
    (job,) = jobs.all()
    jobs.stop(job.id)
    (job.folder / STAND_INS[0]).unlink()
    shown = tab.runs.updates(job.id, ENGLISH)
    assert text("jobs_upload_gone", "en") in shown[tab.runs.head]
    assert not shown[tab.runs.resume]["visible"]


def test_nothing_is_drawn_anew_before_something_changed(tab: Train, jobs: Jobs) -> None:
    start(tab, name="one")
    (job,) = jobs.all()
    seen = tab.runs.updates(job.id, ENGLISH)[tab.runs.seen]
    watch = tab.runs.refresh
    assert watch(job.id, seen, True, ENGLISH) == gr.skip()
    jobs.stop(job.id)
    assert tab.runs.choice in watch(job.id, seen, True, ENGLISH)
    ((clock, update),) = watch(job.id, seen, False, ENGLISH).items()
    assert clock is tab.runs.clock
    assert not update.active


def test_other_kinds_of_jobs_are_not_in_the_list(tab: Train, jobs: Jobs) -> None:
    jobs.submit("evaluate", ["-c", ""], title="a score")
    assert tab.runs.updates(None, ENGLISH)[tab.runs.no_jobs]["visible"]


def test_the_run_that_the_address_names_is_shown(tab: Train, jobs: Jobs) -> None:
    for name in ("one", "two"):
        start(tab, name=name)
    newest, oldest = jobs.all()
    show = tab.runs.arrive
    assert show(visitor(run=oldest.id), None)[tab.runs.choice]["value"] == oldest.id
    assert show(visitor(run="gone"), None)[tab.runs.choice]["value"] == newest.id
    assert show(visitor(run=oldest.id), newest.id)[tab.runs.choice]["value"] == newest.id


def test_titles_of_runs_are_never_markup(jobs: Jobs) -> None:
    facts = {"method": MARKUP, "tasks": [MARKUP], "common": 1, "specific": 1}
    job: Job = jobs.submit("train", ["-c", MARKUP], title=MARKUP, facts=facts)
    for shown in (
        train_view.run(job, None, "en", ""),
        jobs_view.command(job, "en"),
    ):
        assert "<script>" not in shown
        assert "<img" not in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "3 s"), (89, "89 s"), (90, "1.5 min"), (1200, "20 min"), (5400, "1.5 h"), (90000, "25 h")],
)
def test_times_have_two_digits(seconds: float, words: str) -> None:
    assert jobs_view.span(seconds, "en") == words


# In a browser ---------------------------------------------------------------------------------


@pytest.fixture
def page(engine: AppEngine, runs: Path, backbone: str) -> Iterator[Page]:
    jobs = Worked(runs / "jobs")
    with gr.Blocks() as built:
        shell = Shell(built)
        with shell.tab("try"):
            gr.HTML("elsewhere")
        with shell.tab("train"):
            Train(shell, engine, jobs, settings_of(runs, backbone=backbone))
        shell.wire()
    engine.start()
    with visiting(built, "tab=train&lang=en&source=upload&method=CGC-LoRA%20w%2Fo%20gate") as page:
        page.locator("#train-report .train-empty").wait_for()
        yield page
    jobs.end()


@pytest.mark.browser
def test_a_visitor_uploads_trains_reloads_and_goes_to_try_it(page: Page, tmp_path: Path) -> None:
    page.locator("#train-file input[type=file]").set_input_files(upload(tmp_path))
    page.locator("#train-report .train-figures").wait_for()
    page.wait_for_function("document.querySelector('#train-command textarea').value.match('unif')")
    page.locator("#train-epochs input").fill("4")
    page.locator("#train-name input, #train-name textarea").fill("own-1")
    page.wait_for_function("document.querySelector('#train-command textarea').value.match('own-1')")
    page.locator("#train-start").click()
    page.wait_for_url(re.compile(r"run=\d{8}-"))
    page.locator("#train-job .job").wait_for()
    page.reload()
    page.locator(".job.done").wait_for()
    page.locator("#train-job tbody tr").first.wait_for()
    assert page.locator("#train-job tbody tr").count() == 2
    assert "w/o gate" in page.locator("#train-job .facts").inner_text()
    page.get_by_role("link", name="Try it").click()
    page.wait_for_url(re.compile("tab=try&cluster=own-1&task=greet"))
