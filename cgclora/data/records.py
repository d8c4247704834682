"""Records: their hash, a subset of them, and their token ids. `readers` reads them."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cgclora.config import PromptFormat
from cgclora.data.chat import ChatError, Message, Prompt, encode_prompts
from cgclora.data.dialogue import Turns, encode_dialogues
from cgclora.models.vocabulary import unreadable_word

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # slow to import, and reading needs none


class DataError(ValueError):
    """Data that cannot be used; the message names file, line, field and value."""


@dataclass(frozen=True, slots=True)
class Record:
    """One question with its reference answer, or a conversation.

    Of a conversation prompt and target are the first turn, the prompt with the system text in a
    line before it, as plain prompts have it.
    """

    id: str  # its own `sample_id`, else one after file and line, see `cgclora.data.readers.read`
    task: str
    prompt: str
    target: str  # the reference answer
    choices: tuple[str, ...] | None = None  # labels that the prompt offers; None: free text
    messages: tuple[Message, ...] = ()  # the whole conversation, where it is more than the two

    @property
    def dialogue(self) -> tuple[Message, ...]:
        """The whole conversation as messages."""
        if self.messages:
            return self.messages
        answer = (Message("assistant", self.target),) if self.target else ()
        return (Message("user", self.prompt), *answer)

    @property
    def question(self) -> Prompt:
        """The first turn's question, with the system text if there is one."""
        roles = [one.role for one in self.messages]
        asked = self.messages[: roles.index("assistant") if "assistant" in roles else None]
        return asked if len(asked) > 1 else self.prompt

    @property
    def last_question(self) -> Prompt:
        """The last turn's question, with all that was said before it."""
        if not self.messages:
            return self.prompt
        return self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages

    @property
    def later_answers(self) -> int:
        """How many answers follow the first turn's."""
        return max(0, sum(one.role == "assistant" for one in self.messages) - 1)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A record as token ids: the prompt with its special tokens, then target and end token.

    A conversation goes on with further prompts and targets.
    """

    ids: list[int]  # token ids of prompt and target
    prompt_length: int  # how many of them are the prompt
    task: int
    later_prompts: tuple[tuple[int, int], ...] = ()  # from and to where one stands, in order

    @property
    def targets(self) -> list[range]:
        """The places in `ids` of each target with its end token."""
        starts = [self.prompt_length, *(end for _, end in self.later_prompts)]
        ends = [*(start for start, _ in self.later_prompts), len(self.ids)]
        return [range(start, end) for start, end in zip(starts, ends, strict=True)]

    @property
    def target_tokens(self) -> int:
        """How many tokens the loss is taken on."""
        return sum(map(len, self.targets))


T = TypeVar("T", Record, Encoded)


def data_hash(records: Iterable[Record], *, conversations: bool = False) -> str:
    """sha256 over task, prompt and target of the records in their order.

    With `conversations` also over those that are more than a prompt and a target.
    """
    digest = hashlib.sha256()
    for record in records:
        messages = record.messages if conversations else ()
        told = [[one.role, one.content, one.reasoning] for one in messages]
        facts = [record.task, record.prompt, record.target, *([told] if told else [])]
        digest.update(json.dumps(facts).encode())
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
    ends: Collection[int] = (),
) -> tuple[list[Encoded], Counter[str]]:
    """Token ids of records that fit, and how many a task were too long.

    Prompt and target are tokenised apart: decoding sees the prompt alone, and must see the same.
    With a chat template all answers of a conversation are targets, see `encode_dialogues`, which
    may need several items for them; without one the first turn is.

    A prompt and its target have at most `max_length` tokens together; turns of a conversation that
    reach beyond are left out, and counted. The tasks stand in the order of their ids; those in
    `needed` (None: all) must have a record, and no others may. The backbone can read
    `readable_ids` token ids, see `cgclora.models.vocabulary.readable`; `ends` are the ids with
    which an answer may end beside the tokenizer's, see `cgclora.models.vocabulary.end_ids`.

    Raises:
        DataError: A record is of another task, a task has no record that fits, a record has a word
            that the backbone cannot read or is refused by the template, or the tokenizer has no end
            token.
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
    for record, turns in _turns(records, tokenizer, prompt_format, ends):
        if len(fitting := turns.within(max_length)) < len(turns):
            too_long[record.task] += 1
        if not fitting:
            continue
        if (word := unreadable_word(fitting.ids, readable_ids, tokenizer)) is not None:
            raise DataError(
                f"record {record.id!r} of task {record.task!r} has {word!r}, which this backbone "
                "cannot read: leave it out of input and target."
            )
        item = Encoded(fitting.ids, fitting.first, ids[record.task], fitting.later_prompts)
        encoded.append(item)
    kept = Counter(item.task for item in encoded)
    for task, index in ids.items():
        if not kept[index]:
            raise DataError(
                f"task {task!r} has no record within {max_length} tokens "
                f"({too_long[task]} are longer): give it data, or raise max_length as far as the "
                "backbone goes."
            )
    return encoded, too_long


def _turns(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    prompt_format: PromptFormat,
    ends: Collection[int],
) -> Iterator[tuple[Record, Turns]]:
    """Each record's prompts and targets as ids: one item, or more with some templates."""
    end = cast(int, tokenizer.eos_token_id)
    try:
        if prompt_format.template is not None:
            told = [record.dialogue for record in records]
            for place, turns in encode_dialogues(told, tokenizer, prompt_format, {end, *ends}):
                yield records[place], turns
            return
        prompts = encode_prompts([one.question for one in records], tokenizer, prompt_format)
    except ChatError as error:
        place = error.place or 0
        raise DataError(f"record {records[place].id!r}: {error}.") from error
    texts = [record.target for record in records] or [""]
    targets = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for record, prompt, target in zip(records, prompts, targets, strict=False):
        whole = [*prompt, *target, end]
        yield record, Turns(whole, [(len(prompt), len(whole))])
