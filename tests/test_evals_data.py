"""Records of PromptCBLUE and Firefly files: forms, complaints; overlap and limit."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgclora.data import DataError, Record, data_hash, read_records
from evals.data import Dataset, Problem, data_folder, limit, only, overlap, read
from evals.tasks import TASKS
from tests.records import CONVERSATION, FIREFLY, PROMPTCBLUE, TURNS, complaint, lines

FORM = {"task": "Couplet", "fields": {"text": "春风"}, "reference": "秋雨", "choices": None}


def dataset(*records: Record) -> Dataset:
    return Dataset("made here", None, records)


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


def test_of_a_filled_in_form_the_task_makes_the_prompt(tmp_path: Path) -> None:
    fields = {"text": "尿酸520算高吗", "choices": "治疗方案，指标解读"}
    offered = ["治疗方案", "指标解读"]
    chosen = {"task": "KUAKE-QIC", "fields": fields, "reference": "指标解读", "choices": offered}
    found = read(lines(tmp_path / "x.json", json.dumps([FORM, chosen])))
    assert found.records == (
        Record("x-1", "Couplet", TASKS["Couplet"].prompt({"text": "春风"}), "秋雨"),
        Record("x-2", "KUAKE-QIC", TASKS["KUAKE-QIC"].prompt(fields), "指标解读", tuple(offered)),
    )


def test_later_turns_are_left_out_and_counted_for_the_records_kept(tmp_path: Path) -> None:
    other = {**CONVERSATION, "category": "MRC", "conversation": TURNS * 2}
    path = lines(tmp_path / "a.jsonl", CONVERSATION, other, FIREFLY)
    found = read(path)
    assert [record.prompt for record in found.records] == ["你是谁？", "你是谁？", "上联：春风"]
    assert found.turns_left_out == 1 + 3
    assert read(path, tasks=["MRC"]).turns_left_out == 3
    assert only(found, ["OpenQA", "Couplet"]).turns_left_out == 1


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
    ({**FORM, "task": "couplet"}, "task", "must be a known task, since it makes the prompt, got"),
    ({**FORM, "fields": ["春风"]}, "fields", "must be an object of texts, got ['春风']"),
    ({**FORM, "fields": {"text": 3}}, "fields", "must be an object of texts, got {'text': 3}"),
    ({**FORM, "fields": {}}, "fields", "(Couplet: the field text (上联) is empty; fill it in)"),
    ({**FORM, "reference": ""}, "reference", "must be non-empty text, got ''"),
    ({**FORM, "choices": "好，坏"}, "choices", "texts or null, got '好，坏'"),
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
    assert message == "x.jsonl has no record of NER; it has KUAKE-QIC, Couplet."


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
    whole = Dataset("x", "test", records, (problem,))
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
