"""Which chat template a new adapter gets: the backbone's own, one in a file, or none.

`chat` is the template of the backbone's tokenizer, and the default where it has one; `plain` is
none. Anything else is the path of a file. The adapter keeps the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from cgclora.config import ConfigError, Options, PromptFormat
from cgclora.data.chat import ChatError, Message, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT, PLAIN = "chat", "plain"

TEMPLATE_FILE = "chat_template.jinja"
"""Where exports and models on the hub keep a template."""

_THINKING = "enable_thinking"
"""What the templates of Qwen3, GLM-4.5, Hunyuan and others ask before they let a model think."""


def own_template(tokenizer: PreTrainedTokenizerBase) -> PromptFormat | None:
    """The format of a tokenizer's own chat template, without thinking; None if it has none."""
    if not tokenizer.chat_template:
        return None
    try:
        text = tokenizer.get_chat_template()
    except ValueError:  # it has several, and none of them is the default
        return None
    return PromptFormat(template=text, template_options=_defaults(text))


def choose_format(
    tokenizer: PreTrainedTokenizerBase,
    choice: str | None = None,
    *,
    options: Mapping[str, str | int | float | bool] = MappingProxyType({}),
    system: str | None = None,
) -> PromptFormat:
    """The prompt format of a new adapter.

    Args:
        tokenizer: The backbone's.
        choice: `chat`, `plain`, or the path of a template; None takes `chat` where the tokenizer
            has a template.
        options: For the template. One that asks about thinking is told not to think, unless they
            say otherwise: data without thoughts has no use for it.
        system: System text of prompts that have none.

    Raises:
        ConfigError: The tokenizer has no template, the file cannot be read, it is no template, or
            there are options and no template.
    """
    own = own_template(tokenizer)
    if choice == PLAIN or (choice is None and own is None):
        if options:
            raise ConfigError("template options need a chat template: choose one, or leave both.")
        return PromptFormat(system=system)
    if choice in {None, CHAT}:
        if own is None:
            raise ConfigError(
                "the backbone's tokenizer has no chat template: give --template plain, or the path "
                "of a template."
            )
        text = own.template or ""
    else:
        text = _read(Path(choice or ""))
    told: Options = tuple(sorted({**dict(_defaults(text)), **options}.items()))
    made = PromptFormat(template=text, template_options=told, system=system)
    try:
        render([Message("user", "1")], tokenizer, made)
    except ChatError as error:
        raise ConfigError(f"{choice or CHAT} is no usable chat template: {error}.") from error
    return made


def with_options(
    format_: PromptFormat, options: Mapping[str, object], tokenizer: PreTrainedTokenizerBase
) -> PromptFormat:
    """A format whose template is told more, as a request may ask: `options` go over its own.

    What is false or None has no effect on a template that does not ask about it, and is left out;
    None leaves the format's own value.

    Raises:
        ConfigError: The template does not ask about an option, it is a name that transformers or
            the tokenizer gives, or its value is no text, number, true or false.
    """
    taken = {"messages", *tokenizer.special_tokens_map}
    taken |= signature(tokenizer.apply_chat_template).parameters.keys()
    told = dict(format_.template_options)
    for name, value in options.items():
        if name in taken:
            raise ConfigError(f"{name!r} is no option of a chat template: leave it out.")
        if value is None:
            continue
        if not isinstance(value, str | int | float):
            raise ConfigError(f"{name!r} must be text, a number, true or false, or left out.")
        # As a word of its own: no attribute, and no text in quotes.
        if name and re.search(rf"""(?<![\w.'"]){re.escape(name)}\b""", format_.template or ""):
            told[name] = value
        elif value is not False:
            whose = "the chat template of this model does not ask about"
            none = "this model has no chat template that asks about"
            raise ConfigError(f"{whose if format_.template else none} {name!r}: leave it out.")
    return replace(format_, template_options=tuple(sorted(told.items())))


def standalone(format_: PromptFormat) -> str | None:
    """A format's template with its options and system text written into it; None if it has none.

    With it, `apply_chat_template(messages, add_generation_prompt=True)` of transformers, vLLM and
    others makes the same prompts without being told more.
    """
    if format_.template is None:
        return None
    told = [
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}"
        for name, value in format_.template_options
    ]
    if format_.system:
        system = f"{{'role': 'system', 'content': {_literal(format_.system)}}}"
        told.append(
            "{%- if messages[0]['role'] != 'system' %}"
            f"{{%- set messages = [{system}] + messages %}}{{%- endif %}}"
        )
    return "\n".join([*told, format_.template]) if told else format_.template


def _literal(value: str | int | float | bool) -> str:
    """A value as Jinja has it, which takes the escapes of JSON."""
    return json.dumps(value, ensure_ascii=False)


def _defaults(template: str) -> Options:
    return ((_THINKING, False),) if _THINKING in template else ()


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the chat template {path} ({error}): give {CHAT}, {PLAIN} or the path of "
            "a file in Jinja."
        ) from error
    if not text.strip():
        raise ConfigError(f"the chat template {path} is empty: give {PLAIN} for none.")
    return text
