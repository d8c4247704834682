"""Readers for PromptCBLUE and Firefly files: forms, places, complaints; overlap and limit."""

import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgclora.data import DataError, Record, data_hash, read_records
from evals.data import Dataset, Problem, data_folder, limit, overlap, read

PROMPTCBLUE = {
    "input": "判断下面搜索词的意图：\n尿酸520算高吗\n选项：治疗方案，指标解读\n答：",
    "target": "指标解读",
    "answer_choices": ["治疗方案", "指标解读"],
    "task_type": "cls",
    "task_dataset": "KUAKE-QIC",
    "sample_id": "test-40",
}
FIREFLY = {"kind": "Couplet", "input": "上联：春风", "target": "秋雨"}
TURNS = [
    {"human": "你是谁？", "assistant": "一个模型。"},
    {"human": "真的？", "assistant": "真的。"},
]
CONVERSATION = {"conversation_id": 1, "category": "OpenQA", "conversation": TURNS}


def lines(path: Path, *items: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [item if isinstance(item, str) else json.dumps(item) for item in items]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def dataset(*records: Record) -> Dataset:
    return Dataset("made here", None, records)


def complaint(source: str | Path | None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(source, **options)
    return str(caught.value)


# Forms ------------------------------------------------------------------------------------


def test_a_promptcblue_line_keeps_its_id_choices_and_text(tmp_path: Path) -> None:
    free = {**PROMPTCBLUE, "answer_choices": None, "sample_id": "test-41"}
    found = read(lines(tmp_path / "test.json", PROMPTCBLUE, free))
    prompt, target = PROMPTCBLUE["input"], "指标解读"
    assert found.records == (
        Record("test-40", "KUAKE-QIC", str(prompt), target, ("治疗方案", "指标解读")),
        Record("test-41", "KUAKE-QIC", str(prompt), target, None),
    )
    assert (found.name, found.split, found.problems) == ("test.json", "test", ())


@pytest.mark.parametrize("target", [{}, {"target": ""}, {"target": None}])
def test_the_official_test_file_is_read_only_where_no_target_is_needed(
    tmp_path: Path, target: dict[str, Any]
) -> None:
    fields = {key: value for key, value in PROMPTCBLUE.items() if key != "target"} | target
    path = lines(tmp_path / "test.json", fields)
    assert [record.target for record in read(path, need_target=False).records] == [""]
    assert "field 'target': must be non-empty text" in complaint(path)


def test_both_firefly_forms_make_the_same_record(tmp_path: Path) -> None:
    old = {"kind": "OpenQA", "input": TURNS[0]["human"], "target": TURNS[0]["assistant"]}
    first = read(lines(tmp_path / "old.jsonl", old))
    second = read(lines(tmp_path / "new.jsonl", {**CONVERSATION, "conversation": TURNS[:1]}))
    assert first.records == (Record("old-1", "OpenQA", "你是谁？", "一个模型。"),)
    assert second.hash == first.hash
    assert (first.turns_left_out, second.turns_left_out) == (0, 0)


def test_later_turns_are_left_out_and_counted_for_the_records_kept(tmp_path: Path) -> None:
    other = {**CONVERSATION, "category": "MRC", "conversation": TURNS * 2}
    path = lines(tmp_path / "a.jsonl", CONVERSATION, other, FIREFLY)
    found = read(path)
    assert [record.prompt for record in found.records] == ["你是谁？", "你是谁？", "上联：春风"]
    assert found.turns_left_out == 1 + 3
    assert read(path, tasks=["MRC"]).turns_left_out == 3


def test_conversations_with_the_same_number_are_kept(tmp_path: Path) -> None:
    found = read(lines(tmp_path / "a.jsonl", CONVERSATION, CONVERSATION))
    assert [record.id for record in found.records] == ["a-1", "a-2"]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_says_the_same_as_lines(tmp_path: Path, indent: int | None) -> None:
    items = [PROMPTCBLUE, FIREFLY, CONVERSATION]
    by_line = read(lines(tmp_path / "a" / "x.jsonl", *items))
    text = "\n " + json.dumps(items, indent=indent, ensure_ascii=False) + "\n"
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    assert read(tmp_path / "x.json").records == by_line.records


@pytest.mark.parametrize("as_list", [False, True])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(
    tmp_path: Path, as_list: bool
) -> None:
    items = [json.dumps(item, ensure_ascii=False) for item in (PROMPTCBLUE, FIREFLY)]
    text = "[\n" + ",\n".join(items) + "\n]" if as_list else "\n".join(items) + "\n\n"
    plain, other = tmp_path / "x.json", tmp_path / "w" / "x.json"
    other.parent.mkdir()
    plain.write_bytes(text.encode())
    other.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert len(read(plain).records) == 2
    assert read(other).records == read(plain).records


def test_line_separators_inside_a_text_do_not_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    text = "一\u2028二\u0085三"
    path.write_text(json.dumps({**FIREFLY, "input": text}, ensure_ascii=False), encoding="utf-8")
    assert read(path).records[0].prompt == text


def test_records_without_an_id_are_called_after_family_file_and_line(tmp_path: Path) -> None:
    path = lines(tmp_path / "firefly" / "dev.jsonl", FIREFLY, "", {**FIREFLY, "sample_id": None})
    expected = ["firefly-dev-1", "firefly-dev-3"]
    for source in (path, path.parent, tmp_path):
        assert [record.id for record in read(source, split="dev").records] == expected
    numbered = read(lines(tmp_path / "x.jsonl", {**FIREFLY, "sample_id": 17}))
    assert numbered.records[0].id == "17"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: bool(text.strip())
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"task_dataset": TEXT, "input": TEXT, "target": TEXT},
        optional={"answer_choices": st.none() | st.lists(TEXT, min_size=1, max_size=3)},
    ),
    min_size=1,
    max_size=5,
)


@given(rows=ROWS, ascii_only=st.booleans(), as_list=st.booleans(), mark=st.booleans())
def test_what_was_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    ascii_only: bool,
    as_list: bool,
    mark: bool,
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    texts = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    text = "[" + ", ".join(texts) + "]" if as_list else "\n".join(texts)
    path.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
    assert [
        (record.task, record.prompt, record.target, record.choices) for record in read(path).records
    ] == [
        (
            row["task_dataset"],
            row["input"],
            row["target"],
            tuple(row.get("answer_choices") or ()) or None,
        )
        for row in rows
    ]


# Bad lines --------------------------------------------------------------------------------

BAD = [
    ("{not json", None, "not JSON (Expecting property name"),
    ('{"kind": "a"} {}', None, "not JSON (Extra data"),
    ("[1, 2]", None, "must be an object, got [1, 2]"),
    ({"input": "问", "target": "答"}, None, "to name the task, got ['input', 'target']"),
    ({**FIREFLY, "kind": 3}, "kind", "must be non-empty text, got 3"),
    ({**FIREFLY, "input": "  "}, "input", "must be non-empty text, got '  '"),
    ({**FIREFLY, "target": ""}, "target", "must be non-empty text, got ''"),
    ({**FIREFLY, "target": ["答"]}, "target", "must be non-empty text, got ['答']"),
    ({**FIREFLY, "answer_choices": "好，坏"}, "answer_choices", "texts or null, got '好，坏'"),
    ({**FIREFLY, "answer_choices": ["好", 1]}, "answer_choices", "texts or null, got ['好', 1]"),
    ({**FIREFLY, "sample_id": True}, "sample_id", "must be text or a whole number, got True"),
    ({**FIREFLY, "sample_id": " "}, "sample_id", "must be text or a whole number, got ' '"),
    ({**FIREFLY, "sample_id": "good"}, "sample_id", "must be unique, but an earlier record has"),
    ({**FIREFLY, "score": float("nan")}, None, "a number that JSON does not have, got 'NaN'"),
    ({**FIREFLY, "score": [float("-inf")]}, None, "that JSON does not have, got '-Infinity'"),
    ('{"kind": "a", "input": "b", "target": 1e999}', None, "JSON does not have, got '1e999'"),
    ('{"kind": "a", "input": "b", "input": "c"}', "input", "once in an object, got ['b', 'c']"),
    ({**FIREFLY, "target": "\ud83d"}, "target", r"half of a surrogate pair, which is no"),
    ({**FIREFLY, "answer_choices": ["\udc00"]}, "answer_choices", r"character, got '\udc00'"),
    ({**FIREFLY, "kind": "\udc00"}, "kind", r"which is no character, got '\udc00'"),
    ({**CONVERSATION, "conversation": []}, "conversation", "must be a list of turns"),
    ({**CONVERSATION, "conversation": ["你好"]}, "conversation", "must be a list of turns"),
    ({**CONVERSATION, "category": None}, "category", "must be non-empty text, got None"),
    (
        {**CONVERSATION, "conversation": [{"human": "", "assistant": "答"}]},
        "conversation[0].human",
        "must be non-empty text, got ''",
    ),
    (
        {**CONVERSATION, "conversation": [{"human": "问"}]},
        "conversation[0].assistant",
        "must be non-empty text, got None",
    ),
    ("[" * 100_000, None, "not usable (maximum recursion depth"),
    ('{"kind": ' + "9" * 5000 + "}", None, "not usable (Exceeds the limit"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "field", "words"), BAD)
def test_a_bad_line_is_named_with_file_line_field_and_value(
    tmp_path: Path, line: object, field: str | None, words: str
) -> None:
    path = lines(tmp_path / "x.jsonl", {**FIREFLY, "sample_id": "good"}, line)
    message = complaint(path)
    where = "x.jsonl, line 2" + ("" if field is None else f", field {field!r}")
    assert message.startswith(where + ": "), message
    assert words in message
    assert message.endswith(f". Correct {path}, or skip bad lines.")


@pytest.mark.parametrize(("line", "field", "words"), BAD)
def test_a_skipped_line_is_listed_with_the_same_words(
    tmp_path: Path, line: object, field: str | None, words: str
) -> None:
    good = {**FIREFLY, "sample_id": "good"}
    found = read(lines(tmp_path / "x.jsonl", good, line, FIREFLY), skip_bad=True)
    assert [record.id for record in found.records] == ["good", "x-3"]
    (problem,) = found.problems
    assert (problem.file, problem.line, problem.field) == ("x.jsonl", 2, field)
    assert words in str(problem)
    assert len(problem.value) <= 80


def test_a_problem_reads_as_one_line_of_text() -> None:
    problem = Problem("train.jsonl", 7, "target", "''", "must be non-empty text")
    assert str(problem) == "train.jsonl, line 7, field 'target': must be non-empty text, got ''"
    assert str(Problem("a.json", None, None, "", "is empty")) == "a.json: is empty"


def test_a_long_value_is_cut_to_80_characters(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", FIREFLY, {**FIREFLY, "answer_choices": "好" * 1000})
    (problem,) = read(path, skip_bad=True).problems
    assert problem.value == "'" + "好" * 78 + "…"


@pytest.mark.parametrize("target", [3, ["答"], {"a": 1}])
def test_a_target_that_is_no_text_is_bad_even_where_none_is_needed(
    tmp_path: Path, target: object
) -> None:
    path = lines(tmp_path / "x.jsonl", {**FIREFLY, "target": target})
    message = complaint(path, need_target=False)
    assert f"field 'target': must be text or null, got {target!r}" in message


def test_an_object_spread_over_lines_is_answered_with_the_form_expected(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.json", json.dumps(FIREFLY, indent=1))
    assert "expected an object a line, or one list of objects" in complaint(path)


def test_a_bad_item_of_a_list_is_named_by_its_place_too(tmp_path: Path) -> None:
    items = [FIREFLY, {**FIREFLY, "target": ""}, 3, {**FIREFLY, "target": float("nan")}, FIREFLY]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(items, indent=1), encoding="utf-8")
    assert complaint(path).startswith(
        "x.json, line 7, field 'target': must be non-empty text (item 2 of the list), got ''. "
    )
    found = read(path, skip_bad=True)
    assert [record.id for record in found.records] == ["x-1", "x-5"]
    assert [problem.line for problem in found.problems] == [7, 12, 13]
    assert (
        str(found.problems[1]) == "x.json, line 12: must be an object (item 3 of the list), got 3"
    )


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


def test_nothing_usable_is_an_error_that_counts_the_bad_lines(tmp_path: Path) -> None:
    for text in ("", "\n \n", "[]", "\ufeff"):
        path = lines(tmp_path / "x.jsonl", text)
        assert complaint(path, skip_bad=True) == f"{path} holds no usable record."
    bad = lines(tmp_path / "x.jsonl", "{}", "3")
    assert "no usable record; 2 are bad, the first: x.jsonl, line 1" in complaint(
        bad, skip_bad=True
    )


def test_only_wanted_tasks_are_kept_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", FIREFLY, PROMPTCBLUE, FIREFLY)
    assert [record.id for record in read(path, tasks=["Couplet"]).records] == ["x-1", "x-3"]
    message = complaint(path, tasks=["Couplet", "NER"])
    assert message == f"{path} has no record of ['NER']; it has ['Couplet', 'KUAKE-QIC']."


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
    from evals import data

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(data, "_is_hub_id", lambda _: True)  # a folder passes for a hub id
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


# Sets of records --------------------------------------------------------------------------


def test_tasks_stand_in_the_order_of_the_registry_unknown_ones_last() -> None:
    names = ("zebra", "NER", "KUAKE-QIC", "ape", "CMeIE", "NER")
    found = dataset(*(Record(str(i), name, "问", "答") for i, name in enumerate(names)))
    assert found.tasks == ("CMeIE", "KUAKE-QIC", "NER", "ape", "zebra")
    assert [record.id for record in found.of_task("NER")] == ["1", "5"]
    assert found.of_task("nobody's") == ()


def test_records_that_say_the_same_are_paired_with_the_first(tmp_path: Path) -> None:
    same = [
        {"kind": "Couplet", "input": "上联：Ａ　b", "target": "秋雨"},
        {"kind": "Couplet", "input": " 上联:A \n b", "target": "秋雨 "},
        {"kind": "Couplet", "input": "上联：a b", "target": "秋雨"},
        {"kind": "NER", "input": "上联：A b", "target": "秋雨"},
        {"kind": "Couplet", "input": "上联：A b", "target": "秋"},
        {"kind": "Couplet", "input": "上联：A b", "target": "秋雨"},
    ]
    found = read(lines(tmp_path / "x.jsonl", *same))
    assert found.duplicates == (("x-1", "x-2"), ("x-1", "x-6"))
    assert len(found.records) == 6


def test_overlap_looks_at_letters_and_digits_only() -> None:
    train = dataset(
        Record("a", "NER", "你好，Ｗorld_ 1！", "x"), Record("b", "NER", "你好world1", "y")
    )
    test = dataset(
        Record("1", "Summary", "你好 WORLD①。", "z"),
        Record("2", "NER", "你好 world 2", "x"),
        Record("3", "NER", "(你好)world-1", "x"),
    )
    assert overlap(train, test) == (("a", "1"), ("a", "3"))
    assert overlap(test, dataset()) == ()


IDS = st.lists(
    st.tuples(st.text(max_size=5), st.sampled_from(["NER", "CMeIE", "else"])),
    unique_by=lambda pair: pair[0],
    max_size=30,
)


@given(pairs=IDS, seed=st.integers(), small=st.integers(1, 9), more=st.integers(0, 9))
def test_a_larger_limit_contains_the_smaller_one_in_the_same_order(
    pairs: list[tuple[str, str]], seed: int, small: int, more: int
) -> None:
    whole = dataset(*(Record(name, task, "问", "答") for name, task in pairs))
    first, second = limit(whole, small, seed), limit(whole, small + more, seed)
    assert set(first.records) <= set(second.records)
    for part, most in ((first, small), (second, small + more)):
        assert list(part.records) == [item for item in whole.records if item in part.records]
        for task in whole.tasks:
            assert len(part.of_task(task)) == min(most, len(whole.of_task(task)))


def test_a_limit_draws_by_id_and_seed_not_by_place() -> None:
    records = [Record(str(number), "NER", "问", "答") for number in range(100)]
    drawn = {record.id for record in limit(dataset(*records), 10, 1).records}
    assert drawn == {record.id for record in limit(dataset(*records[::-1]), 10, 1).records}
    assert drawn != {record.id for record in limit(dataset(*records), 10, 2).records}
    assert drawn != {str(number) for number in range(10)}


def test_a_limit_keeps_problems_and_looks_for_duplicates_anew() -> None:
    problem = Problem("x.jsonl", 1, None, "", "bad")
    records = tuple(Record(str(number), "NER", "问", "答") for number in range(9))
    whole = Dataset("x", "test", records, (problem,), (("0", "1"),))
    part = limit(whole, 2, 3)
    assert (part.name, part.split, part.problems) == ("x", "test", (problem,))
    assert part.duplicates == ((part.records[0].id, part.records[1].id),)
    assert part.hash == data_hash(part.records) != whole.hash


def test_no_limit_takes_all_and_a_negative_one_is_refused() -> None:
    whole = dataset(Record("1", "NER", "问", "答"))
    assert limit(whole, 0, 1) == whole
    with pytest.raises(DataError, match="0 or more, got -1"):
        limit(whole, -1, 1)


# Cost -------------------------------------------------------------------------------------


def test_time_grows_no_faster_than_the_file(tmp_path: Path) -> None:
    def seconds(size: int) -> float:
        text = '{"kind": "a", "input": "' + "很长 " * size + '", "target": "b", "more": ['
        text += ",".join(["{}"] * size) + "]}"
        path = lines(tmp_path / "x.jsonl", text, "[" + text, *["{}"] * 2000)
        start = time.perf_counter()
        read(path, skip_bad=True)
        return time.perf_counter() - start

    seconds(1000)
    short, long = min(seconds(20_000) for _ in range(3)), seconds(400_000)
    assert long < 20 * short * 5  # were it quadratic, the factor would be 400


def test_reading_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, evals.data; print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The data at hand -------------------------------------------------------------------------

needs_data = pytest.mark.skipif(
    not os.environ.get("CGCLORA_DATA"), reason="CGCLORA_DATA names no folder"
)
COUNTS = {"train": (28_280, 14_632), "dev": (1_550, 800), "test": (3_100, 1_600)}


@needs_data
@pytest.mark.parametrize("split", COUNTS)
def test_the_data_at_hand_has_the_counts_of_its_readme_and_no_problem(split: str) -> None:
    folder = data_folder(None)
    parts = [read(folder / family, split=split) for family in ("promptcblue", "firefly")]
    assert tuple(len(part.records) for part in parts) == COUNTS[split]
    assert [len(part.tasks) for part in parts] == [16, 8]
    whole = read(None, split=split)
    assert whole.records == parts[0].records + parts[1].records
    assert (whole.problems, whole.duplicates, whole.turns_left_out) == ((), (), 0)


@needs_data
def test_no_prompt_of_the_data_at_hand_stands_in_two_splits() -> None:
    train, dev, test = (read(None, split=split) for split in COUNTS)
    assert overlap(train, test) == overlap(train, dev) == overlap(dev, test) == ()


@needs_data
def test_the_trainer_reads_the_same_records() -> None:
    path = data_folder(None) / "promptcblue" / "dev.jsonl"
    assert read(path).records == tuple(read_records(path))
