"""Datasets: filled-in forms, order and repeats; overlap and limit; the data at hand."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgclora.data.readers import Problem, read_records
from cgclora.data.records import DataError, Record, data_hash
from cgclora.data.sources import data_folder
from evals.data.datasets import Dataset, limit, only, overlap, read
from evals.tasks import TASKS
from tests.helpers.records import CONVERSATION, FIREFLY, PROMPTCBLUE, TURNS, complaint, lines

FORM = {"task": "Couplet", "fields": {"text": "春风"}, "reference": "秋雨", "choices": None}


def dataset(*records: Record) -> Dataset:
    return Dataset("made here", None, records)


# Forms ------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("line", "field", "words"),
    [
        (
            {**FORM, "task": "couplet"},
            "task",
            "must be a known task, since it makes the prompt, got",
        ),
        ({**FORM, "fields": ["春风"]}, "fields", "must be an object of texts, got ['春风']"),
        ({**FORM, "fields": {"text": 3}}, "fields", "must be an object of texts, got {'text': 3}"),
        ({**FORM, "fields": {}}, "fields", "(Couplet: the field text (上联) is empty; fill it in)"),
        ({**FORM, "reference": ""}, "reference", "must be non-empty text, got ''"),
        ({**FORM, "choices": "好，坏"}, "choices", "texts or null, got '好，坏'"),
    ],
)
def test_a_bad_form_is_named_with_file_line_field_and_value(
    tmp_path: Path, line: object, field: str, words: str
) -> None:
    message = complaint(lines(tmp_path / "x.jsonl", FORM, line), read=read)
    assert message.startswith(f"x.jsonl, line 2, field {field!r}: ")
    assert words in message


def test_only_wanted_tasks_are_kept_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", FIREFLY, PROMPTCBLUE, FIREFLY)
    assert [record.id for record in read(path, tasks=["Couplet"]).records] == ["x-1", "x-3"]
    message = complaint(path, read=read, tasks=["Couplet", "NER"])
    assert message == "x.jsonl has no record of NER; it has Couplet, KUAKE-QIC."


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
    code = "import sys, evals.data.datasets\n"
    code += "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
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
