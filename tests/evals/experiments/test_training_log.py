"""The log of a training run, as far as it has come."""

import json
from pathlib import Path
from typing import Any

import pytest

from evals.experiments.training_log import TrainingLog, read_log


def loss(step: int, time: float, **losses: float) -> dict[str, Any]:
    gates = [[0.4, 0.4, 0.2, 0.0], [0.3, 0.3, 0.0, 0.4]]
    mean = sum(losses.values()) / len(losses)
    line = {"step": step, "steps": 10, "time": time, "loss": mean, "losses": losses}
    return {**line, "gates": gates, "learning_rate": 1e-3, "grad_norm": 1.0}


def dev(step: int, time: float, **losses: float) -> dict[str, Any]:
    mean = sum(losses.values()) / len(losses)
    return {"step": step, "steps": 10, "time": time, "dev_loss": mean, "dev_losses": losses}


def logged(folder: Path, *lines: dict[str, Any], cut: str = "") -> TrainingLog:
    text = "".join(json.dumps(line) + "\n" for line in lines) + cut
    (folder / "log.jsonl").write_text(text, encoding="utf-8")
    log = read_log(folder)
    assert log is not None
    return log


def test_before_there_is_a_log_there_is_none(tmp_path: Path) -> None:
    assert read_log(tmp_path) is None
    empty = logged(tmp_path)
    assert (empty.step, empty.steps, empty.best, empty.seconds_left) == (0, 0, None, None)


def test_losses_stand_by_task_over_the_steps(tmp_path: Path) -> None:
    lines = [loss(1, 0, a=4.0), loss(2, 2, a=2.0, b=6.0), dev(2, 3, a=1.0, b=3.0)]
    log = logged(tmp_path, *lines, loss(3, 5, b=1.0), dev(3, 6, a=2.0, b=2.5))
    assert log.loss == [(1, 4.0), (2, 4.0), (3, 1.0)]
    assert log.losses == {"a": [(1, 4.0), (2, 2.0)], "b": [(2, 6.0), (3, 1.0)]}
    assert log.dev_losses["b"] == [(2, 3.0), (3, 2.5)]
    assert (log.step, log.steps, log.best) == (3, 10, (2, 2.0))


def test_where_there_are_dev_scores_the_highest_is_the_best(tmp_path: Path) -> None:
    lines = [
        {**dev(step, step, a=loss), "dev_score": score, "dev_scores": {"a": score}}
        for step, loss, score in ((1, 1.0, 0.2), (2, 3.0, 0.7), (3, 2.0, 0.7))
    ]
    log = logged(tmp_path, *lines)
    assert log.best == (3, 2.0)
    assert log.dev_score == log.dev_scores["a"] == [(1, 0.2), (2, 0.7), (3, 0.7)]


def test_shares_of_specific_experts_are_those_of_the_gates(tmp_path: Path) -> None:
    shares = logged(tmp_path, loss(1, 0, a=1.0), loss(2, 1, a=1.0)).specific_shares("ab", 2)
    assert [step for step, _ in shares["a"]] == [1, 2]
    assert shares["a"][0][1] == pytest.approx(0.2)
    assert shares["b"][1][1] == pytest.approx(0.4)


@pytest.mark.parametrize("cut", ['{"step": 2, "steps"', "{"])
def test_a_line_that_is_being_written_is_left_for_the_next_look(tmp_path: Path, cut: str) -> None:
    assert logged(tmp_path, loss(1, 0, a=1.0), cut=cut).step == 1


def test_the_pace_counts_dev_losses_but_no_pauses(tmp_path: Path) -> None:
    steady = [loss(1, 0, a=1.0), loss(2, 2, a=1.0), dev(2, 4, a=1.0), loss(3, 6, a=1.0)]
    assert logged(tmp_path, *steady).seconds_a_step == pytest.approx(3.0)
    resumed = [*steady, loss(4, 9006, a=1.0), loss(5, 9009, a=1.0)]
    log = logged(tmp_path, *resumed)
    assert log.seconds_a_step == pytest.approx(3.0)
    assert log.seconds_left == pytest.approx(5 * 3.0)


@pytest.mark.parametrize("line", ['{"step": 2, "st', "3", '{"step": "x"}', '{"stfp": 2}', "\ufffd"])
def test_a_damaged_line_is_left_out(tmp_path: Path, line: str) -> None:
    good = [json.dumps(loss(step, step, a=1.0)) for step in (1, 3)]
    (tmp_path / "log.jsonl").write_text(f"{good[0]}\n{line}\n{good[1]}\n", encoding="utf-8")
    log = read_log(tmp_path)
    assert log is not None
    assert log.loss == [(1, 1.0), (3, 1.0)]


@pytest.mark.parametrize("jump", [-1e9, -3.0, 1e9])
def test_a_clock_that_is_set_does_not_change_the_pace(tmp_path: Path, jump: float) -> None:
    times = [2.0 * step + (jump if step > 3 else 0) for step in range(1, 8)]
    log = logged(tmp_path, *(loss(step, time, a=1.0) for step, time in enumerate(times, start=1)))
    assert log.seconds_a_step == pytest.approx(2.0)
