"""Findings on boards whose numbers are set by hand."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from evals.leaderboard.board import Board, boards, restrict
from evals.leaderboard.verdict.findings import verdict
from evals.methods import BACKBONE, CGC_LORA, FULL, LORAHUB, MOE_LORA, SINGLE
from evals.scoring.effect_sizes import OVERALL, probability_better
from evals.scoring.power import power
from tests.helpers.run_dirs import SAMPLES, write_run

TASKS = ("CHIP-CTC", "KUAKE-QIC", "KUAKE-QQR")
R = 2000


def noise(seed: int, error: float) -> np.ndarray:
    """[R] exactly of this standard deviation and with mean 0."""
    drawn = np.random.default_rng(seed).normal(0, 1, R)
    return error * (drawn - drawn.mean()) / drawn.std()


def write(root: Path, method: str, scores: tuple[float, ...], error: float = 0.02, **facts) -> None:
    """A run whose differences to any other one spread by `error` and that one's error."""
    replicates = {
        task: (score, score + noise(sum(map(ord, method)) + place, error))
        for place, (task, score) in enumerate(zip(TASKS, scores, strict=False))
    }
    if method == BACKBONE:
        facts |= {"seed": None, "trainable_parameters": None, "total_rank": None}
    folder = "-".join(map(str, (method, *facts.values()))).replace("/", "")
    write_run(root / folder, replicates, method=method, **facts)


def only(root: Path) -> Board:
    (board,) = boards(root).boards
    return board


def test_sharing_is_judged_by_its_best_method_with_holms_rule_over_the_tasks(tmp_path):
    write(tmp_path, SINGLE, (0.6, 0.6, 0.6), error=0.0)
    write(tmp_path, FULL, (0.5, 0.5, 0.5))
    # 5, 3 and 2.1 standard errors: p = 6e-7, 0.003 and 0.036, so all are sure by Holm's rule.
    write(tmp_path, CGC_LORA, (0.7, 0.54, 0.642))
    found = verdict(only(tmp_path)).sharing
    assert (found.method, found.reference, found.candidates) == (CGC_LORA, SINGLE, 2)
    assert (found.helped, found.hurt) == ((TASKS[0], TASKS[2]), (TASKS[1],))
    assert found.undecided == ()
    assert found.gains[OVERALL].value == pytest.approx((0.1 - 0.06 + 0.042) / 3)


def test_a_task_that_is_sure_by_itself_may_be_undecided_among_several(tmp_path):
    write(tmp_path, SINGLE, (0.6, 0.6, 0.6), error=0.0)
    write(tmp_path, CGC_LORA, (0.642, 0.61, 0.59))  # p = 0.036 alone, 0.11 among three
    found = verdict(only(tmp_path)).sharing
    assert found.gains[TASKS[0]].p_value < 0.05
    assert found.undecided == TASKS
    (alone,) = [verdict(restrict(only(tmp_path), tasks=TASKS[:1])).sharing]
    assert alone.helped == TASKS[:1]


def test_an_adapter_of_specific_experts_alone_shares_nothing(tmp_path):
    write(tmp_path, SINGLE, (0.5, 0.5))
    write(tmp_path, f"{CGC_LORA} w/o common", (0.9, 0.9))
    assert verdict(only(tmp_path)).sharing is None
    write(tmp_path, LORAHUB, (0.4, 0.4))
    found = verdict(only(tmp_path)).sharing
    assert (found.method, found.candidates) == (LORAHUB, 1)
    assert found.hurt == TASKS[:2]


def test_a_board_without_the_reference_tells_nothing_of_sharing(tmp_path):
    write(tmp_path, CGC_LORA, (0.5, 0.5))
    write(tmp_path, MOE_LORA, (0.9, 0.9))
    assert verdict(only(tmp_path)).sharing is None
    # Nor does a reference that shares.
    assert verdict(only(tmp_path), reference=MOE_LORA).sharing is None


def test_the_best_is_compared_with_all_that_cannot_be_told_from_it(tmp_path):
    write(tmp_path, CGC_LORA, (0.70, 0.70), error=0.03)
    write(tmp_path, MOE_LORA, (0.68, 0.69), error=0.05)
    write(tmp_path, FULL, (0.30, 0.30))
    board = only(tmp_path)
    found = verdict(board)
    assert found.entries == (CGC_LORA, MOE_LORA, FULL)
    assert found.nearest is None
    (pair,) = found.pairs
    assert (pair.best, pair.other) == (CGC_LORA, MOE_LORA)
    assert pair.gain.value == pytest.approx(0.015)
    one, other = (entry.scores for entry in board.entries[:2])
    parts = [(0.0, one[task].replicates - other[task].replicates, SAMPLES) for task in TASKS[:2]]
    assert pair.power == power(parts, 0.02)  # more than what was observed
    assert pair.power.more > 0
    differences = (parts[0][1] + parts[1][1]) / 2
    assert pair.probability == pytest.approx(float(probability_better(differences)))
    assert pair.training_error is None
    # An observed difference that is larger is the one to be told.
    (pair,) = verdict(board, difference=0.001).pairs
    assert pair.power.difference == pytest.approx(0.015)


def test_a_sure_leader_stands_beside_the_next(tmp_path):
    write(tmp_path, CGC_LORA, (0.9, 0.9))
    write(tmp_path, MOE_LORA, (0.5, 0.5))
    write(tmp_path, FULL, (0.4, 0.4))
    found = verdict(only(tmp_path))
    assert found.pairs == ()
    assert found.nearest.other == MOE_LORA
    assert found.nearest.gain.value == pytest.approx(0.4)


# Choices ----------------------------------------------------------------------------------


def test_each_budget_has_the_smallest_method_that_is_not_surely_worse_than_its_best(tmp_path):
    write(tmp_path, BACKBONE, (0.1, 0.1))
    write(tmp_path, FULL, (0.5, 0.5), trainable_parameters=1_900_000)
    write(tmp_path, MOE_LORA, (0.69, 0.69), trainable_parameters=3_800_000)
    write(tmp_path, SINGLE, (0.70, 0.70), trainable_parameters=7_600_000)
    board = only(tmp_path)
    small, large = verdict(board).choices
    assert (small.name, small.reason, small.rival) == (FULL, "within budget", MOE_LORA)
    assert (small.parameters, small.limit, small.rival_parameters) == (1.9e6, 3.8e6, 3.8e6)
    assert small.gain.value == pytest.approx(-0.19)
    assert (large.name, large.reason, large.rival) == (MOE_LORA, "not surely worse", SINGLE)
    assert (large.parameters, large.limit, large.rival_parameters) == (3.8e6, None, 7.6e6)
    assert large.gain.value == pytest.approx(-0.01)
    assert not large.gain.significant
    budgets = {0: None, 1_900_000: small, 3_700_000: small, 3_800_000: large, 10**9: large}
    for budget, choice in budgets.items():
        assert verdict(board, budget=budget).within == choice
    assert verdict(board).within is None


def test_a_large_method_is_chosen_if_all_smaller_ones_are_surely_worse(tmp_path):
    write(tmp_path, FULL, (0.5, 0.5), trainable_parameters=1_900_000)
    write(tmp_path, MOE_LORA, (0.6, 0.6), trainable_parameters=3_800_000)
    write(tmp_path, CGC_LORA, (0.9, 0.9), trainable_parameters=5_700_000)
    choices = verdict(only(tmp_path)).choices
    assert [one.name for one in choices] == [FULL, MOE_LORA, CGC_LORA]
    assert [one.limit for one in choices] == [3_800_000, 5_700_000, None]
    assert (choices[-1].reason, choices[-1].rival) == ("surely better", MOE_LORA)
    assert choices[-1].gain.value == pytest.approx(0.3)


def test_the_parameters_of_a_gate_are_no_reason_to_choose(tmp_path):
    write(tmp_path, MOE_LORA, (0.69, 0.69), trainable_parameters=5_700_000)
    write(tmp_path, CGC_LORA, (0.70, 0.70), trainable_parameters=5_740_000)
    (choice,) = verdict(only(tmp_path)).choices
    assert (choice.name, choice.reason, choice.rival) == (CGC_LORA, "smallest", None)


def test_where_training_gains_nothing_the_backbone_is_chosen(tmp_path):
    write(tmp_path, BACKBONE, (0.69, 0.69))
    write(tmp_path, FULL, (0.70, 0.70))
    (choice,) = verdict(only(tmp_path)).choices
    assert (choice.name, choice.parameters, choice.reason) == (BACKBONE, 0, "untrained")
    assert choice.rival == FULL


def test_methods_of_unknown_size_are_no_choice(tmp_path):
    write(tmp_path, FULL, (0.5, 0.5), trainable_parameters=1_900_000)
    write(tmp_path, "a server's", (0.9, 0.9), trainable_parameters=None)
    (choice,) = verdict(only(tmp_path)).choices
    assert choice.name == FULL


# Limits -----------------------------------------------------------------------------------


def test_training_noise_is_that_of_independent_seeds(tmp_path):
    for seed, shift in enumerate((-0.03, 0.0, 0.03)):
        write(tmp_path, CGC_LORA, (0.71 + shift, 0.71 + shift), seed=seed)
    for seed, shift in enumerate((-0.01, 0.01)):
        write(tmp_path, SINGLE, (0.70 + shift, 0.60 + shift), seed=seed)
    found = verdict(only(tmp_path))
    assert found.seeds == (2, 3)
    assert found.single_seed == ()
    # Standard deviations of 0.03 over three seeds and 0.02 / sqrt(2) over two.
    expected = math.sqrt(0.03**2 / 3 + 0.0002 / 2)
    assert found.nearest.training_error == pytest.approx(expected)
    assert not found.nearest.is_within_training_noise  # 0.06 is 3 standard errors
    assert found.sharing.helped == (TASKS[1],)
    assert found.sharing.within_training_noise == ()


def test_a_gain_that_other_seeds_could_undo_is_marked(tmp_path):
    for seed, shift in enumerate((-0.25, 0.25)):
        write(tmp_path, CGC_LORA, (0.7 + shift, 0.7), seed=seed)
        write(tmp_path, SINGLE, (0.5, 0.5), seed=seed)
    found = verdict(only(tmp_path))
    assert set(found.sharing.helped) == {TASKS[0], TASKS[1]}
    assert found.sharing.within_training_noise == (TASKS[0],)
    assert found.nearest.is_within_training_noise


def test_what_limits_the_verdict_is_named(tmp_path):
    write(tmp_path, CGC_LORA, (0.7, 0.7))
    write(tmp_path, MOE_LORA, (0.7, 0.7), seed=0, backbone={"name": "small", "fingerprint": "a"})
    write(tmp_path, MOE_LORA, (0.6, 0.7), seed=1, backbone={"name": "small", "fingerprint": "a"})
    write(tmp_path, BACKBONE, (0.1, 0.1))
    board = only(tmp_path)
    tasks = (dataclasses.replace(board.tasks[0], samples=49), *board.tasks[1:])
    found = verdict(dataclasses.replace(board, tasks=tasks))
    assert found.seeds == (1, 2)
    assert found.single_seed == (f"{CGC_LORA} · tiny",)
    assert found.few_records == {TASKS[0]: 49}
    assert set(found.backbones) == {"tiny", "small"}


def test_a_single_method_and_an_empty_board_have_a_verdict(tmp_path):
    write(tmp_path, SINGLE, (0.6,))
    board = only(tmp_path)
    found = verdict(board)
    assert (found.entries, found.pairs, found.sharing) == ((SINGLE,), (), None)
    assert found.best.value == pytest.approx(0.6)
    empty = verdict(restrict(board, entries=[]), budget=5)
    assert (empty.entries, empty.best, empty.choices, empty.within) == ((), None, (), None)
    assert empty.seeds is None


@pytest.mark.parametrize("wrong", [{"budget": -1}, {"difference": 0.0}])
def test_a_wrong_request_says_so(tmp_path, wrong):
    write(tmp_path, SINGLE, (0.6,))
    write(tmp_path, FULL, (0.6,))
    with pytest.raises(ValueError, match="must be"):
        verdict(only(tmp_path), **wrong)
