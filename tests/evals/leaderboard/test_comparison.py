"""Two runs against each other: by hand, by their replicates, and by the samples themselves."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgclora.data.records import DataError
from cgclora.inference.request import Answer, Request
from evals.__main__ import main
from evals.data import datasets
from evals.leaderboard.comparison import OVERALL, compare
from evals.runs.evaluate import predict
from evals.runs.run_dir import Run, RunError, read_run
from evals.runs.score import KEPT_REPLICATES, score
from tests.helpers.run_dirs import around, write_folder, write_run

LABELS = ("治疗方案", "病情诊断", "注意事项")
RECORDS = 40


class Sayer:
    """An engine that answers by the number in the prompt."""

    parallel = 1

    def __init__(self, wrong_below: int) -> None:
        self.wrong_below = wrong_below

    def facts(self, tasks: Sequence[str]) -> dict[str, Any]:
        return {"backbone": {"name": "sayer"}}

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for place, request in enumerate(requests):
            number = int(request.prompt.split("#")[1])
            if request.task == "NER":
                text = "人名：王小明\n地名：无" if number % 3 else "人名：李四"
            else:
                text = LABELS[(number + (number < self.wrong_below)) % 3]
            yield place, Answer(text, "end", 5, 5, 0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lines = [
        *(
            {
                "input": f"意图 #{number}",
                "target": LABELS[number % 3],
                "answer_choices": list(LABELS),
                "task_type": "cls",
                "task_dataset": "KUAKE-QIC",
                "sample_id": f"qic-{number}",
            }
            for number in range(RECORDS)
        ),
        *(
            {
                "input": f"人名 #{number}",
                "target": "人名：王小明\n地名：上海",
                "task_dataset": "NER",
                "sample_id": f"ner-{number}",
            }
            for number in range(RECORDS)
        ),
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in lines), "utf-8")
    return path


def answered(folder: Path, dataset: datasets.Dataset, wrong_below: int) -> Run:
    made = predict(folder, Sayer(wrong_below), dataset, method=f"wrong {wrong_below}", seed=1)
    return score(made, dataset)


def test_by_their_replicates_two_runs_differ_as_one_computes_by_hand(tmp_path):
    ours = {"NER": (0.6, [0.5, 0.6, 0.7, 0.6]), "KUAKE-QIC": (0.5, [0.5] * 4)}
    theirs = {"NER": (0.5, [0.4, 0.7, 0.4, 0.4]), "KUAKE-QIC": (0.4, [0.4] * 4)}
    first = read_run(write_run(tmp_path / "a", ours, method="A", label="small", seed=3))
    second = read_run(write_run(tmp_path / "b", theirs, method="B", seed=None))
    found = compare(first, second)
    assert found.first == f"A · small · seed 3 ({tmp_path / 'a'})"
    assert found.second == f"B ({tmp_path / 'b'})"
    assert found.test == "paired bootstrap"
    assert found.scores["NER"] == (0.6, 0.5)
    assert found.scores[OVERALL] == pytest.approx((0.55, 0.45))
    gain = found.gains["NER"]
    assert gain.value == pytest.approx(0.1)
    drawn = [0.1, -0.1, 0.3, 0.2]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (gain.low, gain.high) == pytest.approx((low, high), abs=1e-6)
    assert gain.standard_error == pytest.approx(np.std(drawn), abs=1e-6)
    # One resample of four turns the sign; none does in the other task: Holm takes the smaller
    # twice, and the larger is no smaller than that.
    assert gain.p_value == pytest.approx(2 * 2 / 5)
    assert found.gains["KUAKE-QIC"].adjusted == pytest.approx(2 * 2 / 5)
    assert gain.adjusted == pytest.approx(2 * 2 / 5)
    assert found.gains[OVERALL].value == pytest.approx(0.1)
    assert found.gains[OVERALL].samples == 200


def test_without_the_data_the_interval_is_that_of_the_samples(tmp_path, path):
    dataset = datasets.read(path)
    first, second = (answered(tmp_path / str(n), dataset, n) for n in (2, 12))
    kept = compare(first, second)
    exact = compare(first, second, dataset, resamples=KEPT_REPLICATES)
    assert exact.test == "paired permutation"
    for name, one in exact.gains.items():
        assert kept.scores[name] == pytest.approx(exact.scores[name])
        assert dataclasses.astuple(kept.gains[name])[:4] == pytest.approx(
            dataclasses.astuple(one)[:4], abs=1e-6
        )
    gain = exact.gains["KUAKE-QIC"]
    # The first run is right in ten more of the records: all ten swaps must fall the same way, or
    # all the other way, which has a chance of 2 / 2^10.
    assert gain.p_value == pytest.approx(2 / 2**10, abs=0.003)
    assert gain.adjusted == 2 * gain.p_value
    assert gain.significant
    assert (exact.gains["NER"].value, exact.gains["NER"].p_value) == (0.0, 1.0)
    assert exact.gains["NER"].samples == RECORDS
    assert exact.gains[OVERALL].value == pytest.approx(gain.value / 2)


def test_swapping_the_runs_turns_every_sign(tmp_path, path):
    dataset = datasets.read(path)
    runs = [answered(tmp_path / str(n), dataset, n) for n in (2, 12)]
    for common in (None, dataset):
        there = compare(*runs, common, resamples=500)
        back = compare(*reversed(runs), common, resamples=500)
        for name, one in there.gains.items():
            turned = back.gains[name].reversed()
            assert (turned.value, turned.low) == pytest.approx((one.value, one.low))
            assert turned.p_value == pytest.approx(one.p_value)


def test_other_data_than_both_answered_is_refused(tmp_path, path):
    dataset = datasets.read(path)
    first, second = (answered(tmp_path / str(n), dataset, n) for n in (2, 12))
    with pytest.raises(DataError, match="lacks"):
        compare(first, second, datasets.limit(dataset, 5, seed=0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": "e" * 64}, "they differ in data"),
        ({"version": "9"}, "they differ in version"),
        ({"metric": "macro-f1"}, "they differ in metric"),
    ],
)
def test_runs_without_a_common_task_are_refused_with_the_reason(tmp_path, change, reason):
    first = read_run(write_run(tmp_path / "a", {"NER": around(0.5)}))
    second = read_run(write_run(tmp_path / "b", {"NER": around(0.5)}, **change))
    with pytest.raises(RunError, match=f"no task in common.*NER: {reason}"):
        compare(first, second)


def test_a_task_of_one_run_alone_is_left_out_by_name(tmp_path):
    both = {"NER": around(0.5), "KUAKE-QIC": around(0.5)}
    first = read_run(write_run(tmp_path / "a", {"NER": around(0.6)}))
    second = read_run(write_run(tmp_path / "b", both))
    found = compare(first, second)
    assert [task.name for task in found.tasks] == ["NER"]
    assert found.left_out == {"KUAKE-QIC": "only the second run answers it"}


def test_what_cannot_be_paired_is_refused(tmp_path):
    whole = read_run(write_run(tmp_path / "a", {"NER": around(0.5)}))
    short = read_run(write_run(tmp_path / "b", {"NER": around(0.5, resamples=50)}))
    with pytest.raises(RunError, match="200 and 50 replicates of NER: score both again"):
        compare(whole, short)
    unscored = read_run(write_folder(tmp_path / "c", None, b""))
    with pytest.raises(RunError, match="no scores yet"):
        compare(whole, unscored)


def test_the_command_compares_with_and_without_the_data(tmp_path, path, capsys):
    dataset = datasets.read(path)
    runs = [str(answered(tmp_path / str(n), dataset, n).folder) for n in (2, 12)]
    assert main(["compare", *runs]) == 0
    table = capsys.readouterr().out
    assert "A: wrong 2 · seed 1" in table
    assert "paired bootstrap test" in table
    assert main(["compare", *runs, "--data", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["test"] == "paired permutation"
    assert said["gains"].keys() == {"KUAKE-QIC", "NER", OVERALL}
    assert main(["compare", runs[0], str(tmp_path / "nowhere")]) == 6
    assert "holds no run" in capsys.readouterr().err
