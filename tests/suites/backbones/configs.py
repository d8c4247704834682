"""A tiny config for a model type of transformers, made out of its defaults."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from cgclora.models.checkpoint import auto_class
from tests.helpers.tiny import VOCABULARY

MOST_PARAMETERS = 20_000_000
"""A larger model is not tiny: some size of its config is not known here."""

SMALL: dict[str, int] = {
    **{"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64},
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    **{"max_position_embeddings": 64, "sliding_window": 16, "embedding_size": 32},
    **{"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64},
    **{"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64},
    **{"ffn_dim": 64, "n_inner": 64, "d_inner": 64, "dim_ff": 64, "d_head": 8, "d_kv": 8},
    **{"num_decoder_layers": 2, "num_ngram_positions": 2, "depth": 2, "num_heads": 4},
    # mixtures of experts
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4},
    **{"num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2, "n_group": 1, "topk_group": 1},
    **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    **{"moe_shared_expert_intermediate_size": 16, "shared_intermediate_size": 16},
    **{"first_k_dense_replace": 1, "decoder_sparse_step": 1, "expert_ffn_hidden_size": 16},
    # latent attention and what picks its keys
    **{"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4},
    **{"v_head_dim": 8, "index_n_heads": 16, "index_head_dim": 8, "index_topk": 8},
    **{"index_kpool": 2},
    # linear attention and state spaces
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2},
    **{"linear_num_value_heads": 4, "linear_head_dim": 8, "linear_num_heads": 4},
    **{"state_size": 8, "ssm_state_size": 8, "mamba_d_state": 8, "mamba_d_head": 16},
    **{"mamba_n_heads": 4, "mamba_num_heads": 4, "mamba_head_dim": 16, "mamba_chunk_size": 8},
    **{"n_mamba_heads": 2, "chunk_size": 8, "n_groups": 1, "attention_window_size": 16},
    # per-layer inputs and the like
    **{"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8},
    **{"rotary_dim": 4, "laurel_rank": 4, "num_kv_shared_layers": 0, "adapter_rank": 4},
    **{"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
}
"""Sizes, by their names in most configs; a config takes those that it has as whole numbers."""

MULTIMODAL = (
    *("ernie4_5_vl_moe", "glm46v", "glm4v", "glm4v_moe", "glm5_next", "hunyuan_vl", "minicpmv4_6"),
    *("minicpmv4_7", "mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe"),
)
"""Families whose text model has no class of its own, so that the whole is loaded."""

LEFT = object()
"""Stands for a size that is left as it is."""

_SECTIONS = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
_THREE: dict[str, Any] = {"rope_parameters": _SECTIONS}
"""Positions of time, height and width."""

_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16}

OF_TYPE: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": _MAMBA | {"attn_layer_indices": [1], "num_hidden_layers": 2},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note": {"num_key_value_heads": LEFT},
    "dots3_note_text": {"num_key_value_heads": LEFT},
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 64},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "ernie4_5_vl_moe": {"text_config": _THREE | {"moe_intermediate_size": [16, 16]}},
    **{name: {"text_config": _THREE} for name in ("glm46v", "glm4v")},
    "glm4v_moe": {"text_config": {"rope_parameters": _SECTIONS | {"partial_rotary_factor": 1.0}}},
    "glm5_next": {
        "text_config": {"qk_rope_head_dim": 0},
        "vision_config": {"out_hidden_size": 32},
    },
    "hunyuan_vl": {"text_config": _THREE | {"head_dim": 8}},
    "qwen2_vl": {"text_config": _THREE, "vision_config": {"embed_dim": 32}},
    **{name: {"text_config": _THREE} for name in ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": _MAMBA | {"layer_types": ["mamba", "attention"], "num_hidden_layers": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "moe_topk": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "longcat_flash": {"head_dim": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "prophetnet": {"num_hidden_layers": LEFT},
    "reformer": {
        **{"is_decoder": True, "attn_layers": ["local", "lsh"], "num_buckets": 4},
        **{"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "attention_head_size": 8},
    },
    "xlnet": {"max_position_embeddings": LEFT},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What some model types need besides."""


def tiny_config(model_type: str) -> PretrainedConfig:
    """A config of a model of this type that is made in no time."""
    config = _tiny(CONFIG_MAPPING[model_type], OF_TYPE.get(model_type, {}))
    with torch.device("meta"):
        skeleton = auto_class(config).from_config(config)
    count = sum(parameter.numel() for parameter in skeleton.parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{count / 1e6:.0f} million parameters, of a size not known here")
    return config


def _tiny(kind: type[PretrainedConfig], special: dict[str, Any]) -> PretrainedConfig:
    default = kind()
    settings: dict[str, Any] = {}
    for name, value in SMALL.items():
        own = kind.attribute_map.get(name, name)
        if _is_size(default, own):
            settings[own] = value
    if hasattr(default, "qk_rope_head_dim"):
        settings.pop("head_dim", None)  # which is that one
        settings["num_key_value_heads"] = SMALL["num_attention_heads"]
    if len(set(getattr(default, "layer_types", None) or ())) > 1:
        settings[kind.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = 4
    for name, sub in kind.sub_configs.items():
        found = getattr(default, name, None)
        if found is not None:
            own = type(found) if sub is AutoConfig else sub
            settings[name] = _tiny(own, special.get(name, {})).to_dict()
    settings |= {name: value for name, value in special.items() if name not in kind.sub_configs}
    return kind(**{name: value for name, value in settings.items() if value is not LEFT})


def _is_size(config: PretrainedConfig, name: str) -> bool:
    """Whether a config has a whole number of this name, which may be chosen."""
    own = getattr(type(config), name, None)
    if isinstance(own, property) and own.fset is None:
        return False
    try:
        return type(getattr(config, name, None)) is int
    except RuntimeError:  # each layer has another one
        return False
