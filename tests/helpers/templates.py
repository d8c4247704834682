"""Small chat templates in the styles of known families, and a tokenizer that has their words."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from tests.helpers.tiny import make_model, make_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with the marks by which transformers knows what an assistant says."""

QWEN3 = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
"""Thoughts stand in the last turn alone, and a prompt that forbids them has empty ones."""

GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set told = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set told = messages %}{% endif %}"
    "{% for m in told %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ first if loop.first }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

GLM = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""No word ends a turn, and an answer begins with a line break that no prompt has."""

LLAMA = (
    "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

WORDS = [
    *("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    *("<start_of_turn>", "<end_of_turn>"),
    *("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
]

END_WORDS = ("<|im_end|>", "<end_of_turn>", "<|user|>", "<|eot_id|>")


def chat_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with the words of these templates, and one of them as its own."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": WORDS})
    tokenizer.chat_template = template
    return tokenizer


def save_chat_backbone(folder: Path, template: str, architecture: str = "qwen2") -> Path:
    """Save a tiny model that knows these words, its tokenizer, and what ends its answers."""
    tokenizer = chat_tokenizer(template)
    model = make_model(architecture, vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = sorted(ends_of(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ends_of(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """What ends an answer in one of these families, as its generation config would say."""
    return {tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(END_WORDS))}
