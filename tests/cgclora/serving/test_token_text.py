"""Texts and places of tokens, against decoding the whole sequence up to each of them."""

import random
from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from cgclora.serving.token_text import TextPositions, TokenTexts, typed_ids
from tests.cgclora.inference.test_engine import byte_fallback_tokenizer
from tests.helpers.tiny import VOCABULARY, make_tokenizer

TEXTS = ["今天天气很好", "a龘b😀 c👩‍👩‍👧\n", "naïve  café", " \ufffd 天", "The cat sat"]

pytestmark = pytest.mark.parametrize("make", [make_tokenizer, byte_fallback_tokenizer])
Make = Callable[[], PreTrainedTokenizerFast]


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_tokens_make_the_text(make: Make, text: str) -> None:
    texts = TokenTexts(make())
    ids = texts.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(map(texts.bytes_of, ids)) == text.encode()
    for token in ids:
        raw = texts.bytes_of(token)
        found = texts.text_of(token)
        if found.startswith("bytes:"):
            assert found == "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
            assert "\ufffd" in raw.decode(errors="replace")
        else:
            assert found.encode() == raw


def test_special_tokens_are_their_names_and_unknown_ones_nothing(make: Make) -> None:
    texts = TokenTexts(make())
    assert [texts.text_of(token) for token in (0, 1, 2, 10**6)] == ["<pad>", "<eos>", "<bos>", ""]


def slow(texts: TokenTexts, ids: list[int]) -> list[int]:
    """Characters that are whole before each token, by decoding all that is before it."""
    starts = [0]
    for end in range(1, len(ids)):
        whole = texts.decode(ids[:end], special=False).rstrip("\ufffd")
        starts.append(max(starts[-1], len(whole)))
    return starts


@pytest.mark.parametrize("text", TEXTS[:3])
def test_a_token_starts_where_its_character_does(make: Make, text: str) -> None:
    texts = TokenTexts(make())
    ids = texts.tokenizer(text * 3)["input_ids"]
    positions = TextPositions(texts)
    assert [positions.add(token) for token in ids] == slow(texts, ids)
    assert positions.end == len(text * 3)
    moved = TextPositions(texts, 7)
    assert [moved.add(token) - 7 for token in ids] == slow(texts, ids)


def test_bytes_that_are_no_text_have_places_too(make: Make) -> None:
    texts, draw = TokenTexts(make()), random.Random(1)
    for _ in range(20):
        ids = [draw.randrange(3, min(VOCABULARY, len(texts.tokenizer))) for _ in range(30)]
        positions = TextPositions(texts)
        found = [positions.add(token) for token in ids]
        assert found == sorted(found)
        assert positions.end <= len(texts.decode(ids))


def test_special_tokens_count_where_they_are_part_of_the_text(make: Make) -> None:
    texts = TokenTexts(make())
    ids = [2, *texts.tokenizer("天", add_special_tokens=False)["input_ids"], 1]
    spelt, silent = TextPositions(texts, special=True), TextPositions(texts)
    places = [[one.add(token) for token in ids] for one in (spelt, silent)]
    assert (places[0][0], places[0][1], places[0][-1], spelt.end) == (0, 5, 6, 11)
    assert (places[1][1], places[1][-1], silent.end) == (0, 1, 1)


def test_what_a_tokenizer_puts_before_a_text_is_told_from_the_text(make: Make) -> None:
    texts = TokenTexts(make())
    for text in ("天气", "<bos>天气", "<eos><bos>"):
        ids = texts.tokenizer(text)["input_ids"]
        assert ids[0] == 2
        own = typed_ids(texts, ids, text)
        if text.startswith("<bos>"):
            assert own in (ids, ids[1:])
        assert texts.decode(own).endswith(text)
