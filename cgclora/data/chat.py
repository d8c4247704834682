"""Chat messages, and how a prompt format turns them into the text and the ids of a prompt.

With a chat template a prompt is what `apply_chat_template(..., add_generation_prompt=True)` of
transformers makes of the messages; without one it is the question, with any system text in a line
before it. Training, decoding, evaluation and the server all come here, so they see the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from cgclora.config import PromptFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # slow to import, and reading needs none

Role = Literal["system", "user", "assistant"]

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",  # what newer models of OpenAI call it
    "user": "user",
    "assistant": "assistant",
}
"""The roles of OpenAI's messages, and what each is here."""

_ABSENT: tuple[Any, ...] = (None, "", [], {})
_PARTS = (None, "text", "input_text", "output_text")
_NOT_READ = ("tool_calls", "function_call", "audio", "refusal")


class ChatError(ValueError):
    """Messages, or a template, that make no prompt; the message says why and what to do."""

    # Which of several conversations is meant, from 0; None where there is one.
    place: int | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str
    reasoning: str = ""  # what an assistant thought before it answered, for templates that know it

    def to_openai(self) -> dict[str, Any]:
        """As an object of OpenAI's form, which templates and `read_messages` take."""
        reasoning = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {"role": self.role, "content": self.content, **reasoning}


Prompt: TypeAlias = str | Sequence[Message]
"""A question as text, or a conversation that ends with one."""


def read_messages(value: object) -> tuple[Message, ...]:
    """Messages in OpenAI's form: `[{"role": "user", "content": "..."}, ...]`.

    Content is text or a list of text parts. `reasoning_content` of an assistant is kept; an empty
    system message counts as none.

    Raises:
        ChatError: They have another form, no text, or an image, a tool call or the like.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ChatError("messages must be a list of at least one, each with 'role' and 'content'")
    messages = [_message(one, f"message {place}") for place, one in enumerate(value, start=1)]
    return tuple(one for one in messages if one.content or one.role != "system")


def _message(value: object, name: str) -> Message:
    if not isinstance(value, Mapping):
        raise ChatError(f"{name} must be an object with 'role' and 'content'")
    role = value.get("role")
    if role in ("tool", "function") or any(value.get(key) not in _ABSENT for key in _NOT_READ):
        raise ChatError(f"{name} is a tool call or the like: only messages of text can be used")
    if not isinstance(role, str) or role not in ROLES:
        raise ChatError(f"{name} has role {role!r}: give one of {', '.join(ROLES)}")
    content, reasoning = _text(value.get("content"), name), value.get("reasoning_content")
    if not isinstance(reasoning, str | None):
        raise ChatError(f"{name}: 'reasoning_content' must be text")
    if not content.strip() and ROLES[role] != "system":
        raise ChatError(f"{name} of role {role!r} has no text")
    return Message(ROLES[role], content if content.strip() else "", reasoning or "")


def _text(content: object, name: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ChatError(f"{name}: 'content' must be text or a list of text parts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind not in _PARTS:
            raise ChatError(f"{name} has a part of type {kind!r}: only text can be read, no images")
        if not isinstance(text, str):
            raise ChatError(f"{name}: each part of 'content' must be {{'type': 'text', 'text': …}}")
        texts.append(text)
    return "".join(texts)


def with_system(messages: Sequence[Message], system: str | None) -> Sequence[Message]:
    """The messages with a system text before them, unless they begin with one of their own."""
    if not system or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", system), *messages)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template writes around each answer."""

    start: str  # what the generation prompt lacks of it
    end: str  # what ends the turn


@lru_cache(maxsize=64)
def answer_frame(tokenizer: PreTrainedTokenizerBase, format_: PromptFormat) -> Frame:
    """What two answers to the same question begin and end alike with.

    GLM begins an answer with a line break, gpt-oss with the name of a channel. It is trained as
    part of the answer, as the template has it, and given in decoding: an answer that may end at a
    line break would end there, and a channel's name is not what is asked for. Thoughts are not
    given: a template that begins an answer with empty ones may have been told to think.
    """
    question = with_system([Message("user", "1")], format_.system)
    try:
        prompt = render(question, tokenizer, format_)
        texts = [
            render([*question, Message("assistant", answer)], tokenizer, format_, answered=True)
            for answer in ("2", "3")
        ]
    except ChatError:  # of such conversations; others may do
        return Frame("", "")
    end = common_start(texts[0][::-1], texts[1][::-1])
    alike = texts[0][: common_start(*texts)]
    start = alike[len(prompt) :]
    if not alike.startswith(prompt) or "think" in start or start.endswith(" "):
        start = ""
    ids = tokenizer([prompt + start, texts[0]], add_special_tokens=False)["input_ids"]
    if ids[1][: len(ids[0])] != ids[0]:  # a token reaches into the answer
        start = ""
    return Frame(start, texts[0][len(texts[0]) - end :])


def common_start(one: str, other: str) -> int:
    """How many characters two texts begin alike with."""
    alike = (
        place for place, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1
    )
    return next(alike, min(len(one), len(other)))


def prompt_text(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, format_: PromptFormat) -> str:
    """The text of a prompt, up to where the answer begins.

    Raises:
        ChatError: It ends with no question; or has several turns, and the format no template; or
            the template refuses it.
    """
    if format_.template is None:
        return plain_text(prompt, format_)
    messages = with_system(_question(prompt), format_.system)
    return render(messages, tokenizer, format_) + answer_frame(tokenizer, format_).start


def plain_text(prompt: Prompt, format_: PromptFormat) -> str:
    """The text of a prompt without a template: one question, any system text in a line before it.

    Raises:
        ChatError: It has several turns, or ends with no question.
    """
    messages = with_system(_question(prompt), format_.system)
    if any(one.role == "assistant" for one in messages):
        raise ChatError(
            "the adapter was trained on single questions, without a chat template, and this "
            "conversation has several turns: send the last question alone, or train with "
            "--template chat"
        )
    return "\n".join(one.content for one in messages) + format_.separator


def _question(prompt: Prompt) -> Sequence[Message]:
    """A prompt as messages, of which the last is to be answered."""
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not messages or messages[-1].role == "assistant":
        raise ChatError("the messages must end with one of the user, which is to be answered")
    return messages


def render(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    format_: PromptFormat,
    *,
    answered: bool = False,
) -> str:
    """The text that a format's template makes of messages.

    `answered` conversations end with an answer; after others the template begins one.

    Raises:
        ChatError: The template refuses them, or has an error.
    """
    objects = [one.to_openai() for one in messages]
    if takes_parts(tokenizer, format_):
        objects = [
            {**one, "content": [{"type": "text", "text": one["content"]}]} for one in objects
        ]
    try:
        return _apply(objects, tokenizer, format_, answered=answered)
    except _template_errors() as error:
        roles = ", ".join(one.role for one in messages)
        raise ChatError(
            f"the chat template refuses a conversation of {roles} ({error or type(error).__name__})"
        ) from error


def _apply(
    objects: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    format_: PromptFormat,
    *,
    answered: bool,
) -> str:
    options: dict[str, Any] = dict(format_.template_options)
    text = tokenizer.apply_chat_template(
        objects,
        chat_template=format_.template,
        tokenize=False,
        add_generation_prompt=not answered,
        **options,
    )
    return cast(str, text)


def _template_errors() -> tuple[type[Exception], ...]:
    """What a template may raise."""
    from jinja2 import TemplateError  # noqa: PLC0415 - reading data needs no templates

    return (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError)


@lru_cache(maxsize=64)
def takes_parts(tokenizer: PreTrainedTokenizerBase, format_: PromptFormat) -> bool:
    """Whether a template reads content as a list of parts only, as some of images do.

    Such a template refuses text, or leaves it out without a word.
    """
    told, found = "0123456789", []
    for content in (told, [{"type": "text", "text": told}]):
        question = [{"role": "user", "content": content}]
        try:
            found.append(told in _apply(question, tokenizer, format_, answered=False))
        except _template_errors():
            found.append(False)
    return found == [False, True]


def encode_prompts(
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    formats: str | PromptFormat | Sequence[PromptFormat],
) -> list[list[int]]:
    """Token ids of prompts in one format, or each in its own; text is a separator alone.

    Raises:
        ChatError: As `prompt_text`.
    """
    if not prompts:
        return []
    formats = PromptFormat(formats) if isinstance(formats, str) else formats
    formats = [formats] * len(prompts) if isinstance(formats, PromptFormat) else formats
    texts = []
    for place, (one, format_) in enumerate(zip(prompts, formats, strict=True)):
        try:
            texts.append(prompt_text(one, tokenizer, format_))
        except ChatError as error:
            error.place = place
            raise
    by_tokenizer = [one.template is None and one.start == "tokenizer" for one in formats]
    encoded: dict[int, list[int]] = {}
    for adds in dict.fromkeys(by_tokenizer):
        places = [place for place, one in enumerate(by_tokenizer) if one == adds]
        ids = tokenizer([texts[place] for place in places], add_special_tokens=adds)["input_ids"]
        encoded.update(zip(places, ids, strict=True))
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [
        [*bos, *encoded[place]] if one.template is None and one.start == "bos" else encoded[place]
        for place, one in enumerate(formats)
    ]
