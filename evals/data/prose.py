"""Texts on which forgetting is measured: passages of our own, or a user's file.

`prose.jsonl` beside this module holds 24 Chinese and 24 English passages of many kinds (stories,
news, letters, recipes, code, ...), which were written for this project, so that no backbone and no
adapter has seen them. None is of a kind that the tasks ask for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cgclora.data.records import DataError
from cgclora.storage import atomic_io

PROSE = Path(__file__).with_name("prose.jsonl")


@dataclass(frozen=True)
class Passage:
    """A text to be read."""

    id: str
    text: str
    language: str = ""  # such as `zh`; empty if the file does not say
    kind: str = ""  # such as `recipe`


@dataclass(frozen=True)
class Prose:
    """Passages of one file."""

    name: str  # of the file, without its folder
    passages: tuple[Passage, ...]

    @property
    def hash(self) -> str:
        """sha256 of the texts in their order."""
        texts = [one.text for one in self.passages]
        return atomic_io.sha256(json.dumps(texts).encode())

    def languages(self) -> dict[str, list[int]]:
        """The places of the passages by language, in the order of the file."""
        places: dict[str, list[int]] = {}
        for place, one in enumerate(self.passages):
            places.setdefault(one.language, []).append(place)
        return places


def read_prose(path: str | Path = PROSE) -> Prose:
    """The passages of a file.

    A `.jsonl` file has an object with `text` a line, and, if wanted, `id`, `language` and `kind`.
    Any other file is plain text, whose passages are separated by empty lines.

    Raises:
        DataError: The file cannot be read, has no passage, or a line is not such an object.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}.") from error
    if path.suffix == ".jsonl":
        lines = content.split("\n")
        passages = [_passage(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    else:
        texts = filter(None, map(str.strip, re.split(r"\n\s*\n", content)))
        passages = [Passage(str(i), text) for i, text in enumerate(texts, 1)]
    if not passages:
        raise DataError(f"{path} has no text: write passages separated by empty lines.")
    return Prose(path.name, tuple(passages))


def _passage(path: Path, number: int, line: str) -> Passage:
    try:
        facts = json.loads(line)
        text = facts["text"]
        if not isinstance(text, str) or not text.strip():
            raise ValueError("text is empty or no string")
        more: Sequence[str] = [str(facts.get(name) or "") for name in ("language", "kind")]
        return Passage(str(facts.get("id") or number), text, *more)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path}, line {number}: {error!r}: write an object such as {{"text": "..."}}.'
        ) from error
