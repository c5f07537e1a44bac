"""What a loaded model costs: bytes that a step reads, operations of a token. It knows layers, no architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from octavo.cost import AttentionCost, ModelCost
from octavo.layers.base import Layer
from octavo.layers.embedding import Embedding, LMHead
from octavo.layers.linear import Linear
from octavo.models.base import CausalLM


def model_cost(model: CausalLM, kv_bytes_per_token: Sequence[int], dtype: torch.dtype) -> ModelCost:
    """The cost of a model whose layers are attached to kernels; `kv_bytes_per_token` by layer, `dtype` of the run."""
    layer_bytes = head_bytes = embedding_bytes = 0
    layer_operations: Counter[str] = Counter()
    head_operations: Counter[str] = Counter()
    for module in model.modules():
        if isinstance(module, LMHead):
            head_bytes += _linear_bytes(module)
            head_operations[module.multiply.arithmetic] += _linear_operations(module)
        elif isinstance(module, Linear):
            layer_bytes += _linear_bytes(module)
            layer_operations[module.multiply.arithmetic] += _linear_operations(module)
        elif isinstance(module, Embedding):
            embedding_bytes += module.embedding_dim * dtype.itemsize
        elif isinstance(module, Layer):
            layer_bytes += sum(parameter.nbytes for parameter in module.parameters(recurse=False))
    return ModelCost(
        layer_bytes=layer_bytes,
        head_bytes=head_bytes,
        embedding_bytes=embedding_bytes,
        layer_operations=dict(layer_operations),
        head_operations=dict(head_operations),
        attention=_attention(model, kv_bytes_per_token),
        attention_arithmetic=str(dtype).removeprefix("torch."),
    )


def kv_bytes_per_token(kv_caches: Sequence[Tensor], num_tokens: int) -> list[int]:
    """Of each layer, whose cache has room for `num_tokens` tokens."""
    return [cache.nbytes // num_tokens for cache in kv_caches]


def _attention(model: CausalLM, kv_bytes_per_token: Sequence[int]) -> tuple[AttentionCost, ...]:
    """One cost for each window: scores and weighted values of all heads, of the layers that share it."""
    kv_bytes: Counter[int | None] = Counter()
    operations: Counter[int | None] = Counter()
    for layer in model.attention_layers():
        kv_bytes[layer.sliding_window] += kv_bytes_per_token[layer.layer_id]
        operations[layer.sliding_window] += 2 * 2 * layer.num_heads * layer.head_dim
    return tuple(
        AttentionCost(sliding_window=window, kv_bytes=kv_bytes[window], operations=operations[window])
        for window in kv_bytes
    )


def _linear_bytes(linear: Linear) -> int:
    bias = 0 if linear.bias is None else linear.bias.nbytes
    return (linear.multiply.nbytes or linear.weight.nbytes) + bias


def _linear_operations(linear: Linear) -> int:
    return 2 * linear.in_features * sum(linear.shard_sizes)
