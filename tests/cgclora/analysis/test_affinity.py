"""Inter-task affinity: both forms, an interrupted run, planted groups, the command, the picture."""

import dataclasses
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import evals.__main__
from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.analysis.affinity import measure, records_for
from cgclora.analysis.affinity_settings import AffinitySettings
from cgclora.analysis.affinity_state import with_means
from cgclora.analysis.shared_parameters import SharedParameters
from cgclora.cli.analysis.affinity import group, prior_groups
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import DataError, Encoded, Record
from cgclora.data.sampling import Collator
from cgclora.storage.run_dir import TrainingDiverged, TrainingError, TrainingStopped, hold
from evals.figures.affinity import heat_map
from evals.figures.affinity_page import RESULT, files_of, page
from tests.helpers.tiny import make_backbone, save_backbone

COMMITTED = Path(__file__).parents[3] / "assets" / "results" / "affinity" / RESULT

TASKS = ("sun", "moon", "day", "night")
RULES = {"sun": ("好", "Is"), "day": ("好", "Is"), "moon": ("Is", "好"), "night": ("Is", "好")}
"""What a task answers to an "a" and to a "b": two say one thing, two the contrary."""

CONFIG = AdapterConfig.lora(TASKS, 4)
SETTINGS = AffinitySettings(
    measurements=4,
    every=3,
    records=4,
    loss_records=4,
    tokens=0,
    lookahead_every=2,
    learning_rate=3e-3,
)


def records(per_task: int, seed: int = 0) -> list[Record]:
    generator = random.Random(seed)
    made = []
    for index in range(per_task * len(TASKS)):
        task = TASKS[index % len(TASKS)]
        kind = generator.randrange(2)
        prompt = "ab"[kind] * generator.randint(2, 9)
        made.append(Record(f"{seed}-{index}", task, prompt, RULES[task][kind]))
    return made


def run(
    folder: Path, config: AdapterConfig = CONFIG, data: list[Record] | None = None, **changes: Any
) -> dict[str, Any]:
    stop = changes.pop("stop", None)
    backbone = make_backbone()
    return measure(
        Adapter.attach(backbone, config),
        backbone.tokenizer,
        data or records(30),
        dataclasses.replace(SETTINGS, **changes),
        folder,
        progress=lambda _: None,
        stop=stop,
    )


def means(result: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(result["first_order"]["mean"]), np.array(result["lookahead"]["mean"])


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


# The command and the picture --------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A run folder of the command, with the backbone and the data beside it."""
    folder = tmp_path_factory.mktemp("affinity")
    save_backbone(folder / "backbone")
    data = records(20)
    halves = {"light": ("sun", "day"), "dark": ("moon", "night")}
    for name, tasks in halves.items():
        lines = [
            json.dumps({"task": one.task, "input": one.prompt, "target": one.target})
            for one in data
            if one.task in tasks
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert main(command(folder)) == 0
    return folder / "run"


def command(folder: Path, *more: str) -> list[str]:
    words = ["affinity", "--backbone", str(folder / "backbone"), "--run", str(folder / "run")]
    words += ["--data", str(folder / "light.jsonl"), "--data", str(folder / "dark.jsonl")]
    words += ["--rank", "4", "--measurements", "3", "--every", "2", "--records", "2"]
    return [*words, "--loss-records", "2", "--groups", "1-3", "--device", "cpu", *more]


def test_the_command_measures_groups_and_goes_on(measured, capsys):
    file = measured / "affinity.json"
    result = json.loads(file.read_text(encoding="utf-8"))
    assert sorted(result["tasks"]) == sorted(TASKS)
    assert len(result["measurements"]) == 3
    assert [one["asked"] for one in result["grouping"]["first_order"]["groupings"]] == [1, 2, 3]
    assert main(command(measured.parent, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert main(command(measured.parent, "--step", "sgd")) == 6
    assert "differs in settings" in capsys.readouterr().err


def test_the_summary_says_what_was_found(measured, capsys):
    file = str(measured / "affinity.json")
    prior = ["--prior", "light=sun,day", "--prior", "dark=moon,night"]
    assert main(["affinity", "--from", file, "--groups", "2", "--form", "lookahead", *prior]) == 0
    text = capsys.readouterr().out
    assert "4 tasks, 2 measurements, lookahead form" in text
    assert re.search(r"^2 +[+-]0\.\d{5} ± 0\.\d{5}", text, re.MULTILINE)
    assert re.search(r"^prior +[+-]0\.\d{5}", text, re.MULTILINE)
    assert all(task in text for task in TASKS)


def test_an_adapter_folder_is_a_prior_group(tmp_path, measured):
    folder = tmp_path / "light"
    Adapter.attach(make_backbone(), AdapterConfig(("sun", "day"))).save(folder)
    assert prior_groups([str(folder), "dark=moon, night"]) == {
        "light": ["sun", "day"],
        "dark": ["moon", "night"],
    }
    with pytest.raises(ConfigError, match="twice"):
        prior_groups(["a=sun", "a=day"])


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--groups", "2"], 2, "--run to measure, or --from"),
        (["--run", "x"], 2, "--run needs --data"),
        (["--from", "{file}", "--prior", "light=sun"], 2, "each task once"),
        (["--from", "{file}", "--task", "sun"], 2, "leave --task out"),
        (["--from", "{file}", "--data", "x"], 2, "leave --data out"),
        (["--from", "{missing}"], 1, "missing"),
        (["--from", "{other}"], 4, "is no result"),
    ],
)
def test_wrong_calls_are_refused(measured, tmp_path, words, code, complaint, capsys):
    (tmp_path / "other.json").write_text('{"tasks": []}', encoding="utf-8")
    places = {
        "{file}": measured / "affinity.json",
        "{missing}": tmp_path / "missing.json",
        "{other}": tmp_path / "other.json",
    }
    assert main(["affinity", *(str(places.get(word, word)) for word in words)]) == code
    assert complaint in capsys.readouterr().err


def test_the_picture_shows_every_pair_in_the_order_of_the_groups(measured, tmp_path):
    out = tmp_path / "affinity.svg"
    file = measured / "affinity.json"
    words = ["affinity", str(file), "--groups", "2", "--out", str(out)]
    assert evals.__main__.main(words) == 0
    result = json.loads(file.read_text(encoding="utf-8"))
    text = out.read_text(encoding="utf-8")
    assert text == heat_map(result, groups=2)
    picture = ElementTree.fromstring(text)
    titles = [one.text for one in picture.iter("{http://www.w3.org/2000/svg}title")][1:]
    assert len(titles) == len(TASKS) * (len(TASKS) - 1)
    groups = result["grouping"]["first_order"]["groupings"][1]["groups"]
    order = [name for group in sorted(groups, key=len, reverse=True) for name in sorted(group)]
    assert list(dict.fromkeys(title.split(" → ")[0] for title in titles)) == order
    mean = np.array(result["first_order"]["mean"])
    row, column = (result["tasks"].index(name) for name in order[:2])
    assert f"{order[0]} → {order[1]}: {100 * mean[row, column]:+.2f} %" in titles[0]
    assert text.count('class="group"') == len(groups)


def test_the_picture_escapes_names_and_shows_the_prior(measured, tmp_path):
    result = json.loads((measured / "affinity.json").read_text(encoding="utf-8"))
    text = json.dumps(result).replace('"sun"', '"<sun> & co"')
    (tmp_path / "odd.json").write_text(text, encoding="utf-8")
    out = tmp_path / "out.json"
    prior = ["--prior", "light=<sun> & co,day", "--prior", "dark=moon,night"]
    words = ["affinity", "--from", str(tmp_path / "odd.json"), "--groups", "2", "--out", str(out)]
    assert main([*words, *prior]) == 0
    picture = heat_map(json.loads(out.read_text(encoding="utf-8")))
    texts = [one.text for one in ElementTree.fromstring(picture).iter()]
    assert texts.count("<sun> & co") == 2
    assert "light" in texts


def test_wide_names_have_room_in_the_picture(measured):
    text = (measured / "affinity.json").read_text(encoding="utf-8")
    lefts = []
    for name in ("情感分析情感分析", "abcdefghijklmn"):  # 8 * 12 and 14 * 7 pixels
        picture = heat_map(json.loads(text.replace('"moon"', json.dumps(name))))
        lefts.append(float(re.search(r'class="field" x="([\d.]+)"', picture)[1]))
    assert lefts == [24 + 8 * 12 + 12, 24 + 14 * 7 + 12]


def test_a_single_measurement_makes_no_tile_certain(measured, tmp_path):
    result = json.loads((measured / "affinity.json").read_text(encoding="utf-8"))
    result["measurements"] = result["measurements"][:1]
    file, out = tmp_path / "one.json", tmp_path / "out.json"
    file.write_text(json.dumps(result), encoding="utf-8")
    prior = ["--prior", "light=sun,day", "--prior", "dark=moon,night"]
    words = ["affinity", "--from", str(file), "--groups", "2", "--out", str(out)]
    assert main([*words, *prior]) == 0
    picture = heat_map(json.loads(out.read_text(encoding="utf-8")))
    sizes = re.findall(r'width="(\d+)" height="\d+" class="\w+" fill-opacity="[\d.]+"><', picture)
    assert sizes == ["10"] * len(TASKS) * (len(TASKS) - 1)
    assert "standard errors" not in picture
    assert "light" in picture


def test_the_page_escapes_names_and_says_how_long_a_step_is(measured):
    text = (measured / "affinity.json").read_text(encoding="utf-8")
    result = json.loads(text.replace('"sun"', '"sun|light"'))
    share = page(result)
    assert "A task's step is its share of a joint step (adam)." in share
    rows = [line for line in share.splitlines() if "sun" in line and line.startswith("|")]
    assert rows
    assert all("sun\\|light" in row and len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    result["settings"]["step_rate"] = 3e-4
    given = page(result)
    assert "A task's step has the learning rate 0.0003 (adam)." in given
    assert "share of a joint step" not in given


@pytest.mark.parametrize(("form", "groups"), [("lookahead", 9), ("first-order", 5)])
def test_a_grouping_that_is_not_there_cannot_be_drawn(measured, tmp_path, form, groups, capsys):
    words = ["affinity", str(measured / "affinity.json"), "--out", str(tmp_path / "x.svg")]
    assert evals.__main__.main([*words, "--form", form, "--groups", str(groups)]) == 2
    assert "no grouping into" in capsys.readouterr().err


def test_the_page_says_what_the_result_holds(measured, tmp_path):
    file, grouped = measured / "affinity.json", tmp_path / "grouped.json"
    prior = ["--prior", "light=sun,day", "--prior", "dark=moon,night"]
    assert main(["affinity", "--from", str(file), "--out", str(grouped), *prior]) == 0
    folder = tmp_path / "page"
    words = ["affinity", str(grouped), "--page", str(folder), "--groups", "2"]
    assert evals.__main__.main(words) == 0
    result = json.loads((folder / "affinity.json").read_text(encoding="utf-8"))
    assert result == json.loads(grouped.read_text(encoding="utf-8"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "(affinity.svg)" in text
    assert (folder / "affinity.svg").is_file()
    assert "3 times in the first-order form, 2 times in the lookahead form" in text
    for form in ("first_order", "lookahead"):
        for one in result["grouping"][form]["groupings"]:
            error = f"{100 * one['gain']:+.3f} % ± {100 * one['standard_error']:.3f}"
            assert f" | {error} | " in text
    two = result["grouping"]["first_order"]["groupings"][1]["groups"]
    assert "<br>".join(", ".join(names) for names in two) in text


@pytest.mark.skipif(not COMMITTED.is_file(), reason="no result is committed")
def test_the_committed_page_is_the_one_of_the_committed_result():
    result = json.loads(COMMITTED.read_text(encoding="utf-8"))
    for name, text in files_of(result).items():
        assert (COMMITTED.parent / name).read_text(encoding="utf-8") == text
    assert not any(origin["code"]["dirty"] for origin in result["origins"])
