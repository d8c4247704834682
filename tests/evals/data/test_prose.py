"""The passages on which forgetting is measured: our own, and those of a user's file."""

import json
from collections import Counter
from pathlib import Path

import pytest

from cgclora.data.records import DataError
from evals.data.prose import Passage, read_prose


def test_our_own_are_as_many_in_each_language_and_of_many_kinds():
    passages = read_prose().passages
    assert Counter(one.language for one in passages) == {"zh": 24, "en": 24}
    assert len({one.id for one in passages}) == len({one.text for one in passages}) == 48
    for language, shortest, longest in (("zh", 90, 320), ("en", 250, 500)):
        of_it = [one for one in passages if one.language == language]
        assert len({one.kind for one in of_it}) >= 12
        assert all(shortest <= len(one.text) <= longest for one in of_it)


def test_a_file_of_plain_text_has_passages_between_empty_lines(tmp_path: Path):
    path = tmp_path / "diary.txt"
    path.write_text("\ufeffone\nstill one\n\n \n\ntwo\n", "utf-8")
    prose = read_prose(path)
    assert prose.passages == (Passage("1", "one\nstill one"), Passage("2", "two"))
    assert prose.name == "diary.txt"
    assert prose.languages() == {"": [0, 1]}


def test_a_jsonl_file_may_say_more_of_a_passage(tmp_path: Path):
    path = tmp_path / "mine.jsonl"
    lines = [{"text": "甲", "id": "a", "language": "zh", "kind": "note"}, {"text": "b\n\nc"}]
    path.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    assert read_prose(path).passages == (Passage("a", "甲", "zh", "note"), Passage("2", "b\n\nc"))


def test_the_hash_is_that_of_the_texts(tmp_path: Path):
    one, other = tmp_path / "a.txt", tmp_path / "b.jsonl"
    one.write_text("x\n\ny", "utf-8")
    other.write_text('{"text": "x", "id": "7"}\n{"text": "y"}\n', "utf-8")
    assert read_prose(one).hash == read_prose(other).hash
    one.write_text("y\n\nx", "utf-8")
    assert read_prose(one).hash != read_prose(other).hash


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "has no text"),
        ("a.txt", b"\xff\xfe\xff", "cannot read"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}', "line 2: KeyError"),
        ("a.jsonl", b'{"text": " "}', "line 1: .*empty"),
        ("a.jsonl", b'["text"]', "line 1: TypeError"),
        ("a.jsonl", b"{", "line 1: "),
    ],
)
def test_what_is_no_text_is_an_error(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prose(tmp_path / name)
    with pytest.raises(DataError, match="cannot read"):
        read_prose(tmp_path / "missing")
