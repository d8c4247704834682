"""Records: their hash, a subset of them, and their token ids. `readers` reads them."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cgclora.config import PromptFormat
from cgclora.models.vocabulary import unreadable_word

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # slow to import, and reading needs none


class DataError(ValueError):
    """Data that cannot be used; the message names file, line, field and value."""


@dataclass(frozen=True, slots=True)
class Record:
    """One question with its reference answer."""

    id: str  # its own `sample_id`, else one after file and line, see `cgclora.data.readers.read`
    task: str
    prompt: str
    target: str  # the reference answer
    choices: tuple[str, ...] | None = None  # labels that the prompt offers; None: free text


@dataclass(frozen=True, slots=True)
class Encoded:
    """A record as token ids: the prompt with its special tokens, then target and end token."""

    ids: list[int]  # token ids of prompt and target
    prompt_length: int  # how many of them are the prompt
    task: int


T = TypeVar("T", Record, Encoded)


def data_hash(records: Iterable[Record]) -> str:
    """sha256 over task, prompt and target of the records in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.task, record.prompt, record.target]).encode())
    return digest.hexdigest()


def sample_per_task(
    items: Sequence[T], limits: Sequence[int] | Mapping[str, int], seed: int
) -> list[T]:
    """At most `limits[task]` items of a task (0 takes all), drawn with `seed`, in their order."""
    of_task: Any = limits  # by id for token ids, by name for records
    groups = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.task].append(index)
    generator = random.Random(seed)  # noqa: S311 - a reproducible draw, not a secret
    chosen: set[int] = set()
    for task, group in sorted(groups.items()):
        chosen.update(generator.sample(group, min(of_task[task] or len(group), len(group))))
    return [item for index, item in enumerate(items) if index in chosen]


def encode(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    prompt_format: PromptFormat,
    max_length: int,
    needed: Sequence[str] | None = None,
    readable_ids: int = sys.maxsize,
) -> tuple[list[Encoded], Counter[str]]:
    """Token ids of records that fit, and how many a task were too long.

    Prompt and target are tokenised apart: decoding sees the prompt alone, and must see the same.

    Prompt and target have at most `max_length` tokens together. The tasks stand in the order of
    their ids; those in `needed` (None: all) must have a record, and no others may. The backbone can
    read `readable_ids` token ids, see `cgclora.models.vocabulary.readable`.

    Raises:
        DataError: A record is of another task, a task has no record that fits, a record has a word
            that the backbone cannot read, or the tokenizer has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise DataError(
            "the backbone's tokenizer has no end token: name `eos_token` in tokenizer_config.json."
        )
    ids = {task: index for index, task in enumerate(tasks) if needed is None or task in needed}
    if unknown := sorted({record.task for record in records} - ids.keys()):
        where = "the adapter does not know" if needed is None else "are not to be trained here"
        raise DataError(f"the data has tasks that {where}: {unknown}.")
    encoded, too_long = [], Counter[str]()
    prompts = encode_prompts([record.prompt for record in records], tokenizer, prompt_format)
    texts = [record.target for record in records] or [""]
    targets = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for record, prompt, target in zip(records, prompts, targets, strict=False):
        whole = [*prompt, *target, tokenizer.eos_token_id]
        if len(whole) > max_length:
            too_long[record.task] += 1
        elif (word := unreadable_word(whole, readable_ids, tokenizer)) is not None:
            raise DataError(
                f"record {record.id!r} of task {record.task!r} has {word!r}, which this backbone "
                "cannot read: leave it out of input and target."
            )
        else:
            encoded.append(Encoded(whole, len(prompt), ids[record.task]))
    kept = Counter(item.task for item in encoded)
    for task, index in ids.items():
        if not kept[index]:
            raise DataError(
                f"task {task!r} has no record within {max_length} tokens "
                f"({too_long[task]} are longer): give it data, or raise max_length as far as the "
                "backbone goes."
            )
    return encoded, too_long


def encode_prompts(
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    after: str | PromptFormat | Sequence[PromptFormat],
) -> list[list[int]]:
    """Token ids of prompts with `after` around them, for all or for each.

    An `after` that is text is the separator alone.
    """
    if not prompts:
        return []
    if isinstance(after, str):
        after = PromptFormat(after)
    formats = [after] * len(prompts) if isinstance(after, PromptFormat) else after
    texts = [text + one.separator for text, one in zip(prompts, formats, strict=True)]
    encoded: dict[int, list[int]] = {}
    for start in dict.fromkeys(one.start for one in formats):
        places = [place for place, one in enumerate(formats) if one.start == start]
        by_tokenizer = start == "tokenizer"
        own = [texts[place] for place in places]
        ids = tokenizer(own, add_special_tokens=by_tokenizer)["input_ids"]
        first = [] if by_tokenizer or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        encoded.update(zip(places, ([*first, *one] for one in ids), strict=True))
    return [encoded[place] for place in range(len(texts))]
