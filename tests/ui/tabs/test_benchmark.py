"""The tab that evaluates: what it makes of a visitor's choices, and what it shows of jobs."""

import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Page

from cgclora.data.records import DataError
from cgclora.storage.atomic_io import read_sealed
from evals.jobs.queue import Job, Jobs
from evals.runs.run_dir import read_run
from tests.browser.app_tour import settle, visiting
from tests.helpers.queues import Waiting, Worked
from tests.helpers.tiny import save_backbone
from tests.helpers.tiny_models import tiny_models
from tests.ui.test_app import MARKUP, save_adapter
from ui.components.texts import text
from ui.engine.engine import AppEngine
from ui.engine.settings import AppLimits, Settings
from ui.server.files import check_upload
from ui.shell import Shell
from ui.tabs.benchmark.tab import Benchmark

TASKS = ("SentimentAnalyze", "NER", "Couplet")
LINES = [
    {"kind": "SentimentAnalyze", "input": "灯光柔和", "target": "积极"},
    {"kind": "SentimentAnalyze", "input": "太吵了", "target": "消极"},
    {"kind": "Couplet", "input": "请对下联：春风", "target": "秋雨"},
    {"kind": "KUAKE-QIC", "input": "牙疼怎么办", "target": "治疗方案"},
]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    save_adapter(folder / "general", TASKS)
    save_adapter(folder / "compare" / "other", ("NER",))
    save_adapter(folder / "my-own", ("greet", "<b>bold</b>"))
    return folder


@pytest.fixture
def engine(adapters: Path) -> AppEngine:
    return AppEngine(adapters, tiny_models())


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Waiting(tmp_path / "runs" / "jobs")


def visitor(**query: str) -> gr.Request:
    return SimpleNamespace(session_hash="one", query_params=query, headers={})  # type: ignore[return-value]


def tab_of(engine: AppEngine, jobs: Jobs, allowed: bool = True, **options: Any) -> Benchmark:
    with gr.Blocks() as page:
        shell = Shell(page)
        with shell.tab("benchmark"):
            return Benchmark(shell, engine, jobs, settings_of(jobs, allowed, **options))


def settings_of(jobs: Jobs, allowed: bool = True, **options: Any) -> Settings:
    return Settings(runs=jobs.root.parent, jobs_allowed=allowed, **options)


def opened(tab: Benchmark, **query: str) -> dict[Any, Any]:
    return tab.show(visitor(**query), None, None, None, None, 50)


def value(update: Any) -> Any:
    return update["value"] if isinstance(update, dict) else update


def write(path: Path, lines: list[Any]) -> Path:
    texts = [
        line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines
    ]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


# Choosing -------------------------------------------------------------------------------------


def test_at_first_all_tasks_of_the_first_adapter_are_chosen(engine, jobs, monkeypatch):
    monkeypatch.delenv("CGCLORA_DATA", raising=False)
    tab = tab_of(engine, jobs)
    shown = opened(tab)
    assert shown[tab.adapter]["value"] == "general"
    assert [name for _, name in shown[tab.adapter]["choices"]] == [
        *("general", "compare/other", "my-own", "backbone")
    ]
    assert shown[tab.source]["value"] == "samples"
    assert [name for _, name in shown[tab.source]["choices"]] == ["samples", "upload"]
    assert shown[tab.tasks]["value"] == [*engine.tasks("general")]
    assert shown[tab.kept_tasks] == ""
    assert "12" in shown[tab.extent]
    assert "--task" not in shown[tab.command]
    assert shown[tab.start]["interactive"]


def test_the_official_data_is_offered_where_it_is_known(engine, jobs, monkeypatch, tmp_path):
    write(tmp_path / "test.jsonl", LINES)
    monkeypatch.setenv("CGCLORA_DATA", str(tmp_path))
    tab = tab_of(engine, jobs)
    shown = opened(tab)
    assert shown[tab.source]["value"] == "official"
    assert shown[tab.tasks]["value"] == ["Couplet", "SentimentAnalyze"]
    assert "--data" not in shown[tab.command]
    (tmp_path / "test.jsonl").unlink()
    broken = opened(tab)
    assert "notice" in broken[tab.report]["value"]
    assert str(tmp_path) not in broken[tab.report]["value"]
    assert not broken[tab.start]["interactive"]


def test_the_address_chooses(engine, jobs):
    tab = tab_of(engine, jobs)
    query = {"bench": "backbone", "bench_data": "samples", "bench_tasks": "NER,nonsense,Couplet"}
    shown = opened(tab, **query, bench_n="3")
    assert shown[tab.adapter]["value"] == "backbone"
    assert shown[tab.tasks]["value"] == ["Couplet", "NER"]
    assert shown[tab.per_task] == 3
    words = shlex.split(shown[tab.command])
    assert words[:4] == ["python", "-m", "evals", "run"]
    assert words.count("--task") == 2
    assert words[words.index("--per-task") + 1] == "3"
    assert words[words.index("--method") + 1] == "Backbone"
    assert "--adapter" not in words


@pytest.mark.parametrize(
    "query",
    [
        {"bench": MARKUP, "bench_data": MARKUP, "bench_tasks": MARKUP, "bench_n": MARKUP},
        {"bench_n": "-1", "bench_data": "official", "bench_job": "../../etc"},
        {"bench_n": "²"},
    ],
)
def test_an_address_that_makes_no_sense_is_passed_over(engine, jobs, monkeypatch, query):
    monkeypatch.delenv("CGCLORA_DATA", raising=False)
    tab = tab_of(engine, jobs)
    shown = opened(tab, **query)
    assert shown[tab.adapter]["value"] == "general"
    assert shown[tab.source]["value"] == "samples"
    tab.runs.arrive(visitor(**query), query.get("bench_job"))


@pytest.mark.parametrize(
    "values",
    [
        ("my-own", "samples", None, ["NER"], 5),  # tasks of the adapter before
        ("compare/other", "samples", None, ["Couplet", "NER"], 5),
        ("gone", "gone", None, ["gone"], None),
        (None, None, None, None, None),
        ("general", "samples", None, ["NER"], -5),
        ("general", "upload", "/nowhere/test.jsonl", ["NER"], 0),
    ],
)
def test_values_that_do_not_fit_together_are_made_to_fit(engine, jobs, values):
    tab = tab_of(engine, jobs)
    for handler in (tab.choose_data, tab.choose_tasks):
        shown = handler(visitor(), *values)
        command = shlex.split(shown[tab.command])
        adapter = values[0] if values[0] in engine.configs else "general"
        tasks = [word for flag, word in pairwise(command) if flag == "--task"]
        assert set(tasks) <= set(engine.tasks(adapter))
        if "--per-task" in command:
            assert int(command[command.index("--per-task") + 1]) > 0


def test_without_a_task_nothing_can_be_started(engine, jobs):
    tab = tab_of(engine, jobs)
    shown = tab.choose_tasks(visitor(lang="en"), "general", "samples", None, [], 5)
    assert not shown[tab.start]["interactive"]
    assert shown[tab.command] == ""
    assert text("bench_choose_task", "en") in shown[tab.extent]
    outcome = tab.submit(visitor(lang="en"), "general", "samples", None, [], 5)
    assert text("bench_choose_task", "en") in outcome[tab.outcome]
    assert jobs.all() == []


def test_an_adapter_that_knows_no_task_of_the_data_says_so(engine, jobs):
    tab = tab_of(engine, jobs)
    shown = tab.choose_data(visitor(lang="en"), "my-own", "samples", None, None, 5)
    assert text("bench_no_common_task", "en") in shown[tab.report]["value"]
    assert not shown[tab.start]["interactive"]


def test_titles_tell_adapters_apart(engine, jobs):
    tab = tab_of(engine, jobs)
    rows = [row for row, _ in opened(tab, lang="en")[tab.adapter]["choices"]]
    titles = [row.split("\n")[0] for row in rows]
    assert len(set(titles)) == len(titles)


# Uploads --------------------------------------------------------------------------------------


def test_an_uploaded_file_is_reported_at_once(engine, jobs, tmp_path):
    lines = [*LINES, {"kind": MARKUP, "input": "x", "target": "y"}, f"{{{MARKUP}", {"kind": "NER"}]
    path = write(tmp_path / "test.jsonl", lines)
    tab = tab_of(engine, jobs)
    shown = tab.choose_data(visitor(lang="en"), "general", "upload", str(path), None, 5)
    report = shown[tab.report]["value"]
    assert text("bench_found", "en", records="5", tasks=4) in report
    own = shown[tab.own.parts[0]]["value"]
    assert text("own_note", "en") in own
    assert "line 6" in report
    assert "line 7" in report
    for page in (report, own):
        assert "<script>" not in page
        assert "<img" not in page
    assert shown[tab.tasks]["value"] == ["Couplet", "SentimentAnalyze"]
    command = shlex.split(shown[tab.command])
    assert "--skip-bad" in command
    assert "--task" not in command  # all that the adapter knows
    assert str(tmp_path) not in shown[tab.command].split("--run")[0].split("--data")[1]


def test_a_file_without_a_record_says_why(engine, jobs, tmp_path):
    path = write(tmp_path / "test.jsonl", [{"kind": "NER", "input": "x"}])
    tab = tab_of(engine, jobs)
    shown = tab.choose_data(visitor(lang="en"), "general", "upload", str(path), None, 5)
    report = shown[tab.report]["value"]
    assert text("jobs_unreadable", "en") in report
    assert "target" in report
    assert str(tmp_path) not in report
    assert not shown[tab.start]["interactive"]


def test_an_upload_becomes_the_job_s_and_goes_with_it(engine, jobs, tmp_path):
    path = write(tmp_path / "job.json", LINES)  # as a file of the job's own is called
    tab = tab_of(engine, jobs)
    shown = tab.submit(visitor(), "general", "upload", str(path), ["Couplet"], 5)
    (job,) = jobs.all()
    assert not path.exists()
    kept = job.folder / "upload" / "job.json"
    assert kept.exists()
    assert str(kept) in " ".join(job.command)
    assert job.clean == ("upload/job.json",)
    assert shown[tab.upload] is None
    jobs.remove_uploads(job)
    assert not kept.exists()
    again = tab.submit(visitor(lang="en"), "general", "upload", str(path), ["Couplet"], 5)
    assert text("bench_gone", "en") in again[tab.outcome]
    assert len(jobs.all()) == 1


# Starting -------------------------------------------------------------------------------------


def test_a_job_runs_the_command_that_was_shown(engine, jobs):
    tab = tab_of(engine, jobs)
    values = ("general", "samples", None, ["NER"], 2)
    shown = tab.choose_tasks(visitor(), *values)[tab.command]
    started = tab.submit(visitor(), *values)
    (job,) = jobs.all()
    before, _, _ = shown.partition(" --run ")
    assert job.command_line().startswith(f"{before} --run ")
    assert Path(job.command[-1]).name == job.id
    assert Path(job.command[-1]).parent.name == "evaluations"
    assert job.facts["records"] == 2
    assert job.facts["method"] == "CGC-LoRA"
    assert started[tab.runs.choice]["value"] == job.id
    assert started[tab.runs.clock].active


def test_the_queue_has_an_end(adapters, jobs):
    limits = AppLimits(jobs=3)
    tab = tab_of(AppEngine(adapters, tiny_models(limits)), jobs)
    for _ in range(3):
        tab.submit(visitor(), "general", "samples", None, ["NER"], 1)
    refused = tab.submit(visitor(lang="en"), "general", "samples", None, ["NER"], 1)
    assert text("jobs_full", "en", count=3) in refused[tab.outcome]
    assert len(jobs.all()) == 3


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("much.jsonl", b"x" * 2_000_001, "2 MB, at most 1 are read"),
        ("long.jsonl", b"{}\n" * 11, "11 lines, at most 10 are read"),
        ("page.html", b"<b>", r"ends in \.jsonl or \.json"),
    ],
)
def test_an_upload_that_is_too_much_is_refused(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        check_upload(tmp_path / name, AppLimits(upload_mb=1, upload_lines=10))


def test_where_jobs_are_not_allowed_there_is_the_command_alone(engine, jobs, monkeypatch):
    monkeypatch.delenv("CGCLORA_DATA", raising=False)
    tab = tab_of(engine, jobs, allowed=False, backbone="/elsewhere/on/the/server/own-backbone")
    shown = opened(tab, lang="en", bench_data="upload")
    assert "--adapter general --backbone own-backbone " in shown[tab.command]
    assert not tab.start.visible
    assert not tab.upload.visible
    assert "my-test.jsonl" in shown[tab.command]
    assert str(Path(__file__).parents[3]) not in shown[tab.command]
    assert str(engine.folder) not in shown[tab.command]
    assert "--run runs/evaluations/general" in shown[tab.command]
    tab.submit(visitor(), "general", "samples", None, ["NER"], 1)
    assert jobs.all() == []
    hidden = jobs.submit("evaluate", ["-c", ""], title="private")
    for update in (
        tab.runs.arrive(visitor(bench_job=hidden.id), None),
        tab.runs.acting(jobs.stop)(hidden.id, visitor()),
    ):
        assert "private" not in str(update)
    assert jobs.get(hidden.id).state == "queued"


# Jobs -----------------------------------------------------------------------------------------


def some_job(jobs: Jobs, **changes: Any) -> Job:
    facts = {"adapter": "general", "method": "CGC-LoRA", "source": "samples", "data": "samples"}
    facts |= {"tasks": ["NER", "Couplet"], "per_task": 0, "records": 8, "work": 100.0}
    job = jobs.submit("evaluate", ["-c", "?"], title="t", facts=facts)
    path = job.folder / "job.json"
    path.write_text(json.dumps({**read_sealed(path), **changes}))
    return jobs.get(job.id)


def page_of(tab: Benchmark, job: Job | None = None, **query: str) -> dict[Any, Any]:
    shown: dict[Any, Any] = tab.runs.updates(job and job.id, visitor(**{"lang": "en", **query}))
    return shown


def test_without_jobs_the_list_is_not_there(engine, jobs):
    tab = tab_of(engine, jobs)
    shown = page_of(tab)
    assert shown[tab.runs.no_jobs]["visible"]
    assert not shown[tab.runs.body]["visible"]
    assert not shown[tab.runs.clock].active


def test_a_queued_job_can_be_stopped_resumed_and_removed(engine, jobs):
    tab = tab_of(engine, jobs)
    first, second = some_job(jobs), some_job(jobs)
    shown = page_of(tab, second)
    assert text("jobs_state_queued", "en", place=2) in shown[tab.runs.head]
    assert [name for _, name in shown[tab.runs.choice]["choices"]] == [second.id, first.id]
    buttons = [shown[part]["visible"] for part in (tab.runs.stop, tab.runs.resume, tab.runs.remove)]
    assert buttons == [True, False, False]
    act = {name: tab.runs.acting(getattr(jobs, name)) for name in ("stop", "resume")}
    stopped = act["stop"](second.id, visitor())
    buttons = [
        stopped[part]["visible"] for part in (tab.runs.stop, tab.runs.resume, tab.runs.remove)
    ]
    assert buttons == [False, True, True]
    assert act["resume"](second.id, visitor())[tab.runs.stop]["visible"]
    act["stop"](second.id, visitor())
    partial = tab.folder / f"{second.id}.partial"
    partial.mkdir(parents=True)
    removed = tab.runs.acting(tab.runs.delete)(second.id, visitor())
    assert removed[tab.runs.choice]["value"] == first.id
    assert not partial.exists()


def test_what_cannot_be_done_is_said(engine, jobs):
    tab = tab_of(engine, jobs)
    job = some_job(jobs)
    shown = tab.runs.acting(jobs.resume)(job.id, visitor(lang="en"))
    assert text("jobs_action_failed", "en") in shown[tab.runs.problem]["value"]


def test_nothing_is_drawn_anew_while_nothing_changes(engine, jobs):
    tab = tab_of(engine, jobs)
    job = some_job(jobs)
    shown = page_of(tab, job)
    look = tab.runs.refresh
    assert look(job.id, shown[tab.runs.seen], True, visitor(lang="en")) == gr.skip()
    jobs.stop(job.id)
    after = look(job.id, shown[tab.runs.seen], True, visitor(lang="en"))
    assert not after[tab.runs.clock].active


def test_the_clock_stops_when_the_tab_is_out_of_view(engine, jobs):
    tab = tab_of(engine, jobs)
    job = some_job(jobs)
    (update,) = tab.runs.refresh(job.id, "", False, visitor()).values()
    assert not update.active


def test_trainings_stand_in_the_queue_but_not_in_the_list(engine, jobs):
    tab = tab_of(engine, jobs)
    jobs.submit("train", ["-c", ""], title="a training")
    job = some_job(jobs)
    shown = page_of(tab)
    assert [name for _, name in shown[tab.runs.choice]["choices"]] == [job.id]
    assert text("jobs_state_queued", "en", place=2) in shown[tab.runs.head]


def test_a_running_job_shows_a_bar_for_each_task(engine, jobs):
    tab = tab_of(engine, jobs)
    job = some_job(jobs)
    partial = tab.folder / f"{job.id}.partial"
    partial.mkdir(parents=True)
    identity = {"data": {"tasks": {"NER": {"records": 4}, "Couplet": {"records": 4}}}}
    (partial / "identity.json").write_text(json.dumps(identity))
    answers = [["NER", str(n), "", "end", 1] for n in range(3)]
    (partial / "answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers))
    noted = {"time": 0, "done": 3, "seconds": 60, "seconds_left": 100}
    (partial / "log.jsonl").write_text(json.dumps(noted) + "\n")
    path = job.folder / "job.json"
    path.write_text(json.dumps({**read_sealed(path), "state": "running"}))
    with jobs.worker_lock(0):
        shown = page_of(tab, job)
    assert '<progress max="4" value="3"' in shown[tab.runs.head]
    assert '<progress max="4" value="0"' in shown[tab.runs.head]
    assert text("bench_progress", "en", done=3, total=8) in shown[tab.runs.head]
    assert text("jobs_left", "en", time="1.7 min") in shown[tab.runs.head]
    assert "38%" in shown[tab.runs.choice]["choices"][0][0]


@pytest.mark.parametrize(("code", "key"), [(4, "jobs_failed 4"), (77, "jobs_failed")])
def test_a_failed_job_shows_the_end_of_its_log_and_what_to_do(engine, jobs, code, key):
    tab = tab_of(engine, jobs)
    job = some_job(jobs, state="failed", code=code, ended=time.time())
    (job.folder / "log.txt").write_text(f"cgclora: {MARKUP}\n")
    shown = page_of(tab, job)
    assert text(key, "en") in shown[tab.runs.head]
    assert "cgclora: &lt;script&gt;" in shown[tab.runs.head]
    assert "<script>" not in shown[tab.runs.head]
    assert shown[tab.runs.resume]["visible"]


def test_a_job_of_a_run_that_is_gone_says_so(engine, jobs):
    tab = tab_of(engine, jobs)
    job = some_job(jobs, state="done", code=0, ended=time.time())
    assert text("bench_no_run", "en") in page_of(tab, job)[tab.runs.head]


def test_a_job_of_an_adapter_that_is_gone_keeps_its_name(engine, jobs):
    tab = tab_of(engine, jobs)
    job = some_job(jobs, facts={"adapter": MARKUP, "tasks": ["NER"]})
    shown = page_of(tab, job)
    assert MARKUP in shown[tab.runs.choice]["choices"][0][0]  # Gradio shows it as text
    assert "<script>" not in shown[tab.runs.head]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_state_has_words(engine, jobs, language):
    tab = tab_of(engine, jobs)
    for state in ("queued", "stopped", "failed", "done"):
        job = some_job(jobs, state=state, ended=time.time())
        shown = page_of(tab, job, lang=language)
        assert text(f"jobs_state_{state}", language, place=job.place) in shown[tab.runs.head]


# For real -------------------------------------------------------------------------------------


@pytest.fixture
def worked(tmp_path: Path) -> Iterator[Worked]:
    jobs = Worked(tmp_path / "runs" / "jobs")
    yield jobs
    jobs.end()


def test_an_evaluation_goes_from_a_click_to_scores(engine, worked, tmp_path):
    backbone = str(save_backbone(tmp_path / "backbone"))
    tab = tab_of(engine, worked, backbone=backbone)
    path = write(tmp_path / "test.jsonl", [*LINES, "{broken"])
    tab.submit(visitor(), "general", "upload", str(path), ["SentimentAnalyze"], 0)
    (job,) = worked.all()
    wait_for(lambda: worked.get(job.id).state not in {"queued", "running"})
    job = worked.get(job.id)
    assert job.state == "done", job.log_tail()
    run = read_run(tab.folder / job.id)
    assert run.manifest["method"] == "CGC-LoRA"
    assert run.manifest["label"] == "general"
    assert run.metrics is not None
    assert run.metrics["SentimentAnalyze"]["samples"] == 2
    shown = page_of(tab, job)
    score = run.metrics["SentimentAnalyze"]["scores"]["accuracy"]["value"]
    assert f"<b>{100 * score:.1f}</b>" in shown[tab.runs.head]
    assert "?tab=leaderboard" in shown[tab.runs.head]
    left = [path.name for path in worked.root.rglob("*") if path.is_file()]
    assert "test.jsonl" not in left
    assert not [path for path in tmp_path.rglob("*") if path.name == "test.jsonl"]
    # The next one is given a time, since this machine's pace is known now.
    extent = tab.choose_tasks(visitor(lang="en"), "general", "samples", None, ["NER"], 2)[
        tab.extent
    ]
    assert "machine" in extent


# In a browser ---------------------------------------------------------------------------------


@pytest.fixture
def page(engine: AppEngine, worked: Worked, tmp_path: Path) -> Iterator[Page]:
    backbone = str(save_backbone(tmp_path / "backbone"))
    with gr.Blocks() as built:
        shell = Shell(built)
        with shell.tab("about"):
            gr.HTML("elsewhere")
        with shell.tab("benchmark"):
            Benchmark(shell, engine, worked, settings_of(worked, backbone=backbone))
        shell.wire()
    with visiting(built, "tab=benchmark&lang=en&bench_data=samples&bench_n=1") as page:
        page.locator("#bench-tasks label").first.wait_for()
        settle(page)
        yield page


@pytest.mark.browser
def test_a_visitor_starts_an_evaluation_reloads_and_reads_its_scores(page: Page) -> None:
    page.locator("#bench-tasks .wrap label", has_text="Couplets").click()
    page.wait_for_function("!document.querySelector('#bench-command textarea').value.match('Coup')")
    page.wait_for_url(re.compile("bench_tasks=SentimentAnalyze%2CNER"))
    page.locator("#bench-start").click()
    page.wait_for_url(re.compile(r"bench_job=\d{8}-"))
    page.locator("#bench-job .job").wait_for()
    page.reload()
    page.locator("#bench-job .job").wait_for()
    assert page.locator("#bench-tasks input:checked").count() == 2
    page.locator(".job.done tbody tr").first.wait_for()
    assert page.locator(".job.done tbody tr").count() == 3  # two tasks and their mean
    assert page.locator("#bench-jobs label").count() == 1
    page.get_by_role("button", name="Remove from list").click()
    page.get_by_text(text("bench_no_jobs", "en")).wait_for()


@pytest.mark.browser
def test_a_file_is_uploaded_reported_and_used_up(page: Page, tmp_path: Path) -> None:
    page.locator("#bench-source label", has_text="Your own file").click()
    page.locator("#bench-file input[type=file]").set_input_files(
        write(tmp_path / "mine.jsonl", [*LINES, "{broken"])
    )
    page.locator(".bench-report", has_text="mine.jsonl").wait_for()
    page.locator(".job-refused", has_text="line 5").wait_for()
    page.locator("#bench-start:not([disabled])").click()
    page.locator(".job.done").wait_for()
    assert page.locator(".bench-report").count() == 0
    assert page.locator("#bench-start").is_disabled()
