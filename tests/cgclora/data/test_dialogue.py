"""What of a conversation is trained: against transformers' own masks, and by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from cgclora.config import PromptFormat
from cgclora.data.chat import Message, encode_prompts
from cgclora.data.records import DataError, Encoded, Record, encode
from cgclora.data.template import choose_format
from tests.helpers import templates
from tests.helpers.templates import CHATML, GEMMA, GLM, LLAMA, MARKED, QWEN3, chat_tokenizer

SYSTEM = Message("system", "简短")
TALK = (
    Message("user", "你好"),
    Message("assistant", "im_end <eos"),  # looks like a part of what ends a turn
    Message("user", "再问 "),
    Message("assistant", " answer 2 "),
)


def told(*messages: Message) -> Record:
    question = next((one.content for one in messages if one.role == "user"), "")
    return Record("r-1", "chat", question, "", messages=messages)


def encoded(
    tokenizer: PreTrainedTokenizerFast,
    form: PromptFormat,
    *records: Record,
    max_length: int = 500,
    ends: set[int] | None = None,
) -> list[Encoded]:
    ends = templates.ends_of(tokenizer) if ends is None else ends
    items, _ = encode(
        records, tokenizer, ["chat"], prompt_format=form, max_length=max_length, ends=ends
    )
    return items


def marked(tokenizer: PreTrainedTokenizerFast, item: Encoded) -> str:
    """The text of an item with its targets in ⟦ ⟧."""
    text, at = "", 0
    for places in item.targets:
        before, target = item.ids[at : places.start], item.ids[places.start : places.stop]
        text += f"{tokenizer.decode(before)}⟦{tokenizer.decode(target)}⟧"
        at = places.stop
    assert at == len(item.ids)
    return text


@given(
    texts=st.lists(st.text(min_size=1, max_size=12).filter(str.strip), min_size=2, max_size=8),
    system=st.none() | st.just("简短"),
)
@settings(max_examples=40, deadline=None)
def test_targets_are_those_of_transformers_for_a_template_with_generation_marks(
    texts: list[str], system: str | None
) -> None:
    tokenizer = chat_tokenizer(MARKED)
    roles = ("user", "assistant")
    messages = [
        Message(roles[place % 2], text)  # type: ignore[arg-type]
        for place, text in enumerate(texts[: len(texts) // 2 * 2])
    ]
    own = [Message("system", system)] if system else []
    expected = tokenizer.apply_chat_template(
        [one.to_openai() for one in (*own, *messages)],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    form = choose_format(tokenizer, system=system)
    (item,) = encoded(tokenizer, form, told(*messages))
    mask = [0] * len(item.ids)
    for places in item.targets:
        mask[places.start : places.stop] = [1] * len(places)
    assert item.ids == expected["input_ids"][: len(item.ids)]
    assert mask == expected["assistant_masks"][: len(item.ids)]
    assert not any(expected["assistant_masks"][len(item.ids) :])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            CHATML,
            "<|im_start|>system\n简短<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n"
            "<|im_start|>assistant\n⟦im_end <eos<|im_end|>⟧\n<|im_start|>user\n再问 <|im_end|>\n"
            "<|im_start|>assistant\n⟦ answer 2 <|im_end|>⟧",
        ),
        (
            GEMMA,
            "<bos><start_of_turn>user\n简短\n\n你好<end_of_turn>\n"
            "<start_of_turn>model\n⟦im_end <eos<end_of_turn>⟧\n<start_of_turn>user\n再问"
            "<end_of_turn>\n<start_of_turn>model\n⟦answer 2<end_of_turn>⟧",
        ),
        (
            GLM,  # the next turn's first word ends a turn, the tokenizer's end token the last
            "[gMASK]<sop><|system|>\n简短<|user|>\n你好<|assistant|>⟦\nim_end <eos<|user|>⟧"
            "\n再问 <|assistant|>⟦\n answer 2 <eos>⟧",
        ),
        (
            LLAMA,
            "<bos><|start_header_id|>system<|end_header_id|>\n\n简短<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n你好<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦im_end <eos<|eot_id|>⟧"
            "<|start_header_id|>user<|end_header_id|>\n\n再问<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦answer 2<|eot_id|>⟧",
        ),
    ],
    ids=["chatml", "gemma", "glm", "llama"],
)
def test_all_answers_of_a_conversation_are_trained_with_what_ends_them(
    template: str, expected: str
) -> None:
    tokenizer = chat_tokenizer(template)
    (item,) = encoded(tokenizer, choose_format(tokenizer), told(SYSTEM, *TALK))
    assert marked(tokenizer, item) == expected


def test_an_answer_whose_prompt_differs_from_its_history_is_a_sequence_of_its_own() -> None:
    tokenizer = chat_tokenizer(QWEN3)
    form = choose_format(tokenizer)
    assert form.template_options == (("enable_thinking", False),)
    found = [marked(tokenizer, one) for one in encoded(tokenizer, form, told(*TALK))]
    first = "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    thoughts = "<think>\n\n</think>\n\n"
    assert found == [
        f"{first}{thoughts}⟦im_end <eos<|im_end|>⟧",
        f"{first}im_end <eos<|im_end|>\n<|im_start|>user\n再问 <|im_end|>\n"
        f"<|im_start|>assistant\n{thoughts}⟦ answer 2 <|im_end|>⟧",
    ]


def test_thoughts_are_part_of_the_answer_where_the_template_may_think() -> None:
    tokenizer = chat_tokenizer(QWEN3)
    record = told(TALK[0], Message("assistant", "答", reasoning="想"))
    form = choose_format(tokenizer, options={"enable_thinking": True})
    (item,) = encoded(tokenizer, form, record)
    assert marked(tokenizer, item).endswith("assistant\n⟦<think>\n想\n</think>\n\n答<|im_end|>⟧")
    with pytest.raises(DataError, match=r"'r-1'.*--template-option enable_thinking=true"):
        encoded(tokenizer, choose_format(tokenizer), record)


@pytest.mark.parametrize("template", [CHATML, QWEN3, GEMMA, GLM, LLAMA])
@pytest.mark.parametrize("turn", [1, 3])
def test_decoding_gets_exactly_the_ids_that_were_trained(template: str, turn: int) -> None:
    tokenizer = chat_tokenizer(template)
    form = choose_format(tokenizer, system="简短")
    items = encoded(tokenizer, form, told(*TALK))
    (prompt,) = encode_prompts([TALK[:turn]], tokenizer, form)
    item = items[0] if turn == 1 else items[-1]
    places = item.targets[0 if turn == 1 else -1]
    assert item.ids[: len(prompt)] == prompt
    given_ = tokenizer.decode(prompt[places.start :])
    assert given_ == ("\n" if template == GLM else "")
    assert len(prompt) >= places.start


def test_a_prompt_is_what_apply_chat_template_makes_of_it() -> None:
    for template in (CHATML, QWEN3, GEMMA, LLAMA):
        tokenizer = chat_tokenizer(template)
        form = choose_format(tokenizer)
        expected = tokenizer.apply_chat_template(
            [one.to_openai() for one in TALK[:3]],
            add_generation_prompt=True,
            return_dict=True,
            enable_thinking=False,
        )["input_ids"]
        assert encode_prompts([TALK[:3]], tokenizer, form) == [expected]


def test_the_tokenizers_end_token_takes_the_place_of_an_end_that_stops_no_answer() -> None:
    tokenizer = chat_tokenizer(CHATML)
    items = encoded(tokenizer, choose_format(tokenizer), told(*TALK), ends=set())
    assert [marked(tokenizer, one)[-14:] for one in items] == [
        "m_end <eos<eos>⟧"[-14:],
        " answer 2 <eos>⟧"[-14:],
    ]
    assert "<|im_end|>\n<|im_start|>user\n再问" in tokenizer.decode(items[1].ids)


def test_turns_that_reach_beyond_the_limit_are_left_out_and_counted() -> None:
    tokenizer = chat_tokenizer(CHATML)
    form = choose_format(tokenizer)
    (whole,) = encoded(tokenizer, form, told(*TALK))
    first = whole.targets[0].stop
    items, too_long = encode(
        [told(*TALK)],
        tokenizer,
        ["chat"],
        prompt_format=form,
        max_length=len(whole.ids) - 1,
        ends=templates.ends_of(tokenizer),
    )
    assert [(one.ids, one.later_prompts) for one in items] == [(whole.ids[:first], ())]
    assert too_long == {"chat": 1}


@pytest.mark.parametrize("name", ["llama3", "qwen3_instruct_2507", "gemma3", "lfm2_v2", "qwen3_8"])
def test_targets_are_those_of_trl_up_to_the_line_break_after_a_turn(name: str) -> None:
    """TRL has copies of published templates with marks; its masks take in what ends no answer."""
    trl = pytest.importorskip("trl")
    folder = Path(trl.__file__).parent / "chat_templates"
    tokenizer = chat_tokenizer()
    words = ["<turn|>", "<|turn>", "<|begin_of_text|>", "<|startoftext|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": [*templates.WORDS, *words]})
    form = choose_format(tokenizer, str(folder / f"{name}.jinja"))
    messages = [replace(one, content=one.content.strip()) for one in TALK]
    found = tokenizer.apply_chat_template(
        [one.to_openai() for one in messages],
        chat_template=(folder / f"{name}_training.jinja").read_text(encoding="utf-8"),
        return_dict=True,
        return_assistant_tokens_mask=True,
        **dict(form.template_options),
    )
    (item,) = encoded(tokenizer, form, told(*messages))
    assert item.ids == found["input_ids"][: len(item.ids)]
    ours = {place for places in item.targets for place in places}
    theirs = {place for place, one in enumerate(found["assistant_masks"]) if one}
    assert ours <= theirs
    more = tokenizer.decode([found["input_ids"][place] for place in sorted(theirs - ours)])
    assert more.replace("<think>\n\n</think>\n\n", "").strip("\n") == ""


SECOND_USER = (Message("user", "喂"), *TALK[:2])
LATE_SYSTEM = (*TALK[:2], SYSTEM, *TALK[2:])


@pytest.mark.parametrize(
    ("messages", "targets"),
    [(SECOND_USER, 1), (LATE_SYSTEM, 2), ((*TALK[:2], TALK[3]), 2), ((*TALK, TALK[0]), 2)],
    ids=["two users in a row", "system in the middle", "two answers in a row", "open question"],
)
def test_the_template_decides_on_unusual_orders_of_roles(
    messages: tuple[Message, ...], targets: int
) -> None:
    tokenizer = chat_tokenizer(CHATML)
    (item,) = encoded(tokenizer, choose_format(tokenizer), told(*messages))
    assert len(item.targets) == targets
    strict = chat_tokenizer(GEMMA)
    if len(messages) < 5 or messages[2] is SYSTEM:
        with pytest.raises(DataError, match=r"record 'r-1': .* refuses .*roles must alternate"):
            encoded(strict, choose_format(strict), told(*messages))


def _broken(messages: tuple[Message, ...], template: str = CHATML) -> Callable[[], object]:
    tokenizer = chat_tokenizer(template)
    form = PromptFormat(template=template)
    good = replace(told(*TALK), id="good")
    return lambda: encoded(tokenizer, form, good, told(*messages))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (_broken((TALK[1], *TALK)), "begins with an answer"),
        (_broken(TALK[:1]), "has no answer to train on"),
    ],
    ids=["answer first", "no answer"],
)
def test_conversations_that_cannot_be_trained_are_named(
    broken: Callable[[], object], words: str
) -> None:
    with pytest.raises(DataError, match=f"record 'r-1': .*{words}"):
        broken()


def test_a_template_that_begins_answers_otherwise_than_it_writes_them_is_refused() -> None:
    template = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    with pytest.raises(DataError, match=r"'good': .*begins an answer otherwise.*'<think>"):
        _broken(TALK, template)()


def test_plain_prompts_take_the_first_turn_with_any_system_text_before_it() -> None:
    tokenizer = chat_tokenizer()
    form = PromptFormat()
    record = Record("a", "chat", "简短\n你好", "答", messages=(SYSTEM, *TALK))
    simple = Record("b", "chat", "你好", "答")
    found = encoded(tokenizer, form, record, simple)
    assert [marked(tokenizer, one) for one in found] == [
        "<bos>简短\n你好\n⟦答<eos>⟧",
        "<bos>你好\n⟦答<eos>⟧",
    ]
    given_ = encoded(tokenizer, replace(form, system="默认"), record, simple)
    assert [marked(tokenizer, one) for one in given_] == [
        "<bos>简短\n你好\n⟦答<eos>⟧",
        "<bos>默认\n你好\n⟦答<eos>⟧",
    ]
