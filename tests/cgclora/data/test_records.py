"""The hash of records, subsets, and token ids."""

import hashlib
import json
from collections import Counter

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from cgclora.config import PromptFormat
from cgclora.data.chat import encode_prompts
from cgclora.data.records import DataError, Encoded, Record, data_hash, encode, sample_per_task
from tests.helpers.tiny import make_tokenizer

# Hash and subset --------------------------------------------------------------------------


def test_the_hash_is_sha256_of_task_prompt_and_target_in_order() -> None:
    records = [Record("1", "a", "问一", "答一"), Record("2", "b", "问二", "答二")]
    joined = "".join(json.dumps([r.task, r.prompt, r.target]) for r in records)
    assert data_hash(records) == hashlib.sha256(joined.encode()).hexdigest()


def test_the_hash_sees_every_change_but_that_of_an_id() -> None:
    base = [Record("1", "a", "x", "y"), Record("2", "a", "xx", "z")]
    others = [
        base[::-1],
        base[:1],
        [Record("1", "b", "x", "y"), base[1]],
        [Record("1", "a", "xy", ""), base[1]],
        [Record("1", "a", "x", "Y"), base[1]],
    ]
    assert len({data_hash(records) for records in (base, *others)}) == 6
    assert data_hash([Record("9", "a", "x", "y"), base[1]]) == data_hash(base)


def test_a_subset_has_so_many_of_each_task_in_the_first_order() -> None:
    items = [Encoded([i, i], 1, i % 3 % 2) for i in range(30)]  # 20 of task 0, 10 of task 1
    chosen = sample_per_task(items, [7, 3], seed=1)
    assert Counter(item.task for item in chosen) == {0: 7, 1: 3}
    assert [item.ids[0] for item in chosen] == sorted(item.ids[0] for item in chosen)
    assert chosen == sample_per_task(items, [7, 3], seed=1)
    assert chosen != sample_per_task(items, [7, 3], seed=2)
    assert sample_per_task(items, [0, 30], seed=1) == items


# Token ids --------------------------------------------------------------------------------


def test_training_sees_the_prompt_ids_that_decoding_sees(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    # "the" is one token of this tokenizer, so a joint tokenisation would merge across the seam.
    records = [Record("1", "a", "Is it about t", "he weather?"), Record("2", "a", "天气", "很好")]
    joined = PromptFormat("")
    encoded, _ = encode(records, tiny_tokenizer, ["a"], prompt_format=joined, max_length=99)
    prompts = encode_prompts([record.prompt for record in records], tiny_tokenizer, "")
    for item, prompt, record in zip(encoded, prompts, records, strict=True):
        assert item.ids[: item.prompt_length] == prompt
        assert item.ids[0] == tiny_tokenizer.bos_token_id
        assert item.ids[-1] == tiny_tokenizer.eos_token_id
        assert tiny_tokenizer.decode(item.ids[item.prompt_length : -1]) == record.target
        assert tiny_tokenizer.decode(item.ids[1 : item.prompt_length]) == record.prompt
    joint = tiny_tokenizer(records[0].prompt + records[0].target)["input_ids"]
    assert encoded[0].ids[:-1] != joint


def test_the_separator_ends_the_prompt(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    (ids,) = encode_prompts(["天气"], tiny_tokenizer, "\n答：")
    assert tiny_tokenizer.decode(ids[1:]) == "天气\n答："


def _tokenizer_that_adds(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    inner = tokenizer.backend_tokenizer
    inner.post_processor = processors.Sequence([])
    if template is not None:
        names = {name for name in template.split() if name != "$A"}
        special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in sorted(names)]
        inner.post_processor = processors.TemplateProcessing(template, None, special)
    return tokenizer


@pytest.mark.parametrize("template", [None, "<bos> $A", "<pad> <bos> $A", "$A <eos>"])
def test_a_prompt_has_the_special_tokens_that_its_tokenizer_adds(template: str | None) -> None:
    """Whether it names a `bos_token` or not: what PEFT, TRL and vLLM would feed."""
    tokenizer = _tokenizer_that_adds(template)
    texts = ["头痛", "How is the weather?"]
    expected = [tokenizer(text + "\n")["input_ids"] for text in texts]
    assert encode_prompts(texts, tokenizer, "\n") == expected
    plain = tokenizer(texts[0] + "\n", add_special_tokens=False)["input_ids"]
    assert (expected[0] == plain) == (template is None)


def test_adapters_of_before_are_asked_as_they_were_trained() -> None:
    """With the named start token, whatever the tokenizer adds, each in one batch with others."""
    tokenizer = _tokenizer_that_adds("<pad> <bos> $A")
    plain = tokenizer("头痛\n", add_special_tokens=False)["input_ids"]
    old, new = PromptFormat(start="bos"), PromptFormat()
    found = encode_prompts(["头痛"] * 3, tokenizer, [old, new, old])
    pad, bos = tokenizer.pad_token_id, tokenizer.bos_token_id
    assert found == [[bos, *plain], [pad, bos, *plain], [bos, *plain]]
    tokenizer.bos_token = None
    assert encode_prompts(["头痛"], tokenizer, old) == [plain]


def test_no_prompts_give_no_ids(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert encode_prompts([], tiny_tokenizer, "\n") == []


def test_too_long_records_are_counted_by_task(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    records = [Record(str(n), task, "x" * n, "y") for task in "ab" for n in (1, 5, 50, 60)]
    fits = len(tiny_tokenizer("x" * 50 + "\n")["input_ids"]) + 2  # target, end
    encoded, too_long = encode(
        records, tiny_tokenizer, ["a", "b"], prompt_format=PromptFormat(), max_length=fits
    )
    assert too_long == {"a": 1, "b": 1}
    assert [item.task for item in encoded] == [0, 0, 0, 1, 1, 1]
    assert max(len(item.ids) for item in encoded) == fits


def test_a_task_without_a_record_that_fits_is_refused(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    records = [Record("1", "a", "x", "y"), Record("2", "b", "x" * 99, "y")]
    with pytest.raises(DataError, match=r"'b'.*20 tokens.*1 are longer"):
        encode(records, tiny_tokenizer, ["a", "b"], prompt_format=PromptFormat(""), max_length=20)
    with pytest.raises(DataError, match="'a'"):
        encode([], tiny_tokenizer, ["a"], prompt_format=PromptFormat(""), max_length=20)


def test_an_unknown_task_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"\['c'\]"):
        encode(
            [Record("1", "c", "x", "y")],
            tiny_tokenizer,
            ["a"],
            prompt_format=PromptFormat(""),
            max_length=20,
        )
