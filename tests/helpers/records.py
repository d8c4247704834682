"""What data files of tests are made of: an object of each form, and how they get into a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgclora.data.readers import read as read_set
from cgclora.data.records import DataError

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


def complaint(
    source: str | Path | None, *, read: Callable[..., object] = read_set, **options: Any
) -> str:
    with pytest.raises(DataError) as caught:
        read(source, **options)
    return str(caught.value)
