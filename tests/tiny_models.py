"""Folders with tiny models of random weights, one per architecture, made by transformers, and its greedy answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 160
CONTEXT = 256
_SHARED: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    "initializer_range": 0.25,
}
_GROUPED = _SHARED | {"num_key_value_heads": 2, "intermediate_size": 80}
_OPT = _SHARED | {"ffn_dim": 80, "init_std": 0.25, "word_embed_proj_dim": 64}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", _GROUPED | {"tie_word_embeddings": True}),
    "llama-yarn": ("Llama", _GROUPED | {"rope_parameters": _YARN}),
    "mistral": ("Mistral", _GROUPED | {"sliding_window": 24}),
    "qwen2": ("Qwen2", _GROUPED),
    "qwen3": ("Qwen3", _GROUPED | {"head_dim": 16}),
    "opt": ("OPT", _OPT),
    "opt-post-norm": ("OPT", _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 24}),
    "gemma3": (
        "Gemma3",
        _GROUPED
        | {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "sliding_window": 24,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
}


def build(name: str) -> Any:
    """The transformers model, in float32 and with norms that are not all ones."""
    family, values = CONFIGS[name]
    config_class = getattr(transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")
    torch.manual_seed(len(name))
    model = getattr(transformers, f"{family}ForCausalLM")(config_class(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def save(name: str, folder: Path, **options: Any) -> Path:
    build(name).save_pretrained(folder, **options)
    return folder


@cache
def _reference(name: str) -> Any:
    return build(name)


@torch.no_grad()
def greedy(name: str, prompt: tuple[int, ...], num_tokens: int) -> list[int]:
    """transformers' greedy continuation, each token from its own cached forward pass."""
    return _greedy(name, prompt, num_tokens)


@cache
def _greedy(name: str, prompt: tuple[int, ...], num_tokens: int) -> list[int]:
    model = _reference(name)
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=num_tokens, eos_token_id=None
    )
    found: list[int] = out[0, len(prompt) :].tolist()
    return found
