"""Inter-task affinity: both forms, planted groups, an interrupted run, shared parameters."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from cgclora.adapter import Adapter
from cgclora.analysis.affinity import measure, records_for
from cgclora.analysis.affinity_settings import AffinitySettings
from cgclora.analysis.affinity_state import with_means
from cgclora.analysis.shared_parameters import SharedParameters
from cgclora.cli.analysis.affinity import group
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import DataError, Encoded
from cgclora.data.sampling import Collator
from cgclora.storage.run_dir import TrainingDiverged, TrainingError, TrainingStopped, hold
from tests.helpers.affinity import CONFIG, SETTINGS, TASKS, means, records, run
from tests.helpers.tiny import make_backbone

# The two forms ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "step"), [(CONFIG, "adam"), (AdapterConfig(TASKS, common=2, expert_rank=2), "sgd")]
)
def test_both_forms_agree_for_small_steps_and_part_for_large_ones(tmp_path, config, step):
    apart = []
    small = {"adam": 1e-5, "sgd": 1e-3}[step]
    for rate in (small, 1000 * small):
        result = run(tmp_path / str(rate), config, step=step, step_rate=rate, measurements=1)
        one = result["measurements"][0]
        first_order, lookahead = np.array(one["first_order"]), np.array(one["lookahead"])
        apart.append(np.abs(first_order - lookahead).max() / np.abs(first_order).max())
    assert apart[0] < 0.02  # single precision takes its share
    assert apart[1] > 5 * apart[0]


def test_the_first_order_form_is_proportional_to_the_step(tmp_path):
    one, other = (
        np.array(run(tmp_path / str(rate), step_rate=rate)["first_order"]["mean"])
        for rate in (1e-4, 3e-4)
    )
    np.testing.assert_allclose(3 * one, other, rtol=1e-5)


def test_the_default_step_is_a_tasks_share_of_a_joint_step(tmp_path):
    default = run(tmp_path / "a", measurements=1)
    share = run(tmp_path / "b", measurements=1, step_rate=SETTINGS.learning_rate / len(TASKS))
    assert default["first_order"] == share["first_order"]


def test_means_have_the_losses_summed_before_they_are_divided(tmp_path):
    result = run(tmp_path)
    assert [one["step"] for one in result["measurements"]] == [3, 6, 9, 12]
    taken = [one for one in result["measurements"] if "lookahead" in one]
    assert len(taken) == 2
    losses = np.array([one["losses"] for one in taken])
    changes = np.array([one["lookahead"] for one in taken]) * losses[:, None]
    mean = changes.sum(axis=0) / losses.sum(axis=0)
    np.testing.assert_allclose(result["lookahead"]["mean"], mean)
    rest = changes - mean * losses[:, None]  # what is left of a change beyond the task's share
    error = np.abs(rest[0] - rest[1]) / losses.sum(axis=0)
    np.testing.assert_allclose(result["lookahead"]["standard_error"], error)


def test_losses_that_vary_make_no_share_uncertain():
    shares = [[0.1, 0.2], [0.3, 0.1]]
    found = with_means([{"losses": [x, 1.0], "first_order": shares} for x in (1.0, 2.0, 4.0)])
    np.testing.assert_allclose(found["first_order"]["mean"], shares)
    np.testing.assert_allclose(found["first_order"]["standard_error"], 0, atol=1e-12)


def test_the_lookahead_can_be_left_out(tmp_path):
    result = run(tmp_path, lookahead_every=0)
    assert result["lookahead"] is None
    assert result["first_order"] is not None


def test_measuring_changes_neither_the_training_nor_the_backbone(tmp_path):
    rare = run(tmp_path / "a", every=6, measurements=2, lookahead_every=0)
    backbone = make_backbone()
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    adapter = Adapter.attach(backbone, CONFIG)
    settings = dataclasses.replace(SETTINGS, every=6, measurements=2, lookahead_every=1)
    often = measure(
        adapter, backbone.tokenizer, records(30), settings, tmp_path / "b", progress=lambda _: None
    )
    for one, other in zip(rare["measurements"], often["measurements"], strict=True):
        assert one["losses"] == other["losses"]
        assert one["first_order"] == other["first_order"]
    adapter.detach()
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_loss_is_taken_on_other_records_than_the_step(tmp_path, monkeypatch):
    # Each task has just as many records as a measurement needs, and that uses each of them once.
    batches: list[list[Encoded]] = []

    class Spy(Collator):
        def __call__(self, items: Sequence[Encoded]) -> dict[str, torch.Tensor]:
            batches.append(list(items))
            return super().__call__(items)

    monkeypatch.setattr("cgclora.analysis.affinity.Collator", Spy)
    data = records(SETTINGS.records + SETTINGS.loss_records)
    result = run(tmp_path, data=data, measurements=1, lookahead_every=0)
    measuring = batches[SETTINGS.every :]
    assert [len(batch) for batch in measuring] == [4] * len(TASKS) * 2
    assert len({id(item) for batch in measuring for item in batch}) == len(data)
    assert result["data"]["records"] == dict.fromkeys(TASKS, 8)
    with pytest.raises(DataError, match="'sun' has 7 records that fit, a measurement needs 8"):
        run(tmp_path / "b", data=data[1:])


@pytest.mark.parametrize(
    ("records_of_task", "tokens", "counts"),
    [(40, 0, (3, 2)), (40, 100, (10, 10)), (40, 25, (3, 2)), (12, 1000, (6, 6)), (6, 1000, (3, 3))],
)
def test_tasks_with_short_records_take_more_of_them(records_of_task, tokens, counts):
    group = [Encoded([2] * 10, 8, 0)] * records_of_task
    settings = AffinitySettings(records=3, loss_records=2, tokens=tokens)
    assert records_for(group, settings) == counts


@pytest.mark.parametrize("size", range(5, 12))
def test_no_more_records_are_taken_than_there_are(size):
    settings = AffinitySettings(records=4, loss_records=1, tokens=10**6)
    first, second = records_for([Encoded([2], 1, 0)] * size, settings)
    assert first >= 4
    assert first + second <= size


def test_a_loss_near_zero_does_not_blow_an_affinity_up(tmp_path, monkeypatch):
    usual = run(tmp_path / "a", measurements=1, step_rate=1e-4)
    monkeypatch.setattr("cgclora.analysis.affinity.SMALLEST_LOSS", 100.0)
    floored = run(tmp_path / "b", measurements=1, step_rate=1e-4)
    losses = np.array(usual["measurements"][0]["losses"])
    for one, other in zip(means(usual), means(floored), strict=True):
        np.testing.assert_allclose(one * losses / 100, other, rtol=1e-3, atol=1e-9)


# Planted groups ---------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "rate"), [("adam", 1e-4), ("sgd", 1e-2)])
def test_tasks_that_agree_are_told_from_tasks_that_contradict(tmp_path, step, rate):
    result = run(tmp_path, step=step, step_rate=rate, measurements=5, every=5, lookahead_every=1)
    grouped = [group(result, range(1, 4), None, unit=unit) for unit in ("loss", "task")]
    for found in (one[form] for one in grouped for form in ("first_order", "lookahead")):
        assert found["groupings"][1]["groups"] == [["sun", "day"], ["moon", "night"]]
        assert found["groupings"][1]["held_out_gain"] > 0
        assert found["suggested"] == 2


# Going on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, AdapterConfig(TASKS, common=2, dropout=0.5)])
def test_an_interrupted_run_gives_the_same_numbers(tmp_path, config):
    whole = run(tmp_path / "whole", config)
    for _ in range(SETTINGS.measurements - 1):
        with pytest.raises(TrainingStopped, match="the same call goes on"):
            run(tmp_path / "parts", config, stop=lambda: True)
    parts = run(tmp_path / "parts", config, stop=lambda: True)
    assert parts["measurements"] == whole["measurements"]
    assert parts["lookahead"] == whole["lookahead"]
    assert [one["first_measurement"] for one in parts["origins"]] == [1, 2, 3, 4]
    assert len(whole["origins"]) == 1


def test_more_measurements_may_be_asked_for_later(tmp_path):
    whole = run(tmp_path / "whole", measurements=3)
    run(tmp_path / "parts", measurements=1)
    assert run(tmp_path / "parts", measurements=3)["measurements"] == whole["measurements"]
    assert len(run(tmp_path / "parts", measurements=2)["measurements"]) == 2


def test_a_folder_keeps_to_its_run(tmp_path):
    run(tmp_path, measurements=1)
    with pytest.raises(TrainingError, match="differs in settings"):
        run(tmp_path, measurements=1, step="sgd")
    with pytest.raises(TrainingError, match="differs in data"):
        run(tmp_path, data=records(30, seed=1), measurements=1)
    with hold(tmp_path), pytest.raises(TrainingError, match="another process"):
        run(tmp_path, measurements=1)


def test_a_damaged_state_is_named(tmp_path):
    run(tmp_path, measurements=1)
    (tmp_path / "state" / "measurements.json").write_text("{", encoding="utf-8")
    with pytest.raises(TrainingError, match="damaged"):
        run(tmp_path, measurements=2)


def test_a_diverging_training_is_stopped(tmp_path):
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        run(tmp_path, learning_rate=1e30)


# Settings and shared parameters -----------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"measurements": 0},
        {"lookahead_every": -1},
        {"step": "newton"},
        {"step_rate": 0.0},
        {"learning_rate": float("nan")},
        {"sampling": "all"},
        {"max_length": 1},
        {"tokens": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AffinitySettings(**wrong)


def test_shared_parameters_are_the_common_experts_alone():
    adapter = Adapter.attach(make_backbone(), AdapterConfig(TASKS, common=2, expert_rank=3))
    shared = SharedParameters(adapter)
    before = {name: value.detach().clone() for name, value in adapter.named_parameters()}
    values = shared.values()
    layers = adapter.layers.values()
    assert len(values) == sum(6 * sum(one.base_layer.weight.shape) for one in layers)
    shared.write(values + 1)
    for name, value in adapter.named_parameters():
        change = value.detach() - before[name]
        if name.endswith("expert_A"):
            common, own = change[:6], change[6:]
        elif name.endswith("expert_B"):
            common, own = change[:, :6], change[:, 6:]
        else:
            common, own = torch.ones(1), change
        torch.testing.assert_close(common, torch.ones_like(common))
        assert not own.any()
    shared.write(values)
    assert torch.equal(shared.values(), values)


def test_values_that_no_gradient_has_reached_take_no_step(tmp_path):
    """A, while B is zero: what Adam would do there is not known yet."""
    backbone = make_backbone()
    adapter = Adapter.attach(backbone, CONFIG)
    optimizer = torch.optim.Adam([value for _, value in adapter.named_parameters()], 1e-3)
    with adapter.route(["sun"]):
        backbone.model(input_ids=torch.tensor([[3, 4, 5]])).logits.square().mean().backward()
    optimizer.step()
    shared = SharedParameters(adapter)
    scale = shared.preconditioner(optimizer)
    shared.write(scale)
    for layer in adapter.layers.values():
        assert not layer.expert_A["default"].any()
        B = layer.expert_B["default"]
        torch.testing.assert_close(B, 1 / (B.grad.abs() + 1e-8))
    result = run(tmp_path, every=1, measurements=1, lookahead_every=0)
    assert np.abs(result["first_order"]["mean"]).max() < 1


def test_an_adapter_without_common_experts_shares_nothing(tmp_path):
    with pytest.raises(ConfigError, match="common experts"):
        run(tmp_path, AdapterConfig(TASKS, common=0))
