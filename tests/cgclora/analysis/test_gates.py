"""What gates say about tasks, against independent computations."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from cgclora.analysis.gates import (
    GateHealth,
    average_linkage,
    entropy,
    find_log,
    gate_health,
    read_path,
    similarity,
)
from cgclora.config import AdapterConfig

RANDOM = np.random.default_rng(0)
RESULTS = Path(__file__).resolve().parents[3] / "assets" / "results"
ADAPTERS = RESULTS.parent / "adapters"


# Entropy --------------------------------------------------------------------------------------


def test_entropy_is_that_of_scipy_over_the_largest_there_can_be() -> None:
    weights = RANDOM.dirichlet(np.ones(5), size=(3, 4))
    expected = scipy_entropy(weights, axis=-1) / np.log(5)
    assert entropy(weights) == pytest.approx(expected)


def test_entropy_is_one_where_even_and_zero_where_one_has_all() -> None:
    assert entropy([[0.25] * 4, [1, 1, 1, 1], [0, 0, 7, 0]]).tolist() == pytest.approx([1, 1, 0])


def test_one_expert_or_none_with_weight_is_even() -> None:
    assert entropy([[1.0], [0.3]]).tolist() == [1, 1]
    assert entropy([[0.0, 0.0]]).tolist() == pytest.approx([1])


# Similarity -----------------------------------------------------------------------------------


def test_similarity_is_the_cosine_of_centred_logits() -> None:
    logits = RANDOM.normal(size=(6, 3, 4))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    lean = [
        np.concatenate([layer[task] - layer[task].mean() for layer in logits]) for task in range(3)
    ]
    for one in range(3):
        for other in range(3):
            cosine = lean[one] @ lean[other]
            cosine /= np.sqrt(lean[one] @ lean[one]) * np.sqrt(lean[other] @ lean[other])
            assert similarity(weights)[one, other] == pytest.approx(cosine)


def test_what_specific_experts_take_does_not_change_similarity() -> None:
    weights = RANDOM.dirichlet(np.ones(4), size=(6, 3))
    left = RANDOM.uniform(0.2, 1, size=(6, 3, 1))
    assert similarity(weights * left) == pytest.approx(similarity(weights))


def test_opposite_leans_have_similarity_minus_one() -> None:
    assert similarity([[[0.8, 0.2], [0.2, 0.8]]])[0, 1] == pytest.approx(-1)


def test_tasks_without_a_lean_are_alike_and_have_nothing_in_common_with_others() -> None:
    even, leaning = [0.25, 0.25 + 1e-9], [0.1, 0.4]
    found = similarity([[even, leaning, even]])
    assert found.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_one_common_expert_leaves_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="at least 2 common experts, there are 1"):
        similarity(np.ones((2, 3, 1)))


# Tree -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 9, 16])
def test_the_two_closest_groups_are_merged(count: int) -> None:
    points = RANDOM.normal(size=(count, 3))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    merges, order = average_linkage(distance)
    groups = {item: [item] for item in range(count)}
    for number, merge in enumerate(merges, start=count):
        means = {
            (one, other): distance[np.ix_(groups[one], groups[other])].mean()
            for one in groups
            for other in groups
            if one < other
        }
        assert means[merge.left, merge.right] == min(means.values())
        assert merge.height == pytest.approx(means[merge.left, merge.right])
        groups[number] = groups.pop(merge.left) + groups.pop(merge.right)
    assert list(groups.values()) == [order]


def test_what_is_merged_stands_side_by_side() -> None:
    distance = np.array([[0, 9, 1, 9], [9, 0, 9, 2], [1, 9, 0, 9], [9, 2, 9, 0]], dtype=float)
    assert average_linkage(distance)[1] == [0, 2, 1, 3]


def test_one_item_is_a_tree_without_merges() -> None:
    assert average_linkage(np.zeros((1, 1))) == ([], [0])


# Log ------------------------------------------------------------------------------------------

CONFIG = AdapterConfig(tasks=("a", "b"), common=1, specific=1)
GATES = [[0.4, 0.6, 0.0], [0.7, 0.0, 0.3]]


def write_log(path: Path, *entries: dict[str, object], cut: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + cut)
    return path


def test_the_path_holds_every_logged_step_once_and_in_order(tmp_path: Path) -> None:
    later = [[0.5, 0.5, 0.0], [0.9, 0.0, 0.1]]
    log = write_log(
        tmp_path / "log.jsonl",
        {"step": 20, "gates": GATES},
        {"step": 20, "dev_loss": 1.0},
        {"step": 10, "gates": GATES},
        {"step": 20, "gates": later},
        cut='{"step": 30, "gates": [[0.',
    )
    path = read_path(log, CONFIG)
    assert path is not None
    assert path.steps == (10, 20)
    assert path.gates.tolist() == [GATES, later]


def test_gates_of_another_shape_are_no_path(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", {"step": 1, "gates": [[1.0]]})
    assert read_path(log, CONFIG) is None


def test_an_adapter_in_its_run_folder_has_the_log_beside_it(tmp_path: Path) -> None:
    log = write_log(tmp_path / "run" / "log.jsonl", {"step": 1, "gates": GATES})
    assert find_log(tmp_path / "run" / "adapter", {}, tmp_path / "results") == log
    assert find_log(tmp_path / "run" / "other", {}, tmp_path / "results") is None


def test_a_log_belongs_to_the_adapter_that_was_trained_with_the_same_data_and_settings(
    tmp_path: Path,
) -> None:
    runs = {"this": {"config": 1, "train_data": "x"}, "other": {"config": 1, "train_data": "y"}}
    for name, run in runs.items():
        log = write_log(tmp_path / name / "log.jsonl", {"step": 1, "gates": GATES})
        log.with_name("run.json").write_text(json.dumps(run))
    training = {"config": 1, "train_data": "x", "seconds": 3}
    found = find_log(tmp_path / "adapters" / "a", {"training": training}, tmp_path)
    assert found == tmp_path / "this" / "log.jsonl"
    assert find_log(tmp_path / "adapters" / "a", {}, tmp_path) is None


@pytest.mark.parametrize("name", ["medical", "general"])
def test_shipped_adapters_have_a_log_that_ends_where_their_manifest_says(name: str) -> None:
    manifest = json.loads((ADAPTERS / name / "manifest.json").read_text())
    config = AdapterConfig.from_dict(json.loads((ADAPTERS / name / "config.json").read_text()))
    log = find_log(ADAPTERS / name, manifest, RESULTS)
    assert log is not None
    path = read_path(log, config)
    assert path is not None
    assert path.steps[-1] == manifest["training"]["steps"]
    usable = np.array(config.access())
    assert path.gates[:, ~usable].max() == 0
    assert path.gates.sum(-1) == pytest.approx(1, abs=2e-3)  # rounded to four digits


# Health -----------------------------------------------------------------------------------

ACCESS = [[True, True, True, False], [True, True, False, True]]  # two common experts, one each


def test_learned_gates_that_differ_are_healthy():
    weights = np.array([[[0.6, 0.2, 0.2, 0], [0.2, 0.5, 0, 0.3]]] * 3)
    assert gate_health(weights, ACCESS) == GateHealth(False, (), ())


def test_gates_that_stayed_uniform_are_named():
    even = np.array(ACCESS) / 3
    assert gate_health(np.stack([even, even]), ACCESS).is_uniform
    nearly = even * np.array([1.02, 0.98, 1, 1])
    assert gate_health(nearly[None], ACCESS).is_uniform
    one_learned = np.array([[0.7, 0.2, 0.1, 0], even[1]])
    assert not gate_health(one_learned[None], ACCESS).is_uniform


def test_an_expert_that_no_task_uses_is_named():
    weights = np.array([[[0.58, 0.02, 0.4, 0], [0.68, 0.02, 0, 0.3]]])
    assert gate_health(weights, ACCESS).unused == (1,)
    one_uses_it = np.array([[[0.58, 0.02, 0.4, 0], [0.5, 0.2, 0, 0.3]]])
    assert gate_health(one_uses_it, ACCESS).unused == ()


def test_a_task_with_all_weight_on_one_expert_is_named():
    weights = np.array([[[0.998, 0.001, 0.001, 0], [0.3, 0.3, 0, 0.4]]])
    assert gate_health(weights, ACCESS).collapsed == (0,)


def test_a_task_with_one_expert_has_nothing_to_choose():
    assert gate_health([[[1.0]]], [[True]]) == GateHealth(False, (), ())
