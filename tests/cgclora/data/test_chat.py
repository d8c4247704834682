"""Messages as they are read, prompts as templates make them, and which template an adapter gets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cgclora.config import ConfigError, PromptFormat
from cgclora.data.chat import ChatError, Message, encode_prompts, prompt_text, read_messages
from cgclora.data.template import choose_format, own_template, standalone
from tests.helpers.templates import CHATML, GEMMA, GLM, LLAMA, QWEN3, chat_tokenizer

ASKED = (Message("user", "你好"),)
TURNS = (*ASKED, Message("assistant", "答"), Message("user", "再问"))

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that leaves out text which is no list of parts."""


def user(**fields: object) -> list[dict[str, object]]:
    return [{"role": "user", **fields}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (user(content="问"), (Message("user", "问"),)),
        (user(content=[{"type": "text", "text": "一"}, "二"]), (Message("user", "一二"),)),
        ([{"role": "developer", "content": "简"}], (Message("system", "简"),)),
        ([{"role": "system", "content": ""}, *user(content="问")], (Message("user", "问"),)),
        (user(content="问", tool_calls=None, name="a"), (Message("user", "问"),)),
        (
            [{"role": "assistant", "content": "答", "reasoning_content": "想"}],
            (Message("assistant", "答", "想"),),
        ),
    ],
)
def test_openai_messages_are_read(value: object, expected: tuple[Message, ...]) -> None:
    assert read_messages(value) == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "list of at least one"),
        ("问", "list of at least one"),
        (["问"], "message 1 must be an object"),
        (
            user(content=[{"type": "image_url", "image_url": {"url": "x"}}]),
            "'image_url'.*no images",
        ),
        (user(content=[{"type": "text"}]), "each part of 'content'"),
        (user(content=None), "'content' must be text"),
        (user(content=" "), "role 'user' has no text"),
        ([*user(content="a"), {"role": "tool", "content": "b"}], "message 2 is a tool call"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], "tool call"),
        ([{"role": "narrator", "content": "a"}], "role 'narrator': give one of"),
        ([{"role": ["user"], "content": "a"}], "give one of"),
    ],
)
def test_messages_that_cannot_be_used_are_refused_with_the_reason(
    value: object, words: str
) -> None:
    with pytest.raises(ChatError, match=words):
        read_messages(value)


def test_a_system_text_of_its_own_wins_over_the_formats() -> None:
    tokenizer = chat_tokenizer(CHATML)
    form = choose_format(tokenizer, system="默认")
    own = (Message("system", "自己"), *ASKED)
    assert prompt_text("你好", tokenizer, form).startswith("<|im_start|>system\n默认<|im_end|>")
    assert prompt_text(own, tokenizer, form).startswith("<|im_start|>system\n自己<|im_end|>")
    plain = PromptFormat("\n答：", system="默认")
    assert prompt_text("你好", tokenizer, plain) == "默认\n你好\n答："
    assert prompt_text(own, tokenizer, plain) == "自己\n你好\n答："


def test_a_plain_format_refuses_several_turns_and_any_format_an_answer_at_the_end() -> None:
    tokenizer = chat_tokenizer(CHATML)
    with pytest.raises(ChatError, match=r"several turns.*--template chat"):
        prompt_text(TURNS, tokenizer, PromptFormat())
    for form in (PromptFormat(), choose_format(tokenizer)):
        for messages in (TURNS[:2], ()):
            with pytest.raises(ChatError, match="must end with one of the user"):
                prompt_text(messages, tokenizer, form)


def test_prompts_in_different_formats_are_encoded_in_their_order() -> None:
    tokenizer = chat_tokenizer(CHATML)
    chat, plain, old = choose_format(tokenizer), PromptFormat(), PromptFormat(start="bos")
    prompts = ["一", TURNS, "三", "四"]
    formats = [plain, chat, old, chat]
    together = encode_prompts(prompts, tokenizer, formats)
    assert together == [
        encode_prompts([one], tokenizer, form)[0]
        for one, form in zip(prompts, formats, strict=True)
    ]
    with pytest.raises(ChatError) as caught:
        encode_prompts(["一", TURNS], tokenizer, plain)
    assert caught.value.place == 1


def test_a_template_that_reads_parts_gets_parts() -> None:
    tokenizer = chat_tokenizer(PARTS)
    expected = prompt_text(TURNS, chat_tokenizer(CHATML), PromptFormat(template=CHATML))
    assert prompt_text(TURNS, tokenizer, choose_format(tokenizer)) == expected


# Which template ---------------------------------------------------------------------------


def test_the_default_is_the_backbones_template_and_none_where_it_has_none() -> None:
    assert choose_format(chat_tokenizer()) == PromptFormat()
    with_one = chat_tokenizer(CHATML)
    assert (
        choose_format(with_one) == choose_format(with_one, "chat") == PromptFormat(template=CHATML)
    )
    assert choose_format(with_one, "plain", system="简") == PromptFormat(system="简")
    assert own_template(chat_tokenizer()) is None


def test_a_template_that_asks_about_thinking_is_told_not_to_unless_the_options_say_so() -> None:
    tokenizer = chat_tokenizer(QWEN3)
    assert choose_format(tokenizer).template_options == (("enable_thinking", False),)
    thinking = choose_format(tokenizer, options={"enable_thinking": True, "a": 1})
    assert thinking.template_options == (("a", 1), ("enable_thinking", True))
    assert prompt_text(ASKED, tokenizer, thinking).endswith("<|im_start|>assistant\n")


def test_a_template_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(GEMMA, encoding="utf-8")
    assert choose_format(chat_tokenizer(CHATML), str(path)) == PromptFormat(template=GEMMA)


@pytest.mark.parametrize(
    ("content", "choice", "options", "words"),
    [
        (None, "chat", {}, "has no chat template: give --template plain"),
        (None, "plain", {"a": 1}, "options need a chat template"),
        (None, "nothing.jinja", {}, "cannot read the chat template nothing.jinja"),
        (" \n", "mine.jinja", {}, "is empty"),
        ("{% for %}", "mine.jinja", {}, "no usable chat template"),
        ("{{ raise_exception('nein') }}", "mine.jinja", {}, r"no usable .*\(nein\)"),
        ("{{ messages[7].content }}", "mine.jinja", {}, "no usable"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_the_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    choice: str,
    options: Mapping[str, int],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(choice).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        choose_format(chat_tokenizer(), choice, options=options)


@pytest.mark.parametrize("template", [CHATML, QWEN3, GEMMA, GLM, LLAMA])
@pytest.mark.parametrize("system", [None, 'Say "简",\nthen \\ {{ stop }} \u2028 \U0001f600.'])
def test_a_standalone_template_makes_the_same_prompts_without_being_told_more(
    template: str, system: str | None
) -> None:
    tokenizer = chat_tokenizer(template)
    form = choose_format(tokenizer, system=system)
    alone = standalone(form)
    for messages in (ASKED, TURNS, (Message("system", "自己"), *ASKED)):
        objects: list[dict[str, Any]] = [one.to_openai() for one in messages]
        text = tokenizer.apply_chat_template(
            objects, chat_template=alone, tokenize=False, add_generation_prompt=True
        )
        given = "\n" if template == GLM else ""
        assert text + given == prompt_text(messages, tokenizer, form)
    assert standalone(PromptFormat()) is None
