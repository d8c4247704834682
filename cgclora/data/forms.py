r"""The forms of a record: what a JSON object of each says as a question and its answer.

Our own; the test file of a benchmark may lack the answers:

    {"task": "NER", "input": "找出句子中的人名：\n王小明到了上海。", "target": "人名：王小明"}

PromptCBLUE (arXiv 2310.14151):

    {"input": "判断下面搜索词的意图：\n尿酸520算高吗\n选项：…", "target": "指标解读",
     "answer_choices": ["治疗方案", "指标解读"], "task_type": "cls", "task_dataset": "KUAKE-QIC",
     "sample_id": "test-0"}

Firefly (github.com/yangjianxin1/Firefly), first the older form, then the newer one:

    {"kind": "Couplet", "input": "上联：…", "target": "…"}
    {"conversation_id": 1, "category": "OpenQA", "conversation": [{"human": "…", "assistant": "…"}]}

Conversations as OpenAI, ShareGPT and Alpaca have them, also with a `task` and `answer_choices`:

    {"messages": [{"role": "system", "content": "…"}, {"role": "user", "content": "…"},
                  {"role": "assistant", "content": "…"}]}
    {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}],
     "system": "…"}
    {"instruction": "…", "input": "…", "output": "…", "system": "…", "history": [["…", "…"]]}

A form that a person has filled in; a template of the task makes the prompt:

    {"task": "Couplet", "fields": {"text": "…"}, "reference": "…", "choices": null}
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cgclora.data.chat import ChatError, Message, read_messages
from cgclora.data.records import Record
from cgclora.data.sources import Entry, FieldError

TASK_FIELDS = ("task", "task_dataset", "kind")

CHAT_TASK_FIELDS = (*TASK_FIELDS, "category")

OFFICIAL_NAMES = MappingProxyType({"CMeIE-V2": "CMeIE"})
"""What published files call a task that has another name here."""

Templates = Mapping[str, Callable[[Mapping[str, str]], str]]
"""For each task what makes a prompt of the fields of a form; raises ValueError where it cannot."""

_FORM_FIELDS = {"input": "fields", "target": "reference", "answer_choices": "choices"}
_SURROGATE = re.compile("[\ud800-\udfff]")

_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bot", "bard", "bing"), "assistant"),
    "system": "system",
}
"""What ShareGPT and files like it call the roles of OpenAI's messages."""


@dataclass(frozen=True)
class Reading:
    """How records are read."""

    need_target: bool = True  # whether one without an answer is wrong; else its target is ""
    # Of the tasks whose forms can be read.
    templates: Templates = dataclasses.field(default_factory=dict)
    task: str | None = None  # name of the task of records that name none; None makes them wrong


def task_name(name: str) -> str:
    """Our name of a task, which a published file may call otherwise: see `OFFICIAL_NAMES`."""
    return OFFICIAL_NAMES.get(name, name)


def record_of(entry: Entry, how: Reading) -> Record:
    """The record of an entry.

    Raises:
        FieldError: It is none.
    """
    if isinstance(entry.content, FieldError):
        raise entry.content
    if not isinstance(entry.content, dict):
        raise FieldError(None, "must be an object", entry.content)
    fields = entry.content
    for field, text in _texts(fields):
        if _SURROGATE.search(text):
            raise FieldError(field, "holds half of a surrogate pair, which is no character", text)
    for field, messages_of in _CONVERSATIONS.items():
        if field in fields and "target" not in fields:
            return _conversation(field, messages_of(fields, how), fields, entry.id, how)
    if "fields" not in fields or "input" in fields:
        return _flat_record(fields, entry.id, how)
    try:
        return _flat_record(_filled_in(fields, how.templates), entry.id, how)
    except FieldError as error:
        name = _FORM_FIELDS.get(error.field or "", error.field)
        raise FieldError(name, error.message, error.value) from error


def _texts(fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """All texts in an object, however deep, each with the field that it stands in."""
    open_: list[tuple[str, object]] = list(fields.items())
    while open_:
        field, value = open_.pop()
        if isinstance(value, str):
            yield field, value
        elif isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            open_ += ((field, one) for one in inner)


# Conversations ----------------------------------------------------------------------------


def _openai(fields: dict[str, Any], _: Reading) -> object:
    return fields["messages"]


def _sharegpt(fields: dict[str, Any], _: Reading) -> object:
    turns = fields["conversations"]
    if not isinstance(turns, list):
        return turns
    told = [_shared(one) for one in turns]
    system = fields.get("system")
    return [{"role": "system", "content": system}, *told] if system else told


def _shared(turn: object) -> object:
    """A turn of ShareGPT as a message; one that is a message already stays."""
    if not isinstance(turn, dict) or "from" not in turn:
        return turn
    speaker = turn["from"]
    role = _SPEAKERS.get(speaker.lower(), speaker) if isinstance(speaker, str) else speaker
    return {"role": role, "content": turn.get("value")}


def _firefly(fields: dict[str, Any], how: Reading) -> object:
    turns = fields["conversation"]
    if (
        not isinstance(turns, list)
        or not turns
        or not all(isinstance(one, dict) and one.keys() & {"human", "assistant"} for one in turns)
    ):
        problem = "must be a list of turns, each with 'human' and 'assistant'"
        raise FieldError("conversation", problem, turns)
    told = []
    for place, turn in enumerate(turns):
        for name, role in (("human", "user"), ("assistant", "assistant")):
            text = turn.get(name)
            is_last = name == "assistant" and place == len(turns) - 1
            if is_last and text in (None, "") and (place or not how.need_target):
                continue
            if not isinstance(text, str) or not text.strip():
                field = f"conversation[{place}].{name}"
                raise FieldError(field, "must be non-empty text", text)
            told.append({"role": role, "content": text})
    return told


def _alpaca(fields: dict[str, Any], _: Reading) -> object:
    for field in ("instruction", "input", "output", "system"):
        if not isinstance(value := fields.get(field), str | None):
            raise FieldError(field, "must be text or null", value)
    history = fields.get("history") or []
    is_pair = (isinstance(one, list) and len(one) == 2 for one in history)
    if not isinstance(history, list) or not all(is_pair):
        raise FieldError("history", "must be a list of pairs, question and answer", history)
    question = [fields.get("instruction"), fields.get("input")]
    pairs = [*history, ["\n".join(filter(None, question)), fields.get("output")]]
    told = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    if not fields.get("output"):
        told.pop()
    system = fields.get("system")
    return [{"role": "system", "content": system}, *told] if system else told


_CONVERSATIONS: Mapping[str, Callable[[dict[str, Any], Reading], object]] = {
    "messages": _openai,
    "conversations": _sharegpt,
    "conversation": _firefly,
    "instruction": _alpaca,
}
"""Fields that tell a form, and what makes OpenAI's messages of such an object."""


def _conversation(
    field: str, told: object, fields: dict[str, Any], default_id: str, how: Reading
) -> Record:
    try:
        messages = read_messages(told)
    except ChatError as error:
        raise FieldError(field, f"cannot be used: {error}", told) from error
    roles = [one.role for one in messages]
    first = roles.index("assistant") if "assistant" in roles else len(roles)
    if "user" not in roles[:first]:
        raise FieldError(field, "must begin with a question, after any system text", told)
    if first == len(roles) and how.need_target:
        raise FieldError(field, "must have an answer", told)
    question, answer = messages[:first], messages[first : first + 1]
    is_short = len(question) == 1 and messages == (*question, *answer)
    return Record(
        id=_identity(fields, default_id),
        task=_task(fields, CHAT_TASK_FIELDS, how),
        prompt="\n".join(one.content for one in question),
        target=answer[0].content if answer else "",
        choices=_choices(fields),
        messages=() if is_short and not _thinks(answer) else messages,
    )


def _thinks(messages: tuple[Message, ...]) -> bool:
    return any(one.reasoning for one in messages)


# Flat objects -----------------------------------------------------------------------------


def _filled_in(fields: dict[str, Any], templates: Templates) -> dict[str, Any]:
    name, values = fields.get("task"), fields["fields"]
    if not templates:
        problem = "make a prompt only in `python -m evals`: give the whole prompt as 'input'"
        raise FieldError("fields", problem, values)
    template = templates.get(task_name(name)) if isinstance(name, str) else None
    if template is None:
        raise FieldError("task", "must be a known task, since it makes the prompt", name)
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise FieldError("fields", "must be an object of texts", values)
    try:
        prompt = template(values)
    except ValueError as error:
        raise FieldError("fields", f"do not make a prompt ({error})", values) from error
    return {
        "task": name,
        "input": prompt,
        "target": fields.get("reference"),
        "answer_choices": fields.get("choices"),
    }


def _flat_record(fields: dict[str, Any], default_id: str, how: Reading) -> Record:
    identity = _identity(fields, default_id)
    task = _task(fields, TASK_FIELDS, how)
    target = fields.get("target")
    if not how.need_target and not isinstance(target, str | None):
        raise FieldError("target", "must be text or null", target)
    for field in ("input", "target") if how.need_target else ("input",):
        value = fields.get(field)
        if not isinstance(value, str) or not value.strip():
            raise FieldError(field, "must be non-empty text", value)
    return Record(
        id=identity,
        task=task,
        prompt=fields["input"],
        target=target or "",
        choices=_choices(fields),
    )


def _identity(fields: dict[str, Any], default_id: str) -> str:
    identity = fields.get("sample_id")
    identity = default_id if identity is None else identity
    if type(identity) not in (str, int) or not str(identity).strip():
        raise FieldError("sample_id", "must be text or a whole number", identity)
    return str(identity)


def _task(fields: dict[str, Any], names: tuple[str, ...], how: Reading) -> str:
    name = next((field for field in names if field in fields), None)
    if name is None and how.task is not None:
        return task_name(how.task)
    if name is None:
        problem = (
            f"none of the fields {names} is there to name the task; --task NAME names that of all "
            "records which name none"
        )
        raise FieldError(None, problem, list(fields))
    value = fields[name]
    if not isinstance(value, str) or not value.strip():
        raise FieldError(name, "must be non-empty text", value)
    return task_name(value)


def _choices(fields: dict[str, Any]) -> tuple[str, ...] | None:
    choices = fields.get("answer_choices")
    if choices is not None and not (
        isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    ):
        raise FieldError("answer_choices", "must be a list of texts or null", choices)
    return tuple(choices) if choices else None
