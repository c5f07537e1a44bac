"""From the tensors of a GGUF file to those of the Hugging Face checkpoint that it was made from.

GGUF has names of its own and, for two families, numbers of its own:

* llama: the rows of the query and key projections are reordered, so that the two numbers which RoPE rotates lie side
  by side. HF rotates the first half of a head against the second; the rows are put back, still quantized.
* gemma3: norm weights are stored with 1 added. HF's norms multiply by 1 + w; the 1 is taken off.

This module knows no files.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from octavo.quantization.gguf_tensor import GGUFTensor

ARCHITECTURES = ("gemma3", "llama", "qwen2", "qwen3")
"""The values of general.architecture that octavo reads. Mistral's files say llama."""

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
}
# The norm before the MLP is HF's post_attention_layernorm, but for Gemma, which has norms on both sides.
_BLOCK_NORMS = {
    "llama": {"ffn_norm": "post_attention_layernorm"},
    "qwen2": {"ffn_norm": "post_attention_layernorm"},
    "qwen3": {"ffn_norm": "post_attention_layernorm"},
    "gemma3": {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}


def hf_name(architecture: str, name: str) -> str:
    """The HF name of the GGUF tensor `name`. An unknown one keeps its name, so that the account of all names it."""
    top = re.fullmatch(r"(\w+)\.(weight|bias)", name)
    if top and top[1] in _TOP:
        return f"{_TOP[top[1]]}.{top[2]}"
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if block:
        part = {**_BLOCK, **_BLOCK_NORMS[architecture]}.get(block[2])
        if part:
            return f"model.layers.{block[1]}.{part}.{block[3]}"
    return name


def hf_tensor(
    architecture: str, name: str, tensor: Tensor | GGUFTensor, *, num_heads: int, num_kv_heads: int
) -> Tensor | GGUFTensor:
    """The numbers of the GGUF tensor `name` as HF has them; quantized ones stay quantized."""
    if architecture == "llama":
        projection = re.fullmatch(r"blk\.\d+\.attn_([qk])\.(weight|bias)", name)
        if projection:
            return _split_halves(tensor, num_heads if projection[1] == "q" else num_kv_heads)
    elif architecture == "gemma3" and name.endswith("norm.weight"):
        plain = tensor.dequantize() if isinstance(tensor, GGUFTensor) else tensor.float()
        return plain - 1
    return tensor


def _split_halves(tensor: Tensor | GGUFTensor, num_heads: int) -> Tensor | GGUFTensor:
    """Rows (head, i, half) -> (head, half, i): rotated pairs side by side -> first and second halves of each head."""
    order = torch.arange(tensor.shape[0]).view(num_heads, -1, 2).transpose(1, 2).flatten()
    return tensor.rows(order) if isinstance(tensor, GGUFTensor) else tensor[order]
