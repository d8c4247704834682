"""The way of an adapter whose tasks are the user's own: their descriptions go wherever it goes."""

import json
from pathlib import Path

import pytest

from cgclora.__main__ import main
from cgclora.data.task_table import DESCRIPTIONS, TABLE_FILE
from cgclora.storage.adapter_dir import read_manifest
from tests.helpers.tiny import save_backbone

MOOD = {
    "name": "mood",
    "title": ["口碑", "Reviews"],
    "kind": "classification",
    "labels": ["好", "差"],
    "template": "好评还是差评？\n{text}",
}
TABLE = """
[[tasks]]
name = "mood"
title = ["口碑", "Reviews"]
kind = "classification"
labels = ["好", "差"]
template = "好评还是差评？\\n{text}"

[[tasks]]
name = "length"
kind = "number"

[[tasks]]
name = "not trained"
kind = "number"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny backbone, data with a table of its tasks, and a run of two of them."""
    made = tmp_path_factory.mktemp("own tasks")
    save_backbone(made / "backbone")
    for name, task, prompt, target in (
        ("two", "mood", "好评还是差评？\n面很香", "好"),
        ("two", "weather", "今天天气怎么样？", "很好"),
        ("one", "length", "把 3 千米换成米。", "3000"),
    ):
        (made / name).mkdir(exist_ok=True)
        (made / name / TABLE_FILE).write_text(TABLE, "utf-8")
        for split, count in (("train", 8), ("dev", 2)):
            lines = [
                {"task": task, "input": f"{prompt}{i}", "target": target} for i in range(count)
            ]
            with (made / name / f"{split}.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
    assert main(["train", *data(made, "two"), "--run", str(made / "run"), "--common", "1"]) == 0
    return made


def data(folder: Path, name: str) -> list[str]:
    return [
        *("--backbone", str(folder / "backbone"), "--device", "cpu", "--dtype", "float32"),
        *("--data", str(folder / name), "--dev", str(folder / name), "--evaluations", "1"),
        *("--epochs", "1", "--batch-size", "8"),
    ]


def described(folder: Path) -> dict[str, object]:
    descriptions: dict[str, object] = read_manifest(folder)[0][DESCRIPTIONS]
    return descriptions


def test_training_stores_the_entries_of_its_tasks_as_they_are(folder: Path) -> None:
    assert described(folder / "run" / "adapter") == {"mood": MOOD}


def test_an_added_task_brings_its_own_and_a_dropped_one_takes_it_away(
    folder: Path, tmp_path: Path
) -> None:
    adapter = ["--adapter", str(folder / "run" / "adapter")]
    assert main(["add-task", *adapter, *data(folder, "one"), "--run", str(tmp_path / "run")]) == 0
    grown = tmp_path / "run" / "adapter"
    assert described(grown) == {"mood": MOOD, "length": {"name": "length", "kind": "number"}}
    drop = ["drop-task", "--adapter", str(grown), "--task", "mood", "--out", str(tmp_path / "less")]
    assert main(drop) == 0
    assert described(tmp_path / "less") == {"length": {"name": "length", "kind": "number"}}


def test_a_task_that_is_exported_and_imported_again_is_still_described(
    folder: Path, tmp_path: Path
) -> None:
    backbone = ["--backbone", str(folder / "backbone")]
    adapter = ["--adapter", str(folder / "run" / "adapter"), *backbone]
    for form in ("peft", "vllm"):
        export = ["export", *adapter, "--format", form, "--out", str(tmp_path / form)]
        assert main([*export, "--base", str(folder / "backbone")]) == 0
        manifest = json.loads((tmp_path / form / "manifest.json").read_text("utf-8"))
        assert manifest[DESCRIPTIONS] == {"mood": MOOD}
    peft = [str(tmp_path / "peft" / task) for task in ("mood", "weather")]
    loras = ["--peft", peft[0], "--peft", peft[1]]
    assert main(["import", *backbone, *loras, "--out", str(tmp_path / "both")]) == 0
    assert described(tmp_path / "both") == {"mood": MOOD}
    renamed = ["--peft", peft[0], "--task", "other", "--out", str(tmp_path / "renamed")]
    assert main(["import", *backbone, *renamed]) == 0
    assert DESCRIPTIONS not in read_manifest(tmp_path / "renamed")[0]


def test_the_card_of_an_export_says_what_a_task_is(folder: Path, tmp_path: Path) -> None:
    adapter = ["--adapter", str(folder / "run" / "adapter"), "--backbone", str(folder / "backbone")]
    for task in ("mood", "weather"):
        out = ["--task", task, "--out", str(tmp_path / task)]
        assert main(["export", *adapter, "--format", "merged", *out]) == 0
    card = (tmp_path / "mood" / "README.md").read_text("utf-8")
    assert "- **mood** (口碑 / Reviews): classification; labels: 好, 差\n" in card
    assert "\n        好评还是差评？\n        {text}\n" in card
    assert "## Tasks" not in (tmp_path / "weather" / "README.md").read_text("utf-8")


def test_a_router_of_own_tasks_finds_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = ["--adapter", str(folder / "run" / "adapter")]
    assert main(["router", "fit", *adapter, "--data", str(folder / "two")]) == 0
    assert described(folder / "run" / "adapter") == {"mood": MOOD}
    capsys.readouterr()
    assert main(["router", "route", *adapter, "--json", "好评还是差评？\n面很香 9"]) == 0
    first, *_ = json.loads(capsys.readouterr().out)
    assert (first["task"], first["cluster"]) == ("mood", "adapter")


def test_a_damaged_table_ends_the_command_before_anything_is_loaded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "dev"):
        path = tmp_path / f"{split}.jsonl"
        path.write_bytes((folder / "two" / f"{split}.jsonl").read_bytes())
    (tmp_path / TABLE_FILE).write_text("[[tasks", "utf-8")
    command = ["train", "--data", str(tmp_path / "train.jsonl"), "--run", str(tmp_path / "run")]
    nowhere = ["--dev", str(tmp_path / "dev.jsonl"), "--backbone", str(tmp_path / "nowhere")]
    assert main([*command, *nowhere]) == 4
    assert "tasks.toml cannot be read as TOML" in capsys.readouterr().err
