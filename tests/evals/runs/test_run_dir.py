"""Run folders: whole or not there, gone on with after any crash, and damage that is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cgclora.storage import atomic_io
from cgclora.storage.atomic_io import read_sealed
from evals.runs import run_dir
from evals.runs.progress import read_progress
from evals.runs.run_dir import Prediction, RunError, Unfinished, find_runs, read_run, write_scores

IDENTITY = {"method": "CGC-LoRA", "seed": 0}
SAID = [
    Prediction("KUAKE-QIC", "test-1", "治疗方案", "end", 3),
    Prediction("NER", "test-2", "人名：王小明\n地名：无", "end", 9),
    Prediction("NER", "test-3", "\u2028“\u0000”", "length", 64),
]
ORDER = [(said.task, said.id) for said in reversed(SAID)]


def finished(folder: Path) -> run_dir.Run:
    with Unfinished(folder, IDENTITY) as unfinished:
        unfinished.add(SAID)
        unfinished.log_progress(3, 1.5)
        return unfinished.finish({**IDENTITY, "data": {}}, ORDER)


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_finished_run_says_what_was_put_in(tmp_path):
    finished(tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert run.manifest["method"] == "CGC-LoRA"
    assert run.metrics is None
    rows = run.predictions()
    assert [tuple(row) for row in rows.itertuples(index=False)] == [
        (said.task, said.id, said.prediction, said.finish, said.tokens) for said in reversed(SAID)
    ]
    assert files_of(tmp_path) == {"run"}
    assert files_of(run.folder) == {"manifest.json", "predictions.parquet", "log.jsonl"}


def test_the_same_answers_make_the_same_bytes(tmp_path):
    first, second = finished(tmp_path / "a"), finished(tmp_path / "b")
    name = run_dir.PREDICTIONS_FILE
    assert first.manifest["files"][name] == second.manifest["files"][name]


def test_an_unfinished_run_goes_on_with_all_that_was_added(tmp_path):
    with Unfinished(tmp_path / "run", IDENTITY) as unfinished:
        unfinished.add(SAID[:2])
        unfinished.log_progress(2, 3.25)
    assert not (tmp_path / "run").exists()
    with Unfinished(tmp_path / "run", IDENTITY) as again:
        assert list(again.done.values()) == SAID[:2]
        assert again.seconds == 3.25


@pytest.mark.parametrize("lost", [1, 2, 7, 20])
def test_a_line_that_a_crash_cut_short_is_asked_again_and_nothing_else(tmp_path, lost):
    with Unfinished(tmp_path / "run", IDENTITY) as unfinished:
        unfinished.add(SAID)
        unfinished.log_progress(3, 1.0)
    for name in ("answers.jsonl", "log.jsonl"):
        path = tmp_path / "run.partial" / name
        path.write_bytes(path.read_bytes()[:-lost])
    with Unfinished(tmp_path / "run", IDENTITY) as again:
        assert list(again.done.values()) == SAID[:2]
        again.add(SAID[2:])
        again.log_progress(3, 2.0)
        run = again.finish(IDENTITY, ORDER)
    assert len(run.predictions()) == 3
    lines = (run.folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["seconds"] for line in lines] == [2.0]


def test_another_run_is_not_gone_on_with(tmp_path):
    Unfinished(tmp_path / "run", IDENTITY).close()
    with pytest.raises(RunError, match="differs in seed"):
        Unfinished(tmp_path / "run", {**IDENTITY, "seed": 1})
    Unfinished(tmp_path / "run", IDENTITY).close()  # the refusal let go of the lock


def test_two_processes_do_not_work_on_one_run(tmp_path):
    with (
        Unfinished(tmp_path / "run", IDENTITY),
        pytest.raises(RunError, match="another process"),
    ):
        Unfinished(tmp_path / "run", IDENTITY)


def test_what_is_there_is_not_overwritten(tmp_path):
    finished(tmp_path / "run")
    with pytest.raises(RunError, match="finished run"):
        Unfinished(tmp_path / "run", IDENTITY)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="something other"):
        Unfinished(tmp_path / "mine", IDENTITY)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def scored(folder: Path) -> run_dir.Run:
    metrics = {"NER": {"samples": 2}}
    replicates = {"NER": np.array([0.5, 0.25], dtype=np.float32)}
    columns = {"parsed": ["[]"] * 3, "score": [1.0, 0.0, 0.5]}
    return write_scores(finished(folder), metrics, replicates, columns)


def test_scores_join_the_run_and_can_be_written_again(tmp_path):
    run = scored(tmp_path / "run")
    assert run.metrics == {"NER": {"samples": 2}}
    assert run.replicates()["NER"].tolist() == [0.5, 0.25]
    assert run.predictions()["score"].tolist() == [1.0, 0.0, 0.5]
    again = write_scores(run, run.metrics, run.replicates(), {"score": [0.0, 0.0, 0.0]})
    assert again.predictions()["score"].tolist() == [0.0, 0.0, 0.0]
    assert again.predictions()["prediction"].tolist() == [s.prediction for s in reversed(SAID)]


def test_replicates_before_scoring_are_refused(tmp_path):
    with pytest.raises(RunError, match="no scores yet"):
        finished(tmp_path / "run").replicates()


@pytest.mark.parametrize("name", ["predictions.parquet", "metrics.json", "replicates.parquet"])
def test_a_file_with_a_flipped_bit_is_named(tmp_path, name):
    folder = scored(tmp_path / "run").folder
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)

    def read_all() -> None:
        run = read_run(folder)
        run.predictions()
        run.replicates()

    with pytest.raises(RunError, match=name):
        read_all()


def test_a_newer_format_and_no_run_at_all_are_told_apart(tmp_path):
    folder = finished(tmp_path / "run").folder
    manifest = read_sealed(folder / "manifest.json")
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(RunError, match=r"format 99.*update"):
        read_run(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        read_run(folder)
    with pytest.raises(RunError, match="holds no run"):
        read_run(tmp_path)


def test_runs_are_found_at_any_depth_and_adapters_are_not_runs(tmp_path):
    finished(tmp_path / "b" / "run")
    finished(tmp_path / "a")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "manifest.json").write_text("{}")
    assert find_runs(tmp_path) == [tmp_path / "a", tmp_path / "b" / "run"]


def test_a_run_that_is_being_filled_is_not_found_yet(tmp_path):
    run = finished(tmp_path / "run").folder
    with atomic_io.replace_folder(run) as new:
        for path in run.iterdir():
            (new / path.name).write_bytes(path.read_bytes())
        assert find_runs(tmp_path) == [run]


def test_a_damaged_answer_is_asked_again_and_nothing_else(tmp_path):
    with Unfinished(tmp_path / "run", IDENTITY) as unfinished:
        unfinished.add(SAID)
    path = tmp_path / "run.partial" / "answers.jsonl"
    content = path.read_bytes()
    for place in range(len(content)):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << place % 8
        path.write_bytes(spoilt)
        with Unfinished(tmp_path / "run", IDENTITY) as again:
            kept = [*again.done.values()]
        assert len(kept) >= len(SAID) - 2  # a line's end may have become part of a line
        assert all(one in SAID for one in kept)


def test_answers_of_before_they_had_checksums_are_gone_on_with(tmp_path):
    with Unfinished(tmp_path / "run", IDENTITY) as unfinished:
        unfinished.add(SAID)
    path = tmp_path / "run.partial" / "answers.jsonl"
    lines = [json.loads(line)[:5] for line in atomic_io.whole_lines(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with Unfinished(tmp_path / "run", IDENTITY) as again:
        assert list(again.done.values()) == SAID


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "identity.json",
            b'"CGC-LoRA"',
            b'"CGC-LoR@"',
            r"identity\.json is damaged.*put back a copy",
        ),
        ("identity.json", b"{", b"[", r"identity\.json is damaged.*put back a copy"),
        ("log.jsonl", b"1.5", b"9.5", r"log\.jsonl is damaged.*remove that line"),
        ("log.jsonl", b"{", b"", r"log\.jsonl is damaged.*remove that line"),
    ],
)
def test_what_cannot_be_asked_again_is_named_with_a_way_out(tmp_path, name, old, new, message):
    with Unfinished(tmp_path / "run", IDENTITY) as unfinished:
        unfinished.add(SAID)
        unfinished.log_progress(3, 1.5)
    path = tmp_path / "run.partial" / name
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(RunError, match=message):
        Unfinished(tmp_path / "run", IDENTITY)


def test_a_manifest_with_another_byte_is_named_with_a_way_out(tmp_path):
    path = finished(tmp_path / "run").folder / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RunError, match=r"manifest\.json is damaged.*fetch the run again"):
        read_run(tmp_path / "run")


def test_a_run_whose_rescoring_was_killed_is_still_found(tmp_path):
    folder = scored(tmp_path / "run").folder
    shutil.copytree(folder, tmp_path / ".run.new")
    folder.rename(tmp_path / ".run.old")
    assert find_runs(tmp_path) == [tmp_path / "run"]
    assert read_run(tmp_path / "run").metrics == {"NER": {"samples": 2}}
    assert files_of(tmp_path) == {"run"}


def test_a_run_that_is_being_made_is_not_found_yet(tmp_path):
    folder = scored(tmp_path / "one").folder
    with atomic_io.replace_folder(tmp_path / "two") as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
        assert find_runs(tmp_path) == [folder]
    assert find_runs(tmp_path) == [folder, tmp_path / "two"]


def test_answers_that_were_left_beside_their_run_are_cleared_away(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_dir, "_empty", lambda folder: None)
        finished(tmp_path / "run")
    (tmp_path / "run.partial" / f".identity.json.{'0' * 16}").touch()
    assert read_progress(tmp_path / "run") is None
    with pytest.raises(RunError, match="finished run"):
        Unfinished(tmp_path / "run", IDENTITY)
    assert files_of(tmp_path) == {"run"}
