"""Models and a tokenizer so small that a test makes them on the spot: random weights, real code."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from cgclora.models.backbone import Backbone, fingerprint

VOCABULARY = 300
_WIDTH = 32

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": _WIDTH,
    "intermediate_size": 2 * _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": _WIDTH // 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # ten times the usual: two random models must not agree by accident
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
ARCHITECTURES: dict[str, dict[str, object]] = {
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": True},
    "llama": {"tie_word_embeddings": False},
    "glm": {"tie_word_embeddings": False},  # gate and up projection in one linear layer
    "gemma3": {
        "model_type": "gemma3_text",
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_neox": {"tie_word_embeddings": False},  # query, key and value in one linear layer
}

_SENTENCES = [
    "今天天气很好，我们去公园散步。",
    "这句话说的是什么意思？请用一句话回答。",
    "头痛和发热是感冒的常见症状。",
    "The cat sat on the mat, and the dog looked on.",
    "Is this sentence about health or about the weather?",
]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `VOCABULARY` tokens: any text goes in and comes back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<eos>", "<bos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES * 4, trainer)
    tokenizer.post_processor = starts_with_bos(tokenizer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )


def starts_with_bos(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    """What adds the start token to a text, as in Gemma and Llama."""
    special = [("<bos>", tokenizer.token_to_id("<bos>"))]
    return processors.TemplateProcessing("<bos> $A", None, special)


def make_model(architecture: str = "qwen2", *, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A frozen random model in eval mode; the same seed gives the same weights."""
    settings = {"model_type": architecture} | _COMMON | ARCHITECTURES[architecture] | changes
    config = AutoConfig.for_model(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def make_backbone(architecture: str = "qwen2", *, seed: int = 0) -> Backbone:
    """`make_model` and `make_tokenizer` as `load_backbone` would return them."""
    model = make_model(architecture, seed=seed)
    return Backbone(model, make_tokenizer(), f"tiny-{architecture}", fingerprint(model))


def save_backbone(folder: Path, architecture: str = "qwen2", *, seed: int = 0) -> Path:
    """Save model and tokenizer as a hub snapshot would lie on disk; returns `folder`."""
    make_model(architecture, seed=seed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
