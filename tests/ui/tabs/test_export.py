"""The tab that exports: sizes, an export that other libraries load, downloads, pushes, limits."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import gradio as gr
import huggingface_hub.constants
import pytest
import torch
from peft import PeftModel
from starlette.applications import Starlette
from starlette.testclient import TestClient

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.convert import formats
from cgclora.convert.formats import Format, register
from cgclora.models.backbone import load_backbone
from evals.jobs.queue import Job, Jobs
from tests.helpers.hub import Hub, hub
from tests.helpers.queues import Waiting
from tests.helpers.reference import logits, scatter, token_ids
from tests.helpers.tiny import save_backbone
from tests.helpers.tiny_models import tiny_models
from ui.components.texts import LANGUAGES, TEXTS, text
from ui.engine.engine import AppEngine
from ui.engine.settings import AppLimits, Settings
from ui.server.exports import KEPT_SECONDS, archive, remove_expired, routes
from ui.shell import Shell
from ui.tabs.export.tab import ExportTab

Updates = dict[Any, Any]
TASKS = ("SentimentAnalyze", "NER", "Couplet")
TOKEN = "hf_onlyTheVisitorKnows"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone, and one with an adapter on it."""
    folder = tmp_path_factory.mktemp("saved")
    backbone = load_backbone(save_backbone(folder / "backbone"), device="cpu", dtype="float32")
    adapter = scatter(Adapter.attach(backbone, AdapterConfig(TASKS, expert_rank=2)))
    adapter.save(folder / "adapters" / "general", facts={"licence": "CC BY-NC 4.0"})
    return folder


@pytest.fixture(scope="module")
def engine(saved: Path) -> AppEngine:
    engine = AppEngine(saved / "adapters", tiny_models())
    engine.start()
    assert engine.wait(60)
    assert engine.status.ready, engine.status
    return engine


@pytest.fixture
def settings(tmp_path: Path, saved: Path) -> Settings:
    return Settings(runs=tmp_path / "runs", backbone=str(saved / "backbone"))


@pytest.fixture
def jobs(settings: Settings) -> Jobs:
    return Waiting(settings.runs / "exports")


def visitor(**query: str) -> gr.Request:
    return SimpleNamespace(session_hash="one", query_params=query, headers={})  # type: ignore[return-value]


ENGLISH = visitor(lang="en")


def tab_of(engine: AppEngine, jobs: Jobs, settings: Settings) -> ExportTab:
    with gr.Blocks():
        shell = Shell(gr.Blocks())
        with shell.tab("export"):
            return ExportTab(shell, engine, jobs, settings)


@pytest.fixture
def tab(engine: AppEngine, jobs: Jobs, settings: Settings) -> ExportTab:
    return tab_of(engine, jobs, settings)


def form(
    format: str = "peft",  # noqa: A002 - the field's word
    tasks: tuple[str, ...] = (),
    precision: str = "",
    base: str = "",
) -> tuple[Any, ...]:
    return "general", format, [*tasks], precision, base


def rows(updates: Updates, tab: ExportTab) -> dict[str, str]:
    return {name: words for words, name in updates[tab.format]["choices"]}


def exported(tab: ExportTab, *values: Any) -> Job:
    """An export that the form starts, made in this process, which has torch already."""
    tab.submit(ENGLISH, *values)
    job = tab.jobs.all()[0]
    code = main(job.command[2:])
    tab.jobs.write(job.ended_as("failed" if code else "done", code))
    return tab.jobs.get(job.id)


# The form ---------------------------------------------------------------------------------


def test_every_format_is_offered_with_its_size(tab: ExportTab) -> None:
    shown = rows(tab.draw(ENGLISH, *form()), tab)
    assert [*shown] == [*formats.FORMATS]
    assert all(" · ≈ 0." in words for words in shown.values()), shown
    fewer = rows(tab.draw(ENGLISH, *form(tasks=("NER",))), tab)
    assert fewer["peft"] < shown["peft"]
    assert fewer["merged"] == shown["merged"]  # of any one task


@pytest.fixture
def added() -> Iterator[None]:
    register(Format("<i>list</i>", "names of <b>tasks</b>", lambda order: {}))
    yield
    del formats._formats["<i>list</i>"]


def test_a_format_from_outside_is_offered_too(added: None, tab: ExportTab) -> None:
    words = rows(tab.draw(ENGLISH, *form("<i>list</i>")), tab)["<i>list</i>"]
    assert words == "<i>list</i> · size unknown\nnames of <b>tasks</b>"
    assert "size unknown" in tab.draw(ENGLISH, *form("<i>list</i>"))[tab.extent]


def test_a_link_chooses_adapter_format_and_tasks(tab: ExportTab) -> None:
    link = {"export-adapter": "general", "export-format": "gguf", "export-tasks": "NER,nobody"}
    shown = tab.show(visitor(lang="en", **link), None, None, [], "", "")
    assert shown[tab.adapter]["value"] == "general"
    assert shown[tab.format]["value"] == "gguf"
    assert shown[tab.tasks]["value"] == ["NER"]
    lost = tab.show(visitor(**{"export-adapter": "gone", "export-format": "x"}), None, None)
    assert (lost[tab.adapter]["value"], lost[tab.format]["value"]) == ("general", "peft")


def test_a_merged_model_wants_one_task(tab: ExportTab, jobs: Jobs) -> None:
    shown = tab.draw(ENGLISH, *form("merged"))
    assert TEXTS["export_one_task"][1] in shown[tab.extent]
    assert not shown[tab.start]["interactive"]
    refused = tab.submit(ENGLISH, *form("merged", tasks=("NER", "Couplet")))
    assert TEXTS["export_one_task"][1] in refused[tab.outcome]
    assert not jobs.all()
    assert tab.draw(ENGLISH, *form("merged", tasks=("NER",)))[tab.start]["interactive"]


def test_the_command_holds_what_is_chosen_and_names_are_no_options(tab: ExportTab) -> None:
    command = tab.draw(ENGLISH, *form(tasks=("NER",), precision="float16", base="-x"))[tab.command]
    assert "--task=NER --backbone=" in command
    assert command.endswith("--base=-x --precision=float16 --out general-NER-peft --zip")


def test_a_folder_of_the_server_is_no_backbone_elsewhere(tab: ExportTab) -> None:
    for base in ("assets", ".", "..", " "):
        assert "--base" not in tab.draw(ENGLISH, *form("vllm", base=base))[tab.command]


# An export --------------------------------------------------------------------------------


def test_a_downloaded_peft_export_gives_the_adapters_logits_for_each_task(
    tab: ExportTab, saved: Path, settings: Settings, tmp_path: Path
) -> None:
    job = exported(tab, *form())
    assert job.command[:3] == ("-m", "cgclora", "export")
    shown = tab.runs.updates(job.id, ENGLISH)
    head, size = shown[tab.runs.head], job.facts["bytes"]
    assert f'href="exports/{job.id}/download"' in head
    assert "CC BY-NC 4.0" in head
    assert shown[tab.runs.form]["visible"]
    reply = TestClient(Starlette(routes=routes(settings))).get(f"/exports/{job.id}/download")
    assert reply.headers["content-disposition"] == 'attachment; filename="general-peft.zip"'
    (tmp_path / "mine.zip").write_bytes(reply.content)
    with ZipFile(tmp_path / "mine.zip") as packed:
        assert sum(one.file_size for one in packed.infolist()) == pytest.approx(size, rel=0.03)
        packed.extractall(tmp_path / "mine")
    backbone = load_backbone(saved / "backbone", device="cpu", dtype="float32")
    bare, ids = deepcopy(backbone.model), token_ids(2)
    adapter = Adapter.load(saved / "adapters" / "general", backbone)
    for task in TASKS:
        folder = tmp_path / "mine" / "general-peft" / task
        found = logits(PeftModel.from_pretrained(deepcopy(bare), folder).eval(), ids)
        with adapter.route([task] * len(ids)):
            torch.testing.assert_close(found, logits(adapter.model, ids), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, logits(bare, ids), rtol=1e-4, atol=1e-4)


def test_progress_counts_what_is_written(tab: ExportTab, jobs: Jobs) -> None:
    tab.submit(ENGLISH, *form())
    (job,) = jobs.all()
    assert tab.runs.share_done(job) is None
    half = job.folder / f".{job.facts['name']}.new" / "NER"
    half.mkdir(parents=True)
    (half / "adapter_model.safetensors").write_bytes(b"\0" * (job.facts["bytes"] // 2))
    assert tab.runs.share_done(job) == pytest.approx(0.25, abs=0.01)


def test_an_export_that_failed_is_neither_downloaded_nor_pushed(tab: ExportTab) -> None:
    job = exported(tab, *form("vllm"))  # the backbone is a folder: no server elsewhere has it
    shown = tab.runs.updates(job.id, ENGLISH)
    assert (job.state, job.code) == ("failed", 2)
    assert "exports/" not in shown[tab.runs.head]
    assert not shown[tab.runs.form]["visible"]
    assert exported(tab, *form("vllm", base="me/base")).state == "done"


# Limits -----------------------------------------------------------------------------------


def test_where_exports_are_off_nobody_gets_anything(
    engine: AppEngine, jobs: Jobs, settings: Settings
) -> None:
    job = exported(tab_of(engine, jobs, settings), *form())
    off = Settings(runs=settings.runs, backbone=settings.backbone, exports_allowed=False)
    closed = tab_of(engine, jobs, off)
    assert "CGCLORA_ALLOW_EXPORTS=1" in closed.submit(ENGLISH, *form())[closed.outcome]
    assert len(jobs.all()) == 1
    client = TestClient(Starlette(routes=routes(off)))
    assert client.get(f"/exports/{job.id}/download").status_code == 404
    (refused,) = closed.runs.push_chosen(job.id, "me/mine", True, TOKEN, ENGLISH)
    assert TEXTS["export_gone"][1] in refused[closed.runs.outcome]
    assert " · ≈ " in rows(closed.draw(ENGLISH, *form()), closed)["peft"]  # sizes are no secret


@pytest.mark.parametrize(
    ("environment", "allowed"),
    [
        ({}, True),
        ({"GRADIO_SERVER_NAME": "0.0.0.0"}, False),
        ({"SPACE_ID": "somebody/space"}, False),
        ({"SPACE_ID": "somebody/space", "CGCLORA_ALLOW_EXPORTS": "1"}, True),
        ({"SPACE_ID": "somebody/space", "CGCLORA_ALLOW_JOBS": "1"}, False),
        ({"CGCLORA_ALLOW_EXPORTS": "0"}, False),
    ],
)
def test_exports_are_for_those_at_the_machine_unless_it_is_said_otherwise(
    environment: dict[str, str], allowed: bool
) -> None:
    assert Settings.from_environment(environment).exports_allowed is allowed


def test_a_large_export_is_refused_before_it_begins(
    saved: Path, jobs: Jobs, settings: Settings
) -> None:
    folder = saved / "adapters"
    small = AppEngine(folder, tiny_models(AppLimits(export_mb=1)))
    tab = tab_of(small, jobs, settings)
    small.start()
    assert small.wait(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ui.engine.questions.size", lambda *_: 2_500_000)
        refused = tab.submit(ENGLISH, *form(base="never/measured"))[tab.outcome]
    assert "about 2.50 MB, at most 1.00 MB are allowed" in refused
    assert not jobs.all()


def test_a_full_disk_is_told_before_anything_is_written(
    tab: ExportTab, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(9, 9, 200_000)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused = tab.submit(ENGLISH, *form())[tab.outcome]
    assert "0.20 MB are free on the disk" in refused
    assert not jobs.all()


def test_an_export_is_removed_after_an_hour_and_stays_for_a_push(
    tab: ExportTab, jobs: Jobs, settings: Settings
) -> None:
    job = exported(tab, *form(tasks=("NER",)))
    client = TestClient(Starlette(routes=routes(settings)))
    address = f"/exports/{job.id}/download"
    part = client.get(address, headers={"Range": "bytes=0-1"})
    assert (part.status_code, part.content) == (206, b"PK")  # a broken download goes on
    remove_expired(jobs)
    assert archive(jobs.get(job.id)) is not None
    old = time.time() - KEPT_SECONDS - 1
    os.utime(job.folder, (old, old))
    remove_expired(jobs)
    assert not job.folder.exists()
    assert client.get(address).status_code == 404
    assert client.get("/exports/..%2F..%2Fjobs/download").status_code == 404
    assert not tab.runs.all()


# Push -------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as found:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.address)
        monkeypatch.setenv("HF_TOKEN", "hf_ofTheServer")
        found.accepted = {TOKEN}
        yield found


def pushed(tab: ExportTab, job: Job, token: str = TOKEN, repo: str = "me/mine") -> list[Updates]:
    return [*tab.runs.push_chosen(job.id, repo, True, token, ENGLISH)]


def traces(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_push_uses_the_visitors_token_once_and_keeps_it_nowhere(
    tab: ExportTab, server: Hub, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    job = exported(tab, *form(tasks=("NER",)))
    old = time.time() - KEPT_SECONDS + 60
    os.utime(job.folder, (old, old))
    with caplog.at_level(logging.DEBUG):
        first, last = pushed(tab, job)
    assert first[tab.runs.token] == last[tab.runs.token] == ""
    assert f'href="{server.address}/me/mine"' in last[tab.runs.outcome]
    assert server.private
    assert server.files is not None
    folder = job.folder / job.facts["name"]
    assert {*server.files} == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    }
    assert server.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in caplog.text
    assert TOKEN not in f"{first} {last}"
    assert TOKEN.encode() not in traces(settings.runs)
    assert TOKEN not in " ".join(os.environ.values())
    assert time.time() - job.folder.stat().st_mtime < 60  # another hour for the next try


@pytest.mark.parametrize(
    ("repo", "token", "reason"),
    [
        ("me/mine", "hf_wrong", "token"),
        ("me/mine", "", "token"),  # never the server's own
        ("me/mine", "  ", "token"),
        ("somebody/else", TOKEN, "denied"),
        ("not a name", TOKEN, "name"),
    ],
)
def test_what_is_wrong_with_a_push_is_told_in_both_languages(
    tab: ExportTab, server: Hub, repo: str, token: str, reason: str
) -> None:
    job = exported(tab, *form(tasks=("NER",)))
    for language in LANGUAGES:
        *_, last = tab.runs.push_chosen(job.id, repo, True, token, visitor(lang=language))
        assert text(f"push_failed {reason}", language) in last[tab.runs.outcome]
        assert not token.strip() or token not in last[tab.runs.outcome]
        assert last[tab.runs.push]["interactive"]
    assert server.files is None
    assert "Bearer hf_ofTheServer" not in server.tokens


def test_a_hub_that_refuses_or_is_away_leaves_nothing_behind(
    tab: ExportTab, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = exported(tab, *form(tasks=("NER",)))
    server.full = True
    assert "quota exceeded" in pushed(tab, job)[-1][tab.runs.outcome]
    assert server.files is None
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "Hugging Face cannot be reached" in pushed(tab, job)[-1][tab.runs.outcome]


def test_one_export_is_pushed_at_a_time(tab: ExportTab, server: Hub) -> None:
    job = exported(tab, *form(tasks=("NER",)))
    first = tab.runs.push_chosen(job.id, "me/mine", True, TOKEN, ENGLISH)
    next(first)
    (second,) = pushed(tab, job)
    assert TEXTS["push_busy"][1] in second[tab.runs.outcome]
    assert second[tab.runs.token] == ""
    first.close()  # its page is gone
    assert TEXTS["push_done"][1] in pushed(tab, job)[-1][tab.runs.outcome]


def test_every_reason_has_words() -> None:
    from typing import get_args

    from cgclora.convert.hub import Reason

    assert all(f"push_failed {reason}" in TEXTS for reason in get_args(Reason))
