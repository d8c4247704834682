"""Reading records: the forms they may have, what is said of bad lines; the same for all readers."""

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evals.data.datasets
from cgclora.__main__ import main
from cgclora.cli import train
from cgclora.data.readers import RecordSet, read, read_records
from cgclora.data.records import DataError, Record, data_hash
from evals.tasks import TASKS, get_task
from tests.helpers.records import CONVERSATION, FIREFLY, PROMPTCBLUE, TURNS, complaint, lines

# Forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["task", "task_dataset", "kind"])
def test_the_task_may_stand_under_any_of_three_names(tmp_path: Path, field: str) -> None:
    path = lines(tmp_path / "a.jsonl", {field: "mood", "input": "问", "target": "答"})
    assert read_records(path) == [Record("a-1", "mood", "问", "答")]


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
    assert data_hash(second.records) == data_hash(first.records)
    assert first.records[0].later_answers == second.records[0].later_answers == 0


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


def test_only_wanted_tasks_are_kept_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", FIREFLY, PROMPTCBLUE, FIREFLY)
    assert [record.id for record in read_records(path, tasks=["Couplet"])] == ["x-1", "x-3"]
    with pytest.raises(DataError, match="has no record of NER; it has Couplet, KUAKE-QIC"):
        read_records(path, tasks=["Couplet", "NER"])


def test_a_folder_gives_each_command_its_split(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        lines(tmp_path / "firefly" / f"{split}.jsonl", {**FIREFLY, "target": split})
    for split, target in (("train", "train"), ("dev", "validation"), ("test", "test")):
        assert [one.target for one in read_records(tmp_path, split=split)] == [target]
    options = train_options("--data", str(tmp_path), "--dev", str(tmp_path))
    train_set, dev, _ = train.records_of(options)
    assert [one.target for one in (*train_set, *dev)] == ["train", "validation"]


# Names ------------------------------------------------------------------------------------


def train_options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.add_options(parser)
    return parser.parse_args([*words, "--run", "runs/mine"])


def test_the_official_name_of_a_task_means_the_same_task(tmp_path: Path) -> None:
    texts = {"input": "问", "target": "答"}
    fields = {"text": "感冒", "choices": "预防"}
    turn = {"human": "问", "assistant": "答"}
    official, ours = (
        lines(
            tmp_path / name / "x.jsonl",
            {"task_dataset": name, **texts},
            {"task": name, **texts},
            {"category": name, "conversation": [turn]},
        )
        for name in ("CMeIE-V2", "CMeIE")
    )
    assert read(official).records == read(ours).records
    assert {record.task for record in read(ours).records} == {"CMeIE"}
    for path in (official, ours):
        for name in ("CMeIE-V2", "CMeIE"):
            assert len(read_records(path, tasks=[name])) == 3
            assert evals.data.datasets.read(path, tasks=[name]).tasks == ("CMeIE",)
            options = train_options(
                *("--data", str(path), "--dev", str(path)),
                *("--task", name, "--records-of", f"{name}=3"),
            )
            assert train.records_of(options)[2] == ["CMeIE"]
            assert train.settings_of(options).records_of == {"CMeIE": 3}
    form = {"task": "CMeIE-V2", "fields": fields, "reference": "答"}
    (record,) = evals.data.datasets.read(lines(tmp_path / "form.jsonl", form)).records
    assert (record.task, record.prompt) == ("CMeIE", TASKS["CMeIE"].prompt(fields))
    assert get_task("CMeIE-V2") is TASKS["CMeIE"]


# One reader for all -----------------------------------------------------------------------

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


@dataclass
class Line:
    """A line of JSON, and the record that it makes, or None; its id is None where it has none."""

    json: str
    record: tuple[str | None, str, str, str, tuple[str, ...] | None] | None
    later_turns: int = 0


BROKEN = [
    "3",
    '{"task": "a", "input": "b"}',
    '{"task": "a", "input": "b", "target": ["c"]}',
    '{"task": "a", "input": "b", "target": "c", "score": NaN}',
    '{"task": "a", "input": "b", "target": "c", "target": "d"}',
    '{"task": "a", "input": "b", "target": "c", "more": {"x": 1, "x": 1}}',
    '{"task": "a", "input": "b", "target": "\\ud83d"}',
    '{"task": "a", "input": "b", "target": "c", "sample_id": true}',
    '{"category": "a", "conversation": [{"human": "b"}]}',
]
"""Lines that no record can be made of."""

BROKEN_ALONE = ['{"a":' * 100_000, '{"sample_id": ' + "9" * 5000 + "}", "{not json"]
"""The same, but nobody can say where in a list they end."""


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, Line]], bool]:
    """The bytes of a file, its lines with their numbers, and whether it is a list."""
    as_list, windows, mark = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    broken = st.sampled_from(BROKEN if as_list else BROKEN + BROKEN_ALONE)
    texts: list[str] = []
    numbered: list[tuple[int, Line]] = []
    for index in range(draw(st.integers(1, 5))):
        if not as_list:
            texts += draw(st.lists(st.sampled_from(["", " ", "\t"]), max_size=2))
        line = Line(draw(broken), None) if draw(st.integers(0, 4)) == 0 else draw(good(index))
        texts.append(line.json)
        numbered.append((len(texts), line))
    end = "\r\n" if windows else "\n"
    text = f"[{end}{f',{end}'.join(texts)}{end}]" if as_list else end.join(texts)
    return text.encode("utf-8-sig" if mark else "utf-8"), numbered, as_list


@st.composite
def good(draw: st.DrawFn, index: int) -> Line:
    form = draw(st.sampled_from(["task", "task_dataset", "kind", "conversation"]))
    task, prompt, target = draw(TEXT), draw(TEXT), draw(TEXT)
    ascii_only = draw(st.booleans())
    if form == "conversation":
        later = draw(st.integers(0, 2))
        turns = [{"human": prompt, "assistant": target}, *[TURNS[1]] * later]
        fields: dict[str, Any] = {"conversation_id": 1, "category": task, "conversation": turns}
        record = (None, task, prompt, target, None)
        return Line(json.dumps(fields, ensure_ascii=ascii_only), record, later)
    fields = {form: task, "input": prompt, "target": target}
    choices = draw(st.none() | st.lists(TEXT, max_size=2))
    if choices is not None or draw(st.booleans()):
        fields["answer_choices"] = choices
    known = draw(st.sampled_from([None, f"id {index}", index, 10**4000 + index]))
    if known is not None or draw(st.booleans()):
        fields["sample_id"] = known
    identity = None if known is None else str(known)
    record = (identity, task, prompt, target, tuple(choices or ()) or None)
    return Line(json.dumps(fields, ensure_ascii=ascii_only), record)


@settings(deadline=None)  # some lines are long
@given(file=files())
def test_trainer_and_judge_read_the_same_records_ids_hash_and_problems(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[bytes, list[tuple[int, Line]], bool]
) -> None:
    content, numbered, as_list = file
    path = tmp_path_factory.mktemp("file") / "x.jsonl"
    path.write_bytes(content)
    expected = [
        Record(identity or f"x-{number}", *rest)
        for number, line in numbered
        if line.record is not None
        for identity, *rest in [line.record]
    ]
    places = [number + as_list for number, line in numbered if line.record is None]
    if not expected:
        for reader in (read, evals.data.datasets.read):
            assert f"no usable record; {len(places)} are bad" in complaint(
                path, read=reader, skip_bad=True
            )
        return
    ours, theirs = read(path, skip_bad=True), evals.data.datasets.read(path, skip_bad=True)
    assert [replace(record, messages=()) for record in ours.records] == expected
    assert ours == RecordSet(**{name: getattr(theirs, name) for name in vars(ours)})
    assert [problem.line for problem in ours.problems] == places
    later = [line.later_turns for _, line in numbered if line.record is not None]
    assert [record.later_answers for record in ours.records] == later
    told = "".join(json.dumps([one.task, one.prompt, one.target]) for one in expected)
    assert data_hash(ours.records) == theirs.hash == hashlib.sha256(told.encode()).hexdigest()
    if places:
        message = complaint(path, read=read_records)
        assert message.startswith(f"x.jsonl, line {places[0]}")
        assert message.endswith(f". Correct {path}.")
        assert (f"; {len(places)} bad lines in all" in message) is (len(places) > 1)
    else:
        assert read_records(path) == list(ours.records)


def test_a_training_names_the_first_bad_lines_and_their_number_and_drops_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [{**FIREFLY, "target": value} for value in (1, 2, 3, 4)]
    path = lines(tmp_path / "x.jsonl", FIREFLY, *bad, FIREFLY)
    words = ["train", "--data", str(path), "--dev", str(path), "--run", str(tmp_path / "run")]
    assert main(words) == 4
    said = capsys.readouterr().err
    for line, value in ((2, 1), (3, 2), (4, 3)):
        assert f"line {line}, field 'target': must be non-empty text, got {value}; " in said
    assert f"; 4 bad lines in all. Correct {path}.\n" in said
    assert "line 5" not in said
    assert not (tmp_path / "run").exists()


def test_a_form_that_needs_a_template_is_answered_with_what_to_do(tmp_path: Path) -> None:
    form = {"task": "Couplet", "fields": {"text": "春风"}, "reference": "秋雨"}
    message = complaint(lines(tmp_path / "x.jsonl", form), read=read_records)
    assert "field 'fields': make a prompt only in `python -m evals`" in message
    assert "give the whole prompt as 'input'" in message
