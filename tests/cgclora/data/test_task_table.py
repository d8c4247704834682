"""Descriptions of tasks beside the data and in manifests."""

from pathlib import Path

import pytest

from cgclora.data.records import DataError
from cgclora.data.task_table import (
    DESCRIPTIONS,
    TABLE_FILE,
    description_facts,
    descriptions_in,
    read_table,
    table_beside,
)

TABLE = """
[[tasks]]
name = "评价"
labels = ["好评", "差评"]
fields = [{ name = "text", label = ["评论", "Review"] }]

[[tasks]]
name = "换算"
max_new_tokens = 12
"""


def test_a_table_lies_in_the_folder_of_the_data_and_need_not_be_there(tmp_path, monkeypatch):
    assert table_beside(tmp_path) == tmp_path / TABLE_FILE
    assert table_beside(tmp_path / "train.jsonl") == tmp_path / TABLE_FILE
    monkeypatch.setenv("CGCLORA_DATA", str(tmp_path))
    assert table_beside(None) == tmp_path / TABLE_FILE
    assert read_table(tmp_path / TABLE_FILE) == {}


def test_a_manifest_describes_the_tasks_of_its_adapter_only(tmp_path):
    (tmp_path / TABLE_FILE).write_text(TABLE, "utf-8")
    entries = read_table(tmp_path / TABLE_FILE)
    assert list(entries) == ["评价", "换算"]
    facts = description_facts(entries, ["换算", "介绍"])
    assert facts == {DESCRIPTIONS: {"换算": {"name": "换算", "max_new_tokens": 12}}}
    assert descriptions_in({"tasks": ["换算"], **facts}) == facts[DESCRIPTIONS]
    assert description_facts(entries, ["介绍"]) == {}


@pytest.mark.parametrize("found", [{}, {DESCRIPTIONS: None}, {DESCRIPTIONS: [1]}])
def test_a_manifest_without_descriptions_has_none(found):
    assert descriptions_in(found) == {}
    assert descriptions_in({DESCRIPTIONS: {"a": {"kind": "number"}, "b": 3}}) == {
        "a": {"kind": "number"}
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[[tasks", "cannot be read as TOML"),
        (b"\xff", "cannot be read as TOML"),
        (b"tasks = 3", "must have a list"),
        (b"[[tasks]]\nkind = 'number'", "must have a list"),
        (b"[[tasks]]\nname = 'a'\n[[tasks]]\nname = 'a'", "describes a task twice"),
        (b"[[tasks]]\nname = 'a'\nmade = 2024-01-01", "a has a date"),
        (b"[[tasks]]\nname = 'a'\nmax_new_tokens = inf", "no finite number"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / TABLE_FILE).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / TABLE_FILE)
