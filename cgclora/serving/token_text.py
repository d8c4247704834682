"""Tokens as text: each by itself, and where they start in the text of a sequence.

Byte-level and byte-fallback tokenizers have tokens that are a part of a character: these have
bytes, but no text of their own, and start where their character starts.
"""

from __future__ import annotations

import re
from typing import cast

from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"  # what the bytes of a part of a character decode to
_MAX_PENDING = 16  # tokens of one character; more are bytes that are no text


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level tokenizers write bytes (GPT-2).

    Printable characters are their own bytes; the others follow in the order of the bytes left.
    """
    characters = sorted(ByteLevel.alphabet())
    own = {one: ord(one) for one in characters if ord(one) < 256}
    left = sorted({*range(256)} - {*own.values()})
    return own | dict(zip(characters[len(own) :], left, strict=True))


_BYTES = _byte_alphabet()


class TokenTexts:
    """The texts and bytes of a tokenizer's tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """The bytes that a token adds to a text, in UTF-8; a special token's are its name."""
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def text_of(self, token: int) -> str:
        r"""A token's text, or `bytes:\xe5\xa4` for a part of a character, as OpenAI writes it."""
        raw = self.bytes_of(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _read(self, token: int) -> bytes:
        word = cast("str | None", self.tokenizer.convert_ids_to_tokens(token))
        if word is None:
            return b""  # the backbone has more embeddings than the tokenizer has tokens
        # After another token, since the first of a text may lose its space.
        before, text = (self.decode([*self._anchor, *ids]) for ids in ([], [token]))
        if _INCOMPLETE not in text:
            return text.removeprefix(before).encode()
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", word):
            return bytes([int(byte[1], 16)])
        if all(character in _BYTES for character in word):
            return bytes(_BYTES[character] for character in word)
        return text.removeprefix(before).encode()

    def decode(self, ids: list[int], *, special: bool = True) -> str:
        """The text of tokens, with or without special ones."""
        return cast(str, self.tokenizer.decode(ids, skip_special_tokens=not special))


class TextPositions:
    """Where tokens start in the text of their sequence, in characters.

    Token by token, each decoded with the few before it: a long text is not decoded again each time.

    Args:
        texts: Of the tokenizer.
        start: Characters before the sequence.
        special: Whether special tokens are part of the text.
    """

    def __init__(self, texts: TokenTexts, start: int = 0, *, special: bool = False) -> None:
        self._texts = texts
        self._special = special
        self.end = start  # characters up to here; a part of a character at the end is none
        self._base = start  # characters before the window
        self._window: list[int] = []  # tokens whose text ended a whole character, and later ones
        self._done = 0  # how many of them are before `_base`

    def add(self, token: int) -> int:
        """Where the next token starts."""
        start = self.end
        self._window.append(token)
        before, text = (
            self._texts.decode(ids, special=self._special)
            for ids in (self._window[: self._done], self._window)
        )
        length = self._base + len(text.rstrip(_INCOMPLETE)) - len(before)
        self.end = max(self.end, length)
        if not text.endswith(_INCOMPLETE) or len(self._window) - self._done > _MAX_PENDING:
            self._base = self.end
            self._window = self._window[self._done :]
            self._done = len(self._window)
        return start


def typed_ids(texts: TokenTexts, ids: list[int], prompt: str) -> list[int]:
    """The token ids of a text without those that its tokenizer put before it."""
    special = {*texts.tokenizer.all_special_ids}
    added = 0
    while added < len(ids) and ids[added] in special:
        if prompt.startswith(texts.text_of(ids[added])):
            break
        added += 1
    return ids[added:]
