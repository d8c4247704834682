"""The command that measures affinities, and the picture and the page of its result."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import evals.__main__
from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.cli.analysis.affinity import prior_groups
from cgclora.config import AdapterConfig, ConfigError
from evals.figures.affinity import heat_map
from evals.figures.affinity_page import RESULT, files_of, page
from tests.helpers.affinity import TASKS, records
from tests.helpers.tiny import make_backbone, save_backbone

COMMITTED = Path(__file__).parents[3] / "assets" / "results" / "affinity" / RESULT


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
