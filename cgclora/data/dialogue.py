"""Conversations as token ids to train on, with the loss on the answers only.

For each answer the prompt is exactly what decoding would see at this place: the template's text of
the messages before it, with the beginning of an answer. The target is what the template writes
after that, up to and with the token that ends a turn; where this is no end token of the backbone
(a base model with a chat template, or GLM, which ends a turn with the next one's first token), the
tokenizer's own end token takes its place.

While each prompt continues what came before it, a conversation is one sequence with several
targets. Some templates write earlier turns otherwise (that of Qwen3 leaves out empty thoughts): an
answer whose prompt differs begins a sequence of its own, and no mask is ever wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from cgclora.config import PromptFormat
from cgclora.data.chat import ChatError, Message, answer_frame, common_start, render, with_system

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AT_ONCE = 512  # conversations whose texts are in memory together


@dataclass(frozen=True)
class Turns:
    """A sequence with the places of its targets: from, and to where, in order."""

    ids: list[int]
    targets: list[tuple[int, int]]

    def __len__(self) -> int:
        """How many targets there are."""
        return len(self.targets)

    @property
    def first(self) -> int:
        """Length of the first prompt."""
        return self.targets[0][0]

    @property
    def later_prompts(self) -> tuple[tuple[int, int], ...]:
        """Where the prompts of later targets stand, without what they share with earlier ones."""
        return tuple((end, start) for (_, end), (start, _) in pairwise(self.targets))

    def within(self, length: int) -> Turns:
        """The turns that end within so many tokens."""
        kept = [(start, end) for start, end in self.targets if end <= length]
        return Turns(self.ids[: kept[-1][1]], kept) if kept else Turns([], [])


@dataclass(frozen=True)
class _Answer:
    """The texts of one answer's prompt, of the prompt with the answer, and of the turn's end."""

    prompt: str
    whole: str
    tail: str


def encode_dialogues(
    dialogues: Sequence[Sequence[Message]],
    tokenizer: PreTrainedTokenizerBase,
    format_: PromptFormat,
    ends: Collection[int],
) -> Iterator[tuple[int, Turns]]:
    """Each conversation's place with its sequences, mostly one.

    `ends` are ids of tokens that may end an answer. Messages after the last answer are left out.

    Raises:
        ChatError: A conversation has no answer, or the template refuses it or does not begin an
            answer as it writes it; with its place.
    """
    end_of_turn = answer_frame(tokenizer, format_).end
    for first in range(0, len(dialogues), _AT_ONCE):
        places = range(first, min(first + _AT_ONCE, len(dialogues)))
        told = []
        for place in places:
            try:
                told.append(_answers(dialogues[place], tokenizer, format_, end_of_turn))
            except ChatError as error:
                error.place = place
                raise
        ids = _Ids(tokenizer, [answer for answers in told for answer in answers], ends)
        for place, answers in zip(places, told, strict=True):
            for turns in _joined([ids.of(answer) for answer in answers], ends):
                yield place, turns


def _answers(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    format_: PromptFormat,
    end_of_turn: str,
) -> list[_Answer]:
    messages = with_system(messages, format_.system)
    answers = []
    for place, message in enumerate(messages):
        if message.role != "assistant":
            continue
        if not any(one.role == "user" for one in messages[:place]):
            raise ChatError("the conversation begins with an answer: let it begin with a question")
        prompt = render(messages[:place], tokenizer, format_)
        whole = render(messages[: place + 1], tokenizer, format_, answered=True)
        if not whole.startswith(prompt):
            raise ChatError(_not_continued(prompt, whole, message, format_))
        if whole.endswith(end_of_turn) and len(whole) - len(end_of_turn) > len(prompt):
            answers.append(_Answer(prompt, whole.removesuffix(end_of_turn), end_of_turn))
        else:
            answers.append(_Answer(prompt, whole, ""))
    if not answers:
        raise ChatError("the conversation has no answer to train on")
    return answers


def _not_continued(prompt: str, whole: str, message: Message, format_: PromptFormat) -> str:
    alike = common_start(prompt, whole)
    told = (
        "the chat template begins an answer otherwise than it writes it: "
        f"{prompt[alike:][:40]!r} where the conversation has {whole[alike:][:40]!r}"
    )
    options = dict(format_.template_options)
    if options.get("enable_thinking") is False and (
        message.reasoning or "<think>" in whole[alike:]
    ):
        return f"{told}. The data has thoughts: give --template-option enable_thinking=true"
    return f"{told}. Give --template plain, or a corrected template as a file"


class _Ids:
    """Token ids of the prompts and the targets of some answers."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        answers: Sequence[_Answer],
        ends: Collection[int],
    ) -> None:
        self.tokenizer = tokenizer
        self.ends = ends
        texts = list(dict.fromkeys(text for one in answers for text in (one.prompt, one.whole)))
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        self.ids = dict(zip(texts, encoded, strict=True))
        self.tails: dict[str, list[int]] = {}

    def of(self, answer: _Answer) -> tuple[list[int], list[int]]:
        """The ids of an answer's prompt, and of the answer with its end token."""
        prompt, whole = self.ids[answer.prompt], self.ids[answer.whole]
        target = whole[len(prompt) :]
        if whole[: len(prompt)] != prompt:  # a token reaches over the border, and decoding cannot
            target = self._encode(answer.whole[len(answer.prompt) :])
        if not answer.tail:  # the template's end of a turn, if it has one, is part of the target
            return prompt, self._closed(target)
        if answer.tail not in self.tails:
            tail = self._encode(answer.tail)
            end = next((place for place, one in enumerate(tail) if one in self.ends), None)
            own = [self.tokenizer.eos_token_id]
            self.tails[answer.tail] = own if end is None else tail[: end + 1]
        return prompt, [*target, *self.tails[answer.tail]]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _closed(self, target: list[int]) -> list[int]:
        """A target up to its last end token, or with the tokenizer's where it has none."""
        for place in range(len(target) - 1, -1, -1):
            if target[place] in self.ends:
                return target[: place + 1]
        return [*target, self.tokenizer.eos_token_id]


def _joined(answers: Sequence[tuple[list[int], list[int]]], ends: Collection[int]) -> list[Turns]:
    """Sequences of answers whose prompts continue each other."""
    sequences: list[Turns] = []
    for prompt, target in answers:
        span = (len(prompt), len(prompt) + len(target))
        earlier = sequences[-1] if sequences else None
        if earlier is not None and _continues(prompt, earlier.ids, ends):
            sequences[-1] = Turns([*prompt, *target], [*earlier.targets, span])
        else:
            sequences.append(Turns([*prompt, *target], [span]))
    return sequences


def _continues(prompt: list[int], earlier: list[int], ends: Collection[int]) -> bool:
    """Whether a prompt begins with an earlier sequence, or with another end of its last turn."""
    known = len(earlier)
    if len(prompt) < known or prompt[: known - 1] != earlier[:-1]:
        return False
    return prompt[known - 1] == earlier[-1] or prompt[known - 1] in ends
