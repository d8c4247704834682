"""Reading answers back: one small reader for each answer format.

The rules are those of the official PromptCBLUE scorer (arXiv 2310.14151): an answer is read line by
line, a line that does not parse is lost, and no answer, however strange, is an error. What was lost
is kept in `Parsed.unparsed`, for display.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Language = Literal["zh", "en"]
Items = tuple[tuple[str, ...], ...]

SEPARATOR = "，"

_COLUMNS: dict[str, dict[Language, tuple[str, ...]]] = {
    "label": {"zh": ("标签",), "en": ("label",)},
    "entities": {"zh": ("类型", "实体"), "en": ("type", "mention")},
    "triples": {"zh": ("头实体", "关系", "尾实体"), "en": ("head", "relation", "tail")},
    "events": {
        "zh": ("主体词", "发生状态", "描述词", "解剖部位"),
        "en": ("finding", "status", "descriptors", "body sites"),
    },
    "attributes": {"zh": ("临床发现", "状态"), "en": ("finding", "status")},
    "terms": {"zh": ("词语",), "en": ("term",)},
    "sections": {"zh": ("章节", "内容"), "en": ("section", "content")},
    "text": {"zh": ("文本",), "en": ("text",)},
}


@dataclass(frozen=True)
class Parsed:
    """What an answer says.

    Attributes:
        kind: `label`, `entities`, `triples`, `events`, `attributes`, `terms`, `sections` or `text`.
        items: the rows read, each once, in the order of the answer; a row has one value for each
            column of its kind (see `table`). An event's several descriptors or body sites are one
            value, joined by "，".
        unparsed: what the reader could not use: lines, or parts of lines, as they were written.
    """

    kind: str
    items: Items
    unparsed: tuple[str, ...] = ()

    def table(self, language: Language = "zh") -> tuple[tuple[str, ...], Items]:
        """Column names, and one row for each item."""
        return _COLUMNS[self.kind][language], self.items


Reader = Callable[[str, Sequence[str]], Parsed]
"""An answer and the choices it was offered, read."""


def split_list(text: str) -> tuple[str, ...]:
    """The parts of a list written "a，b，c", trimmed, empty ones dropped."""
    return tuple(part.strip() for part in text.split(SEPARATOR) if part.strip())


def label(text: str, _choices: Sequence[str]) -> Parsed:
    """One label, whether or not it was offered; no item when there is none."""
    return _parsed("label", [(text.strip(),)] if text.strip() else [])


def label_or_first(text: str, choices: Sequence[str]) -> Parsed:
    """`label`, but no answer means the first choice: PromptCBLUE's rule."""
    return label(text.strip() or next(iter(choices), ""), choices)


def free_text(text: str, _choices: Sequence[str]) -> Parsed:
    """The whole answer, trimmed; no item when there is none."""
    return _parsed("text", [(text.strip(),)] if text.strip() else [])


def terms(*, nothing: str = "") -> Reader:
    """`a，b`; with choices only those offered count. `nothing` is the phrase for an empty list."""

    def read(text: str, choices: Sequence[str]) -> Parsed:
        found = [term for line in _lines(text, (nothing,)) for term in split_list(line)]
        if not choices:
            return _parsed("terms", ((term,) for term in found))
        offered = frozenset(choices)
        return _parsed(
            "terms",
            ((term,) for term in found if term in offered),
            (term for term in found if term not in offered),
        )

    return read


def entities(*, suffix: str = "", framing: Sequence[str] = (), nothing: str = "") -> Reader:
    """A line `<type><suffix>：a，b` for each type offered.

    Args:
        suffix: stands between the type and the colon.
        framing: whole lines that say nothing by themselves.
        nothing: stands where a type has no mention.
    """

    def read(text: str, choices: Sequence[str]) -> Parsed:
        found: list[tuple[str, ...]] = []
        strays: list[str] = []
        for line in _lines(text, framing):
            name, colon, mentions = line.partition(f"{suffix}：")
            if colon and name in choices:
                found += [(name, mention) for mention in split_list(mentions) if mention != nothing]
            else:
                strays.append(line)
        return _parsed("entities", found, strays)

    return read


_RELATION_LINE = re.compile(r"具有(.+?)关系的头尾实体对如下：(.*)")
_PAIR = re.compile(r"头实体为(.+?)，尾实体为(.+)")


def triples(*, framing: Sequence[str] = ()) -> Reader:
    """A line `具有R关系的头尾实体对如下：头实体为a，尾实体为b。…` for each relation R offered."""

    def read(text: str, choices: Sequence[str]) -> Parsed:
        found: list[tuple[str, ...]] = []
        strays: list[str] = []
        for line in _lines(text, framing):
            relation = _RELATION_LINE.fullmatch(line)
            if relation is None or relation[1] not in choices:
                strays.append(line)
                continue
            for piece in filter(None, map(str.strip, relation[2].split("。"))):
                if pair := _PAIR.fullmatch(piece):
                    found.append((pair[1].strip(), relation[1], pair[2].strip()))
                else:
                    strays.append(piece)
        return _parsed("triples", found, strays)

    return read


def events(*, framing: Sequence[str] = ()) -> Reader:
    """A line `主体词：…；发生状态：…；描述词：…；解剖部位：…` for each event.

    A line counts when it starts with its 主体词; attributes that are missing are empty.
    """
    names = _COLUMNS["events"]["zh"]

    def read(text: str, _choices: Sequence[str]) -> Parsed:
        found: list[tuple[str, ...]] = []
        strays: list[str] = []
        for line in _lines(text, framing):
            if not line.startswith(f"{names[0]}："):
                strays.append(line)
                continue
            event = dict.fromkeys(names, "")
            for piece in line.split("；"):
                name, colon, value = piece.strip().partition("：")
                if colon and name in event:
                    event[name] = SEPARATOR.join(split_list(value))
                elif piece.strip():
                    strays.append(piece.strip())
            found.append(tuple(event.values()))
        return _parsed("events", found, strays)

    return read


def attributes(*, framing: Sequence[str] = ()) -> Reader:
    """A line `finding：status` for each finding; a line needs exactly one colon.

    A status that was not offered is kept: it counts as wrong.
    """

    def read(text: str, _choices: Sequence[str]) -> Parsed:
        found: list[tuple[str, ...]] = []
        strays: list[str] = []
        for line in _lines(text, framing):
            parts = tuple(part.strip() for part in line.split("："))
            if len(parts) == 2 and all(parts):
                found.append(parts)
            else:
                strays.append(line)
        return _parsed("attributes", found, strays)

    return read


def sections(titles: Sequence[str], *, framing: Sequence[str] = ()) -> Reader:
    """A line `<title>：content` for each section; of a title that comes twice the first counts."""

    def read(text: str, _choices: Sequence[str]) -> Parsed:
        found: dict[str, str] = {}
        strays: list[str] = []
        for line in _lines(text, framing):
            title, colon, content = line.partition("：")
            if colon and title in titles and title not in found:
                found[title] = content.strip()
            else:
                strays.append(line)
        return _parsed("sections", found.items(), strays)

    return read


def _lines(text: str, framing: Sequence[str]) -> Iterator[str]:
    for line in map(str.strip, text.split("\n")):
        if line and line not in framing:
            yield line


def _parsed(kind: str, items: Iterable[tuple[str, ...]], unparsed: Iterable[str] = ()) -> Parsed:
    return Parsed(kind, tuple(dict.fromkeys(items)), tuple(unparsed))
