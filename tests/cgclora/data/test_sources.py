"""Places that data comes from: files, folders with splits, the hub; text that is no JSON."""

import json
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cgclora.data import sources
from cgclora.data.records import DataError, Record, data_hash
from cgclora.data.sources import data_folder
from evals.data.datasets import read
from tests.helpers.records import CONVERSATION, FIREFLY, PROMPTCBLUE, complaint, lines

# Files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[\n{"kind": "a"},\n{"kind": "b', "line 3, column 10: Unterminated string starting at"),
        ("[\n{},\n{}", "line 3, column 3: expected ',' or ']' after 2 items"),
        ("[\n{},\n", "line 3, column 1: Expecting value after 1 items"),
        ("[\n{},\n]", "line 3, column 1: nothing follows the comma after 1 items"),
        ("[{} {}]", "line 1, column 5: expected ',' or ']' after 1 items"),
        ("[{}]\n[{}]", "line 2, column 1: expected nothing more after 1 items"),
        ("[", "line 1, column 2: Expecting value after 0 items"),
        ("\ufeff[}", "line 1, column 2: Expecting value after 0 items"),
        ("[" * 100_000, "line 1, column 2: maximum recursion depth exceeded"),
    ],
)
def test_a_broken_list_is_an_error_with_its_position_even_when_skipping(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    message = complaint(path, skip_bad=True)
    assert message.startswith(f"{path}, {words}")
    assert message.endswith("of the JSON list. Is the file cut off? Get it whole.")


def test_text_that_is_not_utf8_is_named_with_byte_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    text = json.dumps(FIREFLY, ensure_ascii=False)
    path.write_bytes(json.dumps(PROMPTCBLUE).encode() + b"\n" + text.encode("gb18030"))
    message = complaint(path)
    assert message.startswith("x.jsonl, line 2: not UTF-8 text (byte 0xc9 at position 30 of the l")
    assert "iconv -f GB18030 -t UTF-8" in message
    assert len(read(path, skip_bad=True).problems) == 1
    path.write_bytes(f"[{text}]".encode("gb18030"))
    assert "byte 0xc9 at position 31 of the file" in complaint(path, skip_bad=True)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_wide_text_is_refused_as_a_whole(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(FIREFLY).encode(encoding))
    assert complaint(path, skip_bad=True) == f"{path} is UTF-16 or UTF-32 text: save it as UTF-8."


# Places -----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["dev.json", "valid.jsonl", "validation.json", "dev.jsonl"])
@pytest.mark.parametrize("split", ["dev", "valid", "validation"])
def test_a_split_is_found_under_each_of_its_names(tmp_path: Path, file: str, split: str) -> None:
    lines(tmp_path / "set" / file, FIREFLY)
    lines(tmp_path / "set" / "train.jsonl", PROMPTCBLUE)
    found = read(tmp_path / "set", split=split)
    assert (found.name, found.split, found.tasks) == ("set", "dev", ("Couplet",))
    assert read(tmp_path / "set" / file).split == "dev"


def test_both_families_below_a_folder_are_read_as_one(tmp_path: Path) -> None:
    lines(tmp_path / "promptcblue" / "test.jsonl", {**PROMPTCBLUE, "sample_id": "test-1"})
    lines(tmp_path / "firefly" / "test.jsonl", FIREFLY, {**FIREFLY, "kind": ""})
    found = read(str(tmp_path), skip_bad=True)
    assert [record.id for record in found.records] == ["test-1", "firefly-test-1"]
    assert [problem.file for problem in found.problems] == ["firefly/test.jsonl"]
    assert str(tmp_path / "firefly" / "test.jsonl") not in str(found.problems[0])
    assert found.hash == data_hash(found.records)


def test_a_file_in_the_folder_comes_before_those_below(tmp_path: Path) -> None:
    lines(tmp_path / "firefly" / "test.jsonl", FIREFLY)
    lines(tmp_path / "test.jsonl", PROMPTCBLUE)
    assert read(tmp_path).tasks == ("KUAKE-QIC",)


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    lines(tmp_path / "valid.jsonl", FIREFLY)
    lines(tmp_path / "dev.json", FIREFLY)
    message = complaint(tmp_path, split="dev")
    assert "more than one dev split (dev.json, valid.jsonl): name the file" in message


def test_a_split_that_is_not_there_is_named_with_where_it_may_lie(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", FIREFLY)
    message = complaint(tmp_path, split="validation")
    assert f"{tmp_path} has no dev split" in message
    assert "dev.jsonl or valid.jsonl or validation.jsonl" in message
    assert "promptcblue and firefly" in message


def test_an_unknown_split_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    message = complaint(tmp_path, split="tests")
    assert message == (
        "there is no split 'tests'; name one of: train, dev, valid, validation, test."
    )


def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub() -> None:
    for source in ("nowhere/test.jsonl", Path("owner/name"), "./owner/name"):
        assert "No such file or directory" in complaint(source)


def test_a_folder_that_is_here_comes_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines(tmp_path / "owner" / "name" / "test.jsonl", FIREFLY)
    monkeypatch.chdir(tmp_path)
    assert read("owner/name").name == "name"


def test_the_folder_comes_from_the_argument_else_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines(tmp_path / "named" / "test.jsonl", FIREFLY)
    monkeypatch.setenv("CGCLORA_DATA", str(tmp_path / "named"))
    assert data_folder(None) == tmp_path / "named"
    assert data_folder(str(tmp_path)) == tmp_path
    assert read(None).name == "named"


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_folder_both_ways_to_name_one_are_said(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("CGCLORA_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("CGCLORA_DATA", value)
    message = complaint(None)
    assert "as argument" in message
    assert "environment variable CGCLORA_DATA" in message


def test_a_folder_that_is_none_is_named_with_who_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="gone is not a folder"):
        data_folder(tmp_path / "gone")
    monkeypatch.setenv("CGCLORA_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="gone, which CGCLORA_DATA names, is not a folder"):
        data_folder(None)


# The hub ----------------------------------------------------------------------------------


def fake_hub(monkeypatch: pytest.MonkeyPatch, splits: object, rows: object = ()) -> None:
    """Stands in for the library `datasets`; an exception in place of a value is raised."""

    def give(value: object) -> object:
        if isinstance(value, Exception):
            raise value
        return value

    class DatasetsError(Exception):
        pass

    module: Any = types.ModuleType("datasets")
    module.get_dataset_split_names = lambda _: give(splits)
    module.load_dataset = lambda _, split: [{**row, "split": split} for row in give(rows)]  # type: ignore[attr-defined]
    exceptions: Any = types.ModuleType("datasets.exceptions")
    exceptions.DatasetsError = DatasetsError
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", exceptions)


def test_a_hub_dataset_is_read_row_by_row_without_its_nulls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = {"conversation": None, "task_dataset": None, "sample_id": None}
    fake_hub(monkeypatch, ["train", "validation"], [{**FIREFLY, **empty}, {**FIREFLY, "kind": ""}])
    found = read("owner/name", split="dev", skip_bad=True)
    assert (found.name, found.split) == ("owner/name", "dev")
    assert found.records == (Record("dev-1", "Couplet", "上联：春风", "秋雨"),)
    assert str(found.problems[0]).startswith("owner/name, line 2, field 'kind': must be")


def test_a_hub_id_without_the_library_is_answered_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = complaint("owner/name")
    assert "neither a file nor a folder" in message
    assert "pip install 'cgclora[data]'" in message


@pytest.mark.parametrize(
    ("splits", "rows", "words"),
    [
        (ConnectionError("no route"), (), ["cannot be reached (no route)", "connect"]),
        (["test"], ConnectionError("no route"), ["cannot be reached (no route)", "connect"]),
        (FileNotFoundError("there is no owner/name"), (), ["cannot load", "there is no owner"]),
        (ValueError("Config name is missing"), (), ["cannot load", "Config name is missing"]),
        (RuntimeError("scripts are no longer supported"), (), ["cannot load", "scripts"]),
        (["train", "dev"], (), ["has no test split; it has ['dev', 'train']"]),
        (["test"], (), ["owner/name holds no usable record"]),
    ],
)
def test_what_goes_wrong_on_the_hub_is_said(
    monkeypatch: pytest.MonkeyPatch, splits: object, rows: object, words: Iterable[str]
) -> None:
    fake_hub(monkeypatch, splits, rows)
    message = complaint("owner/name")
    assert message.startswith(("owner/name", "cannot load owner/name"))
    assert all(word in message for word in words), message


def test_the_real_library_reads_a_local_dataset_in_both_firefly_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(sources, "_is_hub_id", lambda _: True)  # a folder passes for a hub id
    for split in ("train", "dev"):  # the library wants the same fields in every file
        lines(tmp_path / "set" / f"{split}.jsonl", PROMPTCBLUE, FIREFLY)
    lines(tmp_path / "talk" / "test.jsonl", CONVERSATION)
    lines(tmp_path / "none" / "test.jsonl", FIREFLY, "{not json")
    found = read(str(tmp_path / "set"), split="dev")
    by_file = read(lines(tmp_path / "dev.jsonl", PROMPTCBLUE, FIREFLY))
    assert (found.split, found.records) == ("dev", by_file.records)
    talk = read(str(tmp_path / "talk"))
    assert [record.prompt for record in talk.records] == ["你是谁？"]
    assert talk.turns_left_out == 1
    assert "has no test split" in complaint(str(tmp_path / "set"))
    assert "cannot load" in complaint(str(tmp_path / "none"))


def test_the_real_library_without_a_network_says_so() -> None:
    pytest.importorskip("datasets")
    message = complaint("nobody/nothing")  # the tests run offline, see conftest.py
    assert "the Hugging Face hub cannot be reached" in message
