"""Conversations as files have them: OpenAI, ShareGPT, Alpaca and Firefly, and their tasks."""

from pathlib import Path
from typing import Any

import pytest

from cgclora.data.chat import Message
from cgclora.data.readers import read, read_records
from cgclora.data.records import Record
from evals.data.training_data import to_jsonl
from tests.helpers.records import CONVERSATION, complaint, lines

TOLD = (
    Message("system", "简短"),
    Message("user", "一"),
    Message("assistant", "1"),
    Message("user", "二"),
    Message("assistant", "2"),
)
RECORD = Record("x-1", "chat", "简短\n一", "1", messages=TOLD)

OPENAI = {"messages": [{"role": one.role, "content": one.content} for one in TOLD]}
SHAREGPT = {
    "system": "简短",
    "conversations": [
        {"from": "human", "value": "一"},
        {"from": "gpt", "value": "1"},
        {"from": "user", "value": "二"},
        {"from": "chatgpt", "value": "2"},
    ],
}
ALPACA = {
    "instruction": "二",
    "input": "",
    "output": "2",
    "system": "简短",
    "history": [["一", "1"]],
}
FORMS: dict[str, dict[str, Any]] = {
    "openai": OPENAI,
    "sharegpt": SHAREGPT,
    "sharegpt with a system turn": {
        "conversations": [{"from": "System", "value": "简短"}, *SHAREGPT["conversations"]]
    },
    "sharegpt with messages": {"conversations": OPENAI["messages"]},
    "alpaca": ALPACA,
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_a_conversation_make_the_same_record(tmp_path: Path, form: str) -> None:
    path = lines(tmp_path / "x.jsonl", FORMS[form])
    assert read_records(path, tasks=["chat"]) == [RECORD]
    (named,) = read_records(lines(path, {"task": "chat", **FORMS[form]}))
    assert named == RECORD
    assert (named.later_answers, named.question) == (1, TOLD[:2])
    assert named.last_question == TOLD[:4]


@pytest.mark.parametrize("field", ["task", "kind", "category", "task_dataset"])
def test_a_conversation_may_name_its_task_under_any_of_four_names(
    tmp_path: Path, field: str
) -> None:
    (record,) = read_records(lines(tmp_path / "x.jsonl", {**OPENAI, field: "CMeIE-V2"}))
    assert record.task == "CMeIE"


def test_a_short_conversation_is_the_record_that_a_flat_object_makes(tmp_path: Path) -> None:
    flat = {"task": "a", "input": "问\n补", "target": "答", "answer_choices": ["答", "否"]}
    choices = {"task": "a", "answer_choices": ["答", "否"]}
    messages = [{"role": "user", "content": "问\n补"}, {"role": "assistant", "content": "答"}]
    alpaca = {"instruction": "问", "input": "补", "output": "答", **choices}
    for item in ({"messages": messages, **choices}, alpaca):
        assert (
            read(lines(tmp_path / "x.jsonl", item)).records
            == read(lines(tmp_path / "x.jsonl", flat)).records
        )


def test_firefly_conversations_keep_their_later_turns(tmp_path: Path) -> None:
    (record,) = read_records(lines(tmp_path / "x.jsonl", CONVERSATION))
    assert (record.prompt, record.target, record.later_answers) == ("你是谁？", "一个模型。", 1)
    assert [one.content for one in record.messages] == [
        "你是谁？",
        "一个模型。",
        "真的？",
        "真的。",
    ]


def test_a_task_is_given_to_records_that_name_none_only(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", OPENAI, {"task": "other", **OPENAI})
    assert [one.task for one in read_records(path, task="mine")] == ["mine", "other"]
    assert [one.id for one in read_records(path, tasks=["mine"])] == ["x-1"]
    assert "--task NAME names that of all records" in complaint(path)
    assert "to name the task" in complaint(path, read=read_records, tasks=["mine", "other"])


def test_records_are_written_and_read_again_unchanged(tmp_path: Path) -> None:
    records = read(
        lines(tmp_path / "x.jsonl", *({"task": "chat", **form} for form in FORMS.values()))
    ).records
    (tmp_path / "again.jsonl").write_text(to_jsonl(records), encoding="utf-8")
    assert read(tmp_path / "again.jsonl").records == records


def test_an_open_question_is_read_where_no_answer_is_needed(tmp_path: Path) -> None:
    asked = {"task": "a", "messages": OPENAI["messages"][:2]}
    first = {"task": "a", "instruction": "一", "system": "简短"}
    for item in (asked, first):
        path = lines(tmp_path / "x.jsonl", item)
        (record,) = read_records(path, need_target=False)
        assert (record.prompt, record.target) == ("简短\n一", "")
        assert record.question == record.last_question == TOLD[:2]
        assert "must have an answer" in complaint(path)


@pytest.mark.parametrize(
    ("item", "field", "words"),
    [
        ({"messages": "hello"}, "messages", "list of at least one"),
        ({"messages": OPENAI["messages"][2:]}, "messages", "must begin with a question"),
        ({"messages": [OPENAI["messages"][0]]}, "messages", "must begin with a question"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages", "has no text"),
        ({"conversations": [{"from": "gpt", "value": "1"}]}, "conversations", "begin with a quest"),
        ({"conversations": [{"from": "tool", "value": "1"}]}, "conversations", "tool call"),
        ({"conversations": [{"from": "human"}]}, "conversations", "'content' must be text"),
        ({"conversations": {"from": "human"}}, "conversations", "list of at least one"),
        ({"conversations": [{"from": ["human"], "value": "1"}]}, "conversations", "give one of"),
        ({"instruction": 3, "output": "x"}, "instruction", "must be text or null"),
        ({"instruction": "", "output": "x"}, "instruction", "has no text"),
        ({"instruction": "q", "output": "x", "history": [["a"]]}, "history", "list of pairs"),
        ({"instruction": "q", "output": "x", "history": {"a": "b"}}, "history", "list of pairs"),
        ({"instruction": "q", "output": " "}, "instruction", "has no text"),
        ({**OPENAI, "task": 3}, "task", "must be non-empty text"),
        ({**OPENAI, "answer_choices": "a"}, "answer_choices", "must be a list"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "messages", "surrogate"),
    ],
)
def test_a_bad_conversation_is_named_with_file_line_and_field(
    tmp_path: Path, item: dict[str, Any], field: str, words: str
) -> None:
    path = lines(tmp_path / "x.jsonl", {"task": "a", **OPENAI}, {"task": "a", **item})
    message = complaint(path)
    assert message.startswith(f"x.jsonl, line 2, field {field!r}: "), message
    assert words in message
