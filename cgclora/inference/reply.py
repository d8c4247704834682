"""The text's side of a request: which token comes next, what it says, whether that is the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cgclora.inference.request import Answer, Finish, Piece, Request
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import Backbone


@dataclass
class Reply:
    """See the module's text.

    Attributes:
        index: The request's place among others.
        request: What is asked.
        prompt: Its token ids.
        backbone: Who answers.
        started: When it joined a batch, by `time.monotonic`.
        finish: Why it ended; None until then.
        ids: The tokens so far.
        sent: What they say for certain.
    """

    index: int
    request: Request
    prompt: Sequence[int]
    backbone: Backbone
    started: float = 0.0
    finish: Finish | None = None
    ids: list[int] = field(default_factory=list)
    sent: str = ""

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.request.seed)
        self.tokenizer, self.ends = self.backbone.tokenizer, self.backbone.ends
        self.allowed = _allowed_next(self.request.choices, self.tokenizer)

    @property
    def form(self) -> tuple[str | None, str | None]:
        """Answers with the same have a form in common."""
        return self.request.cluster, self.request.task

    @property
    def is_greedy(self) -> bool:
        """Whether it says the likeliest token of all."""
        return self.request.temperature == 0 and self.allowed is None

    def allowed_now(self) -> list[int]:
        """The token ids that may come next, where the answer is one of some choices."""
        return cast(dict[tuple[int, ...], list[int]], self.allowed)[tuple(self.ids)]

    def only_choice(self) -> int | None:
        """The next token, if what was said leaves no other."""
        allowed = self.allowed_now() if self.allowed is not None else []
        return allowed[0] if len(allowed) == 1 else None

    def pick(self, logits: Tensor) -> int:
        """A place in logits [n], the likeliest or drawn."""
        if self.request.temperature == 0:
            return int(logits.argmax())
        probabilities = (logits / self.request.temperature).softmax(-1)
        ordered, ids = probabilities.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= self.request.top_p] = 0
        return int(ids[int(torch.multinomial(ordered.cpu(), 1, generator=self.generator))])

    def append(self, token: int) -> Iterator[Piece]:
        """Take a token, and give what it adds to the text."""
        text = self.add(token)
        if self.finish is not None:
            Runtime.of(self.backbone).phrases.remember(self.form, self.ids)
            yield Piece(self.index, text, self.answer(time.monotonic() - self.started))
        elif text:
            yield Piece(self.index, text)

    def add(self, token: int) -> str:
        """Take a token; returns the text that is now certain.

        A character's bytes may come one token each, and until the last one is there they, and with
        some tokenizers the whole characters just before them, decode to U+FFFD. So those at the end
        are never shown, and a text that got shorter adds nothing.
        """
        self.ids.append(token)
        ended = token in self.ends
        said = self.ids[:-1] if ended else self.ids
        text = cast(str, self.tokenizer.decode(said, skip_special_tokens=True)).rstrip("\ufffd")
        cut = min((text.find(stop) for stop in self.request.stop if stop in text), default=-1)
        if cut >= 0:
            text, self.finish = text[:cut], "stop"
        elif ended:
            self.finish = "end"
        elif len(self.ids) >= self.request.max_new_tokens:
            self.finish = "length"
        else:
            text = text[: len(text) - self._uncertain(text)]
        new = text[len(self.sent) :]
        self.sent += new
        return new

    def take(self, tokens: Sequence[int]) -> None:
        """Take tokens without pieces of text, up to the answer's end; the rest is dropped.

        The answer is that of `say`. Without a stop text only the end itself needs the text.
        """
        for token in tokens:
            if self.finish is not None:
                return
            if self.request.stop:
                self.add(token)
                continue
            self.ids.append(token)
            ended = token in self.ends
            if ended or len(self.ids) >= self.request.max_new_tokens:
                self._conclude(self.ids[:-1] if ended else self.ids)

    def _conclude(self, said: list[int]) -> None:
        """The text of an answer that ends, all at once."""
        text = cast(str, self.tokenizer.decode(said, skip_special_tokens=True))
        if "\ufffd" not in text:
            self.sent, self.finish = text, "end" if len(said) < len(self.ids) else "length"
            return
        ids, self.ids = self.ids, []
        for token in ids:  # characters that stayed in part: what was certain on the way counts
            self.add(token)

    def _uncertain(self, text: str) -> int:
        """How many last characters may turn out to be the start of a stop text."""
        longest = max(map(len, self.request.stop), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.request.stop):
                return length
        return 0

    def answer(self, seconds: float) -> Answer:
        """The finished answer."""
        if self.finish is None:
            raise ValueError("the answer has not ended yet")
        return Answer(self.sent, self.finish, len(self.prompt), len(self.ids), seconds)


def _allowed_next(
    choices: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase
) -> dict[tuple[int, ...], list[int]] | None:
    """For each beginning of a choice, as token ids, the ids that may follow."""
    if choices is None:
        return None
    following: dict[tuple[int, ...], set[int]] = {}
    for ids in tokenizer(list(choices), add_special_tokens=False)["input_ids"]:
        whole = [*ids, tokenizer.eos_token_id]
        for length, token in enumerate(whole):
            following.setdefault(tuple(whole[:length]), set()).add(token)
    return {start: sorted(tokens) for start, tokens in following.items()}
