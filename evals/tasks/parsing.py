"""Parsing of answers: one small reader for each answer format.

The rules for PromptCBLUE are those of its official scorer (github.com/michael-wzhu/PromptCBLUE,
src/evaluation/post_generate_process.py and evaluators.py), odd ones included, so that scores are
comparable. Where a rule accepts a malformed answer, `strict` rejects it: a strict reader finds a
subset of the items that the official one finds.

No answer is an error: what a reader cannot use is kept in `Parsed.unparsed`, for display. Readers
that take `framing` ignore these whole lines.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

Language = Literal["zh", "en"]
Items = tuple[tuple[str, ...], ...]

SEPARATOR = "，"

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
"""A number in ASCII digits, maybe with commas between thousands."""

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
    "pairs": {"zh": ("键", "值"), "en": ("key", "value")},
    "number": {"zh": ("数值", "单位"), "en": ("number", "unit")},
    "text": {"zh": ("文本",), "en": ("text",)},
}


@dataclass(frozen=True)
class Parsed:
    """A parsed answer.

    Attributes:
        kind: `label`, `entities`, `triples`, `events`, `attributes`, `terms`, `sections`, `pairs`,
            `number` or `text`.
        items: Rows, each once, in the order of the answer, with a value for each column of the kind
            (see `table`). An event's descriptors or body sites are one value, joined by "，".
        unparsed: Lines, or parts of lines, that the reader could not use, trimmed.
    """

    kind: str
    items: Items
    unparsed: tuple[str, ...] = ()

    def table(self, language: Language = "zh") -> tuple[tuple[str, ...], Items]:
        """Column names, and one row for each item."""
        return _COLUMNS[self.kind][language], self.items


Reader = Callable[[str, Sequence[str]], Parsed]
"""An answer and the choices of its prompt to the parsed answer."""


def split_list(text: str) -> tuple[str, ...]:
    """The parts of a list written "a，b，c", trimmed, empty ones dropped."""
    return tuple(part.strip() for part in text.split(SEPARATOR) if part.strip())


def free_text(text: str, _choices: Sequence[str]) -> Parsed:
    """The whole answer, trimmed; no item if it is empty."""
    return _parsed("text", [(text.strip(),)] if text.strip() else [])


def terms(text: str, _choices: Sequence[str]) -> Parsed:
    """`a，b`, on one line or several."""
    return _parsed("terms", ((term,) for line in text.split("\n") for term in split_list(line)))


def items(*, separators: str = "，、,；;") -> Reader:
    """A list on one line or several, its items apart by any of these characters."""
    pattern = re.compile(f"[{re.escape(separators)}\n]")

    def read(text: str, _choices: Sequence[str]) -> Parsed:
        return _parsed("terms", ((item.strip(),) for item in pattern.split(text) if item.strip()))

    return read


def key_values(*, separators: str = "，、") -> Reader:
    """Lines `key：value`, with several values apart by any of the separators; "" has none."""
    pattern = re.compile(f"[{re.escape(separators)}]" if separators else r"(?!)")

    def read(text: str, _choices: Sequence[str]) -> Parsed:
        pairs: list[tuple[str, ...]] = []
        strays: list[str] = []
        for line in text.split("\n"):
            key, colon, values = line.replace(":", "：", 1).partition("：")
            if not (key.strip() and colon):
                strays.append(line)
                continue
            pairs += [(key.strip(), v.strip()) for v in pattern.split(values) if v.strip()]
        return _parsed("pairs", pairs, strays)

    return read


def number(text: str, _choices: Sequence[str]) -> Parsed:
    """The first number in decimal digits, in its shortest form, and what follows it as its unit."""
    folded = unicodedata.normalize("NFKC", text).strip()
    if (found := NUMBER.search(folded)) is None:
        return _parsed("number", (), (text,))
    value = Decimal(found[0].replace(",", ""))
    unit = "".join(folded[found.end() :].split()).rstrip("。.")
    return _parsed("number", [(f"{value.normalize():f}", unit)], (folded[: found.start()],))


def label(
    *,
    empty: str = "",
    synonyms: Mapping[str, str] = MappingProxyType({}),
    strict: bool = False,
) -> Reader:
    """One label, whether or not it was offered.

    Args:
        empty: The label of an empty answer; "" for none.
        synonyms: Other wordings and their labels.
        strict: Reject an empty answer and a label that was not offered.
    """

    def read(text: str, choices: Sequence[str]) -> Parsed:
        answer = text.strip()
        meant = synonyms.get(answer, answer)
        offered = {synonyms.get(choice, choice) for choice in choices}
        if strict and not (meant and meant in offered):
            return _parsed("label", (), (answer,))
        return _parsed("label", ((name,) for name in (meant or empty,) if name))

    return read


def listed_terms(*, nothing: str) -> Reader:
    """`a，b` on the last line; only offered terms count; `nothing` stands for an empty list.

    A line break at the end leaves the last line empty, and so the answer.
    """

    def read(text: str, choices: Sequence[str]) -> Parsed:
        *before, last = text.split("\n")
        listed = split_list(last)
        return _parsed(
            "terms",
            ((term,) for term in listed if term in choices),
            (*before, *(term for term in listed if term not in choices)),
            framing=(nothing,),
        )

    return read


def entities(
    *,
    suffix: str = "",
    framing: Sequence[str] = (),
    nothing: str = "",
    strict: bool = False,
) -> Reader:
    """A line `<type><suffix>：a，b` for each type offered.

    A line belongs to the types that it starts with. Officially its colon may be missing, and then
    the type itself is a part of the first mention.

    Args:
        suffix: Between the type and the colon.
        framing: See above.
        nothing: In place of a type's mentions if it has none.
        strict: Type, suffix and colon start the line and do not occur again in it.
    """

    def read(text: str, choices: Sequence[str]) -> Parsed:
        items: list[tuple[str, ...]] = []
        strays: list[str] = []
        for line in text.split("\n"):
            claimed = False
            for name in choices:
                lead = f"{name}{suffix}："
                mentions = line.replace(lead, "")
                if line == f"{lead}{mentions}" or (
                    not strict and line.startswith(f"{name}{suffix}")
                ):
                    claimed = True
                    items += [(name, word) for word in split_list(mentions) if word != nothing]
            if not claimed:
                strays.append(line)
        return _parsed("entities", items, strays, framing)

    return read


def triples(*, framing: Sequence[str] = (), strict: bool = False) -> Reader:
    """A line `具有R关系的头尾实体对如下：头实体为a，尾实体为b。…` for each relation R.

    Officially the relation is the text before "关系的头尾实体对", without two characters, offered
    or not; a line without these words is a relation as a whole. `strict` requires an offered
    relation, the exact wording, and two entities in each pair.
    """

    def read(text: str, choices: Sequence[str]) -> Parsed:
        items: list[tuple[str, ...]] = []
        strays: list[str] = []
        for line in text.split("\n"):
            relation = line.split("关系的头尾实体对")[0][2:].strip()
            lead = f"具有{relation}关系的头尾实体对如下："
            if strict and not (relation in choices and line.startswith(lead)):
                strays.append(line)
                continue
            for piece in line.replace(lead, "").split("。"):
                before, *after = piece.split("，尾实体为")
                head = before.replace("头实体为", "").strip()
                tail = after[0].replace("尾实体为", "").strip() if after else ""
                as_written = piece.strip() == f"头实体为{head}，尾实体为{tail}"
                if not after or (strict and not (head and tail and as_written)):
                    strays.append(piece)
                    continue
                items.append((head, relation, tail))
                strays += after[1:]
        return _parsed("triples", items, strays, framing)

    return read


def events(*, framing: Sequence[str] = (), strict: bool = False) -> Reader:
    """After the first line, a line `主体词：…；发生状态：…；描述词：…；解剖部位：…` for each event.

    Officially every line is an event, even a blank one; missing attributes are empty, and of a
    repeated attribute the last value counts. `strict` requires a 主体词, and a different attribute
    in each part of the line.
    """
    names = _COLUMNS["events"]["zh"]

    def attributes_of(piece: str) -> dict[str, str]:
        values = {}
        for name in names:  # a value that starts with the next name fills that one too
            if piece.startswith(f"{name}："):
                piece = piece.replace(f"{name}：", "").strip()
                several = name in {"描述词", "解剖部位"}
                values[name] = SEPARATOR.join(split_list(piece)) if several else piece
        return values

    def read(text: str, _choices: Sequence[str]) -> Parsed:
        first, *lines = text.split("\n")
        items: list[tuple[str, ...]] = []
        strays = [first]
        for line in lines:
            pieces = [piece for piece in line.split("；") if piece.strip()]
            parts = [attributes_of(piece) for piece in pieces]
            event = {name: value for part in parts for name, value in part.items()}
            each_another = len(event) == len(parts) and all(len(part) == 1 for part in parts)
            if strict and not (event.get(names[0]) and each_another):
                strays.append(line)
                continue
            items.append(tuple(event.get(name, "") for name in names))
            strays += [piece for piece, part in zip(pieces, parts, strict=True) if not part]
        return _parsed("events", items, strays, framing)

    return read


def attributes(*, otherwise: str, framing: Sequence[str] = (), strict: bool = False) -> Reader:
    """After the first line, a line `finding：status` for each finding, with exactly one colon.

    Officially a status that was not offered counts as `otherwise`; `strict` requires a finding and
    an offered status.
    """

    def read(text: str, choices: Sequence[str]) -> Parsed:
        first, *lines = text.split("\n")
        items: list[tuple[str, ...]] = []
        strays = [first]
        for line in lines:
            parts = line.split("：")
            finding, status = parts[0].strip(), parts[-1]
            offered = status in choices
            if len(parts) != 2 or (strict and not (finding and offered)):
                strays.append(line)
            else:
                items.append((finding, status if offered else otherwise))
        return _parsed("attributes", items, strays, framing)

    return read


def sections(titles: Sequence[str], *, framing: Sequence[str] = (), strict: bool = False) -> Reader:
    """After the first line, a line `<title>：content` for each section.

    Officially the last line of a title counts, from the title's last occurrence on; `strict`
    rejects a repeated title.
    """

    def read(text: str, _choices: Sequence[str]) -> Parsed:
        first, *lines = text.strip().split("\n")
        contents: dict[str, list[str]] = {}
        strays = [first]
        for line in lines:
            title = next((title for title in titles if line.startswith(f"{title}：")), None)
            if title is None:
                strays.append(line)
            else:
                contents.setdefault(title, []).extend(line.split(f"{title}：")[1:])
        items: list[tuple[str, ...]] = []
        for title, (*earlier, last) in contents.items():
            if strict and earlier:
                strays += [*earlier, last]
            else:
                strays += earlier
                items.append((title, last.strip()))
        return _parsed("sections", items, strays, framing)

    return read


def _parsed(
    kind: str,
    items: Iterable[tuple[str, ...]],
    strays: Iterable[str] = (),
    framing: Sequence[str] = (),
) -> Parsed:
    """Each item once, and the strays that are neither blank nor framing."""
    unparsed = (stray.strip() for stray in strays)
    return Parsed(
        kind,
        tuple(dict.fromkeys(items)),
        tuple(stray for stray in unparsed if stray and stray not in framing),
    )
