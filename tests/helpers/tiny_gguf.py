"""A GGUF file of a Gemma 3 so small that a test writes it on the spot."""

from pathlib import Path

import gguf
import numpy as np

WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"word{index}" for index in range(44))]


def write_gguf(
    path: Path,
    *,
    architecture: str = "gemma3",
    without: str = "",
    feed_forward: int = 96,
    seed: int = 0,
) -> None:
    """A tiny model of random numbers, in 8 bits but for its norms.

    Args:
        path: The file.
        architecture: What it says it is.
        without: A tensor that it lacks.
        feed_forward: The inner width that it says it has; 96 is true.
        seed: Of the numbers.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(32)
    writer.add_value_length(32)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(16)
    writer.add_rope_freq_base(5e5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(WORDS)
    writer.add_token_scores([0.5] * len(WORDS))
    writer.add_token_types([1] * len(WORDS))
    for number, add in enumerate(
        (
            writer.add_pad_token_id,
            writer.add_eos_token_id,
            writer.add_bos_token_id,
            writer.add_unk_token_id,
        )
    ):
        add(number)
    shapes = {"token_embd": (len(WORDS), 64), "output_norm": (64,)}
    for layer in range(2):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_q": (64, 64),
                "attn_k": (32, 64),
                "attn_v": (32, 64),
                "attn_output": (64, 64),
                "attn_q_norm": (32,),
                "attn_k_norm": (32,),
                "attn_norm": (64,),
                "post_attention_norm": (64,),
                "ffn_norm": (64,),
                "post_ffw_norm": (64,),
                "ffn_gate": (96, 64),
                "ffn_up": (96, 64),
                "ffn_down": (64, 96),
            }.items()
        }
    random = np.random.default_rng(seed)
    for name, shape in shapes.items():
        if name == without:
            continue
        values = random.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
