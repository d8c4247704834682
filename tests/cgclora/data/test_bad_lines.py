"""Lines that are no records: each is named, with its place, its field and its value."""

import json
from pathlib import Path

import pytest

from cgclora.data.readers import Problem, read
from tests.helpers.records import CONVERSATION, FIREFLY, complaint, lines

BAD = [
    ("{not json", None, "not JSON (Expecting property name"),
    ('{"kind": "a"} {}', None, "not JSON (Extra data"),
    ("[1, 2]", None, "must be an object, got [1, 2]"),
    ({"input": "问", "target": "答"}, None, "records which name none, got ['input', 'target']"),
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


@pytest.mark.parametrize("target", [3, 0, False, ["答"], [], {"a": 1}])
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
        "x.json, line 7, field 'target': must be non-empty text (item 2 of the list), got ''; "
    )
    found = read(path, skip_bad=True)
    assert [record.id for record in found.records] == ["x-1", "x-5"]
    assert [problem.line for problem in found.problems] == [7, 12, 13]
    assert (
        str(found.problems[1]) == "x.json, line 12: must be an object (item 3 of the list), got 3"
    )


def test_nothing_usable_is_an_error_that_counts_the_bad_lines(tmp_path: Path) -> None:
    for text in ("", "\n \n", "[]", "\ufeff"):
        path = lines(tmp_path / "x.jsonl", text)
        assert complaint(path, skip_bad=True) == f"{path} holds no usable record."
    bad = lines(tmp_path / "x.jsonl", "{}", "3")
    assert "no usable record; 2 are bad, the first: x.jsonl, line 1" in complaint(
        bad, skip_bad=True
    )
