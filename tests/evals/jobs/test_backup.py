"""Evaluations that outlast a wiped disk: in a folder, and in a dataset repository."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi

from evals.jobs.backup import FOLDER, Backup, BackupLog, backups
from evals.leaderboard.run_sources import Library
from evals.runs.run_dir import find_runs
from tests.helpers.hub import Hub, hub
from tests.helpers.run_dirs import around, write_folder, write_run
from ui.engine.settings import Settings

NAME = "20260101-000000-abcd"


def scored(runs: Path, name: str = NAME, score: float = 0.5) -> Path:
    return write_run(runs / name, {"NER": around(score)})


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def lines(kept: Path) -> list[str]:
    return [
        line
        for path in sorted((kept / FOLDER).glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_wiped_disk_gets_back_what_was_kept_byte_for_byte(tmp_path):
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    scored(runs)
    scored(runs, "cluster/lora/seed-0", 0.75)
    write_folder(runs / "unscored", None, b"")
    before = content_of(runs / NAME) | content_of(runs / "cluster")
    assert BackupLog(runs, kept).add_new() == [NAME, "cluster/lora/seed-0"]
    shutil.rmtree(runs)
    again = BackupLog(runs, kept)
    assert sorted(again.restore()) == [NAME, "cluster/lora/seed-0"]
    assert content_of(runs / NAME) | content_of(runs / "cluster") == before
    assert again.add_new() == []
    assert again.restore() == []
    assert len(find_runs(runs)) == 2


def test_a_run_is_kept_once_and_anew_when_it_is_scored_anew(tmp_path):
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    first = BackupLog(runs, kept)
    assert first.add_new() == []
    for score in (0.5, 0.5, 0.75):
        scored(runs, score=score)
        first.add_new()
        first.add_new()
    assert len(lines(kept)) == 2
    shutil.rmtree(runs)
    BackupLog(runs, kept).restore()
    metrics = json.loads((runs / NAME / "metrics.json").read_text())
    assert metrics["NER"]["scores"]["accuracy"]["value"] == 0.75


def test_what_lies_here_already_stays_as_it_is(tmp_path):
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    scored(runs, score=0.5)
    BackupLog(runs, kept).add_new()
    scored(runs, score=0.75)
    mine = content_of(runs)
    again = BackupLog(runs, kept)
    assert again.restore() == []
    assert content_of(runs) == mine
    assert again.add_new() == [NAME]  # it is newer than what was kept


def test_two_processes_never_write_one_file(tmp_path):
    for place, process in enumerate(
        BackupLog(tmp_path / str(i), tmp_path / "kept") for i in (0, 1)
    ):
        scored(tmp_path / str(place), f"run-{place}")
        process.add_new()
    assert len(list((tmp_path / "kept" / FOLDER).iterdir())) == 2
    restored = BackupLog(tmp_path / "new", tmp_path / "kept").restore()
    assert sorted(restored) == ["run-0", "run-1"]


def changed(line: str, **values: Any) -> str:
    return json.dumps({**json.loads(line), **values})


DAMAGES: dict[str, Callable[[str], str]] = {
    "cut short": lambda line: line[: len(line) // 2],
    "no JSON": lambda _: "hello",
    "a list": lambda _: "[]",
    "another format": lambda line: changed(line, format=2),
    "no files": lambda line: changed(line, files={}),
    "no base64": lambda line: changed(line, files={"manifest.json": "?"}),
    "another manifest": lambda line: changed(line, sha256="0" * 64),
    "a way out": lambda line: changed(line, run="../outside"),
    "an absolute way": lambda line: changed(line, run="/tmp/outside"),
    "the folder itself": lambda line: changed(line, run="."),
    "another file's content": lambda line: changed(
        line, files={**(found := json.loads(line)["files"]), "log.jsonl": found["manifest.json"]}
    ),
    "a file too many": lambda line: changed(
        line, files={**json.loads(line)["files"], "../more": "AAAA"}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_is_named_and_passed_over(tmp_path, caplog, damage):
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    for name in ("first", "second", "third"):
        scored(runs, name)
    BackupLog(runs, kept).add_new()
    (path,) = (kept / FOLDER).iterdir()
    first, second, third = path.read_text().splitlines()
    path.write_text("\n".join([first, DAMAGES[damage](second), third]))
    shutil.rmtree(runs)
    assert BackupLog(runs, kept).restore() == ["first", "third"]
    (warning,) = caplog.messages
    assert warning.startswith(f"{path}: line 2 is skipped: ")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["kept", "runs"]


def test_a_file_that_cannot_be_read_is_named_and_passed_over(tmp_path, caplog):
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    scored(runs)
    BackupLog(runs, kept).add_new()
    (kept / FOLDER / "0.jsonl").mkdir()
    shutil.rmtree(runs)
    assert BackupLog(runs, kept).restore() == [NAME]
    assert "0.jsonl is skipped" in caplog.text


def test_after_a_line_that_a_full_disk_cut_short_the_next_one_is_whole(tmp_path, caplog):
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    scored(runs, "first")
    process = BackupLog(runs, kept)
    process.add_new()
    (path,) = (kept / FOLDER).iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    scored(runs, "second")
    process.add_new()
    shutil.rmtree(runs)
    assert BackupLog(runs, kept).restore() == ["second"]
    assert "line 1 is skipped" in caplog.text


def test_a_damaged_run_is_not_kept(tmp_path):
    (scored(tmp_path / "runs") / "metrics.json").write_bytes(b"{}")
    assert BackupLog(tmp_path / "runs", tmp_path / "kept").add_new() == []


def test_a_backup_shows_what_was_kept_on_the_leaderboard_and_keeps_what_comes(tmp_path):
    runs, kept = tmp_path / "runs" / "evaluations", tmp_path / "bucket"
    scored(runs, "before")
    BackupLog(runs, kept).add_new()
    shutil.rmtree(runs)
    backup = Backup(runs, kept, look_seconds=0.02)
    backup.start()
    try:
        library = Library(tmp_path / "shipped", runs)
        wait_until(lambda: library.names() == ["local/before"])
        assert library.leaderboards().boards
        scored(runs, "later", 0.75)
        wait_until(lambda: len(lines(kept)) == 2)
    finally:
        backup.stop()


def test_a_backup_whose_folder_is_not_mounted_says_so_and_tries_again(tmp_path, caplog):
    runs, kept = tmp_path / "runs", tmp_path / "bucket"
    scored(runs)
    backup = Backup(runs, kept, look_seconds=0.02)
    backup.start()
    try:
        wait_until(lambda: f"{kept} is no folder" in caplog.text)
        kept.mkdir()
        wait_until(lambda: lines(kept))
    finally:
        backup.stop()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that the client may ask."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub() as found:
        yield found


def keep_in(server: Hub, disk: Path) -> Backup:
    api = HfApi(endpoint=server.address, token="hf_secret")
    return Backup(disk / "evaluations", disk / "kept", "me/kept", api=api, look_seconds=0.05)


def test_a_private_dataset_repository_is_made_and_gives_back_what_a_wiped_disk_had(
    server, tmp_path
):
    scored(tmp_path / "first" / "evaluations")
    backup = keep_in(server, tmp_path / "first")
    backup.start()
    wait_until(lambda: server.files)
    backup.stop()
    assert server.private is True
    assert server.tokens == {"Bearer hf_secret"}
    assert [name.split("/")[0] for name in server.files or {}] == [FOLDER]
    backup = keep_in(server, tmp_path / "second")
    backup.start()
    wait_until(lambda: find_runs(tmp_path / "second" / "evaluations"))
    backup.stop()
    assert content_of(tmp_path / "second" / "evaluations") == content_of(
        tmp_path / "first" / "evaluations"
    )
    assert len(server.files or {}) == 1


def test_while_the_hub_is_down_nothing_is_lost_and_the_push_is_tried_again(
    server, tmp_path, caplog
):
    server.down = True
    run = scored(tmp_path / "evaluations")
    before = content_of(run)
    backup = keep_in(server, tmp_path)
    backup.start()
    wait_until(lambda: "evaluations are not backed up" in caplog.text)
    server.down = False
    wait_until(lambda: server.files)
    backup.stop()
    assert content_of(run) == before


def test_without_the_variables_nothing_is_kept(tmp_path):
    said = Settings.from_environment({})
    assert backups(tmp_path, said.keep, said.keep_dataset) == []
    both = {"CGCLORA_KEEP": str(tmp_path), "CGCLORA_KEEP_DATASET": "me/kept"}
    said = Settings.from_environment(both)
    folder, dataset = backups(tmp_path / "runs", said.keep, said.keep_dataset)
    assert folder.folder == tmp_path
    assert dataset.dataset == "me/kept"
