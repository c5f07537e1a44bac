"""Configurations that the models do not know are refused, with the key and what it may be."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.errors import ModelError, UnsupportedModelError
from octavo.models.registry import ARCHITECTURES, get_model_class

LLAMA: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 32,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "layer_types": ["full_attention", "full_attention"],
    "sliding_window": None,
}
GEMMA3 = LLAMA | {"hidden_activation": "gelu_pytorch_tanh", "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 4}
OPT: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "ffn_dim": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "word_embed_proj_dim": 8,
    "activation_function": "relu",
}
COMPLETE = {"LlamaForCausalLM": LLAMA, "Gemma3ForCausalLM": GEMMA3, "OPTForCausalLM": OPT}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_registry_names_classes(architecture: str) -> None:
    assert get_model_class(architecture).__name__ == architecture


def test_unknown_architecture() -> None:
    with pytest.raises(UnsupportedModelError, match="unknown architecture 'LLaMAForCausalLM'; did you mean 'LlamaFor"):
        get_model_class("LLaMAForCausalLM")


@pytest.mark.parametrize(("architecture", "key"), [(name, key) for name, config in COMPLETE.items() for key in config])
def test_missing_value(architecture: str, key: str) -> None:
    """Without a value that it needs, a model is not built; the others have a meaning when absent."""
    config = {name: value for name, value in COMPLETE[architecture].items() if name != key}
    optional = {"rope_scaling", "sliding_window"} | ({"hidden_act"} if architecture == "Gemma3ForCausalLM" else set())
    if key in optional:
        assert len(get_model_class(architecture)(config).attention_layers()) == 2
    else:
        with pytest.raises(ModelError, match=f"{key} .*the config has nothing"):
            get_model_class(architecture)(config)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("LlamaForCausalLM", {"hidden_act": "relu6"}, "hidden_act .* must be gelu or .* or silu; .* has 'relu6'"),
        ("LlamaForCausalLM", {"hidden_size": "8"}, "hidden_size .* whole number above 0; the config has '8'"),
        ("LlamaForCausalLM", {"num_hidden_layers": 0}, "num_hidden_layers .* whole number above 0"),
        ("LlamaForCausalLM", {"num_attention_heads": True}, "num_attention_heads .* whole number above 0"),
        ("LlamaForCausalLM", {"rms_norm_eps": "small"}, "rms_norm_eps .* must be a number"),
        ("LlamaForCausalLM", {"attention_bias": 1}, "attention_bias .* true or false"),
        ("LlamaForCausalLM", {"num_attention_heads": 3, "num_key_value_heads": 2}, "a divisor of num_attention_heads"),
        ("LlamaForCausalLM", {"layer_types": ["full_attention"]}, "layer_types .* list of num_hidden_layers"),
        ("LlamaForCausalLM", {"layer_types": ["linear_attention"] * 2}, "layer_types .* has .'linear_attention'"),
        ("MistralForCausalLM", {"layer_types": ["sliding_attention"] * 2}, "sliding_window .* whole number"),
        ("LlamaForCausalLM", {"rope_scaling": "linear"}, "rope_scaling .* a table"),
        ("LlamaForCausalLM", {"rope_scaling": {"rope_type": "su"}}, "unknown rope_type 'su'"),
        ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, "partial_rotary_factor .* the only value"),
        ("LlamaForCausalLM", {"head_dim": 5}, "head_dim .* even"),
        ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention .* False"),
        ("OPTForCausalLM", {"activation_function": "silu"}, "activation_function .* gelu or relu"),
        ("OPTForCausalLM", {"num_attention_heads": 3}, "must be a multiple of num_attention_heads"),
        ("OPTForCausalLM", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
    ],
)
def test_refused_value(architecture: str, changes: dict[str, Any], message: str) -> None:
    config = COMPLETE.get(architecture, LLAMA) | changes
    with pytest.raises(ModelError, match=message):
        get_model_class(architecture)(config)
