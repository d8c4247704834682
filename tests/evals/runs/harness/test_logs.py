"""Logs that the other harnesses wrote of our own sentences, compared with each other and with runs.

`logs/lm_eval` is of lm-evaluation-harness 0.4.13 with `--log_samples`: two tasks of the pack, and
one of sums with two filters. `logs/inspect` is of inspect_ai 0.3.285, with two epochs. Facts about
the machine are left out of the files of results.
"""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from cgclora.data.records import DataError
from evals.__main__ import main
from evals.data import datasets
from evals.leaderboard.comparison import OVERALL, compare
from evals.leaderboard.tables import comparison_table
from evals.runs.evaluate import predict
from evals.runs.harness.logs import Log
from evals.runs.harness.reader import read
from evals.runs.run_dir import Run, RunError
from evals.runs.score import score
from evals.tasks.samples import SAMPLES
from tests.evals.runs.harness.test_pack import Sayer

LOGS = Path(__file__).parent / "logs"
FIRST, SECOND = LOGS / "lm_eval" / "first", LOGS / "lm_eval" / "second"
EVAL, JSON = LOGS / "inspect" / "first.eval", LOGS / "inspect" / "second.json"

RIGHT = [[1, 0, 1, 1], [1, 1, 0, 0]]
"""Which samples the two logs of inspect have right: they say 伦敦 to the others."""


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    (file,) = folder.glob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def results(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("results_*.json")
    return json.loads(file.read_text(encoding="utf-8"))


def changed(
    folder: Path, to: Path, task: str, change: Callable[[list[dict[str, Any]]], object]
) -> Path:
    """A copy of a log with other samples of a task."""
    shutil.copytree(folder, to)
    lines = samples(folder, task)
    change(lines)
    (file,) = to.glob(f"samples_{task}_*.jsonl")
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return to


def run_of(folder: Path, to: Path, dataset: datasets.Dataset) -> Run:
    """A run of ours that gives the answers of a log, and the target elsewhere."""
    answer = {record.prompt: record.target for record in dataset.records}
    for task in ("promptcblue_chip_sts", "promptcblue_kuake_qtr"):
        answer |= {one["doc"]["input"]: one["filtered_resps"][0] for one in samples(folder, task)}
    return score(predict(to, Sayer(answer), dataset, method="ours"), dataset, resamples=10)


def test_two_logs_of_lm_eval_differ_as_their_results_say():
    found = compare(read(FIRST), read(SECOND))
    ours, theirs = results(FIRST), results(SECOND)
    for task, name in (
        ("CHIP-STS", "promptcblue_chip_sts"),
        ("KUAKE-QTR", "promptcblue_kuake_qtr"),
    ):
        reported = [one["results"][name]["score,none"] / 100 for one in (ours, theirs)]
        assert found.scores[task] == pytest.approx(reported)
    reported = [one["results"]["sums"]["exact_match,strict"] for one in (ours, theirs)]
    assert found.scores["sums"] == pytest.approx(reported)
    assert [task.metric for task in found.tasks] == [
        *("weighted-f1", "weighted-f1", "exact_match,strict")
    ]
    assert found.test == "paired permutation"
    assert found.first.startswith("first (")
    assert found.gains[OVERALL].samples == 4 + 4 + 6
    assert found.gains[OVERALL].value == pytest.approx((2 / 3 - 1 / 2 + 3 / 4 - 1 / 2) / 3)


def test_the_test_is_that_of_the_paired_samples(tmp_path):
    def all_right(lines):
        for line in lines:
            line["exact_match"] = 1.0

    better = changed(FIRST, tmp_path / "better", "sums", all_right)
    (file,) = better.glob("results_*.json")
    reported = results(better)
    reported["results"]["sums"]["exact_match,strict"] = 1.0
    file.write_text(json.dumps(reported), encoding="utf-8")
    values = [one["exact_match"] for one in samples(SECOND, "sums") if one["filter"] == "strict"]
    exact = stats.permutation_test(
        ([1.0] * 6, values),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
    )
    gain = compare(read(better), read(SECOND)).gains["sums"]
    assert gain.value == pytest.approx(4 / 6) == exact.statistic
    assert gain.p_value == pytest.approx(exact.pvalue, abs=0.02)


def test_a_metric_may_be_chosen_with_its_filter():
    found = compare(read(FIRST, "exact_match,flexible"), read(SECOND, "exact_match,flexible"))
    reported = [
        one["results"]["sums"]["exact_match,flexible"] for one in map(results, (FIRST, SECOND))
    ]
    assert [task.metric for task in found.tasks] == ["exact_match,flexible"]
    assert found.scores["sums"] == pytest.approx(reported)
    assert "no metric 'exact_match,flexible', but weighted-f1" in found.left_out["CHIP-STS"]
    main_score = compare(read(FIRST, "score"), read(SECOND, "score"))
    assert [task.metric for task in main_score.tasks] == ["weighted-f1", "weighted-f1"]
    by_name = compare(read(FIRST, "accuracy"), read(SECOND, "accuracy"))
    assert [task.metric for task in by_name.tasks] == ["accuracy", "accuracy"]
    assert "no metric 'accuracy', but exact_match,strict" in by_name.left_out["sums"]


def test_logs_of_inspect_are_compared_whichever_form_they_have():
    found = compare(read(EVAL), read(JSON))
    assert found.first == f"mockllm/model ({EVAL})"
    assert [(task.name, task.metric, task.version) for task in found.tasks] == [
        ("capitals", "match", "3")
    ]
    first, second = (sum(right) / 4 for right in RIGHT)
    assert found.scores["capitals"] == (first, second)
    assert found.gains["capitals"].value == first - second
    assert compare(read(EVAL, "includes"), read(JSON, "includes")).tasks[0].metric == "includes"
    with pytest.raises(RunError, match=r"no scores of 'bleu' .* scorers are match, includes"):
        compare(read(EVAL, "bleu"), read(JSON, "bleu"))


def test_an_older_archive_and_messages_as_input_are_read(tmp_path):
    log = json.loads(JSON.read_text(encoding="utf-8"))
    paths = [tmp_path / "a.eval", tmp_path / "b.eval"]
    for number, path in enumerate(paths):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for place, sample in enumerate(log["samples"]):
                message = {"id": f"{number}-{place}", "role": "user", "content": sample["input"]}
                content = json.dumps({**sample, "input": [message]})
                archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", content)
            archive.writestr("reductions.json", json.dumps(log["reductions"]))
            archive.writestr("header.json", json.dumps({**log, "samples": None}))
    found = compare(*map(read, paths))
    assert found.scores["capitals"] == (0.5, 0.5)
    with pytest.raises(RunError, match="capitals: they were asked different items under one id"):
        compare(read(paths[0]), read(JSON))


def test_a_run_is_compared_with_a_log_of_the_same_records(tmp_path):
    dataset = datasets.read(SAMPLES, tasks=["CHIP-STS", "KUAKE-QTR", "CHIP-CTC"])
    run = run_of(FIRST, tmp_path / "run", dataset)
    same = compare(run, read(FIRST), resamples=500)
    assert [task.name for task in same.tasks] == ["CHIP-STS", "KUAKE-QTR"]
    assert {gain.value for gain in same.gains.values()} == {0.0}
    assert same.left_out == {"sums": "only the second run answers it"}
    by_logs = compare(read(FIRST), read(SECOND), resamples=500)
    for found, sign in (
        (compare(run, read(SECOND), resamples=500), 1),
        (compare(read(SECOND), run, resamples=500), -1),
    ):
        for name in ("CHIP-STS", "KUAKE-QTR"):
            assert found.gains[name].value == pytest.approx(sign * by_logs.gains[name].value)
            assert found.gains[name].p_value == pytest.approx(by_logs.gains[name].p_value)


def test_a_log_of_some_records_needs_the_data_to_be_compared_with_a_run(tmp_path):
    dataset = datasets.read(SAMPLES, tasks=["CHIP-STS", "KUAKE-QTR"])
    run = run_of(FIRST, tmp_path / "run", dataset)
    short = read(changed(FIRST, tmp_path / "log", "promptcblue_chip_sts", lambda all_: all_.pop()))
    with pytest.raises(DataError, match="lacks 1 of the records"):
        compare(run, short)
    found = compare(run, short, dataset)
    assert found.partly == {"CHIP-STS": "3 of 4 and 3 items"}
    assert found.gains["CHIP-STS"].samples == 3
    assert "In both: CHIP-STS: 3 of 4 and 3 items" in comparison_table(found).text()


def test_other_data_under_the_same_ids_is_refused(tmp_path):
    def other_hash(lines):
        lines[3]["doc_hash"] = "0" * 64

    def other_text(lines):
        lines[0]["doc"]["input"] += "？"

    log = read(changed(SECOND, tmp_path / "a", "sums", other_hash))
    assert "different items under one id, such as 3" in compare(read(FIRST), log).left_out["sums"]
    log = read(changed(SECOND, tmp_path / "b", "promptcblue_chip_sts", other_text))
    assert "different items under one id" in compare(read(FIRST), log).left_out["CHIP-STS"]
    run = run_of(FIRST, tmp_path / "run", datasets.read(SAMPLES, tasks=["CHIP-STS"]))
    with pytest.raises(DataError, match=r"records of CHIP-STS .* are not those"):
        compare(run, log)


def test_a_metric_that_is_no_mean_of_its_items_is_left_out(tmp_path):
    def wrong(lines):
        lines[0]["exact_match"] = 1.0

    log = read(changed(FIRST, tmp_path / "log", "sums", wrong))
    assert isinstance(log, Log)
    assert log.tasks["sums"].facts.metric == "exact_match,flexible"
    log = read(tmp_path / "log", "exact_match,strict")
    assert isinstance(log, Log)
    assert "none that is wanted is a mean over items" in log.left_out["sums"]


def test_what_is_no_log_is_refused_with_the_reason(tmp_path, capsys):
    both = tmp_path / "both"
    shutil.copytree(FIRST, both / "first")
    shutil.copytree(SECOND, both / "second")
    alone = tmp_path / "alone"
    alone.mkdir()
    (file,) = FIRST.glob("results_*.json")
    shutil.copy(file, alone)
    unfinished = tmp_path / "unfinished.json"
    log = {**json.loads(JSON.read_text("utf-8")), "status": "error", "reductions": None}
    unfinished.write_text(json.dumps(log), encoding="utf-8")
    other = tmp_path / "other.json"
    other.write_text("[1]", encoding="utf-8")
    cut = tmp_path / "cut.eval"
    cut.write_bytes(EVAL.read_bytes()[:9000])
    empty = tmp_path / "empty.eval"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    for path, complaint in (
        (both, "holds 2 logs, such as results_"),
        (alone, "evaluate with --log_samples"),
        (unfinished, "its status is 'error'"),
        (other, "is no log: give results_"),
        (cut, "is damaged"),
        (empty, "is unfinished"),
        (tmp_path / "nowhere", "holds no run"),
    ):
        assert main(["compare", str(path), str(JSON)]) == 6
        assert complaint in capsys.readouterr().err
    dataset = datasets.read(SAMPLES, tasks=["CHIP-STS"])
    run = run_of(FIRST, tmp_path / "run", dataset)
    for words, complaint in (
        ([str(run.folder), str(JSON)], "compare a run with a log of the tasks of"),
        ([str(run.folder), str(FIRST), "--metric", "accuracy"], "--metric chooses"),
        ([str(FIRST), str(SECOND), "--data", str(SAMPLES)], "leave out --data"),
    ):
        assert main(["compare", *words]) == 6
        assert complaint in capsys.readouterr().err


def test_the_command_shows_logs_as_it_shows_runs(capsys):
    assert main(["compare", str(FIRST), str(SECOND)]) == 0
    table = capsys.readouterr().out
    assert "A: first (" in table
    assert "paired permutation test" in table
    assert main(["compare", str(EVAL), str(JSON), "--metric", "match", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["capitals"] == [0.75, 0.5]
