"""Gemma 3, text only (arXiv 2503.19786): local and global layers in turn, four norms a layer, norms on heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from octavo.layers.activation import GATED_ACTIVATIONS
from octavo.layers.context import ForwardContext
from octavo.layers.elementwise import Add, Scale
from octavo.layers.embedding import Embedding, LMHead
from octavo.layers.norm import GemmaRMSNorm
from octavo.layers.rotary import RotaryEmbedding, Rotation
from octavo.models.base import CausalLM, WeightMap
from octavo.models.blocks import LLAMA_WEIGHT_MAP, AttentionShape, DecoderStack, GatedMLP, RotaryAttention
from octavo.models.hf_config import HFConfig


class Gemma3Layer(nn.Module):
    """x += norm(attention(norm(x))); x += norm(mlp(norm(x)))."""

    def __init__(self, hidden_size: int, eps: float, self_attn: RotaryAttention, mlp: GatedMLP) -> None:
        super().__init__()
        self.input_layernorm = GemmaRMSNorm(hidden_size, eps)
        self.self_attn = self_attn
        self.post_attention_layernorm = GemmaRMSNorm(hidden_size, eps)
        self.pre_feedforward_layernorm = GemmaRMSNorm(hidden_size, eps)
        self.mlp = mlp
        self.post_feedforward_layernorm = GemmaRMSNorm(hidden_size, eps)
        self.add = Add()

    def forward(self, x: Tensor, rotate: Rotation, ctx: ForwardContext) -> Tensor:
        attended: Tensor = self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), rotate, ctx))
        x = self.add(attended, x)
        out: Tensor = self.add(self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x))), x)
        return out


class EmbeddingScale(Scale):
    """Gemma was trained with this factor rounded to the dtype of the weights (25.25 for 640 in bfloat16)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size**0.5)

    def create_weights(self, dtype: torch.dtype, device: torch.device) -> None:
        self.factor = torch.tensor(self.factor, dtype=dtype).item()


class Gemma3ForCausalLM(CausalLM):
    """Local layers rotate with base `rope_local_base_freq` and no scaling, global ones with `rope_theta`."""

    weight_map: ClassVar[WeightMap] = LLAMA_WEIGHT_MAP

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        hf = HFConfig(config)
        hf.require("use_bidirectional_attention", False)
        eps, intermediate_size = hf.number("rms_norm_eps"), hf.integer("intermediate_size")
        activation = hf.choice("hidden_activation", GATED_ACTIVATIONS)
        num_heads, num_kv_heads = hf.head_counts()
        bias = hf.flag("attention_bias", False)
        shape = AttentionShape(
            hidden_size=hf.integer("hidden_size"),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=hf.integer("head_dim"),
            scale=hf.number("query_pre_attn_scalar") ** -0.5,
            qkv_bias=bias,
            output_bias=bias,
            logits_soft_cap=hf.optional_number("attn_logit_softcapping"),
        )

        def layer(layer_id: int, window: int | None) -> Gemma3Layer:
            norms = GemmaRMSNorm(shape.head_dim, eps), GemmaRMSNorm(shape.head_dim, eps)
            attention = RotaryAttention(shape, layer_id, window, norms)
            mlp = GatedMLP(shape.hidden_size, intermediate_size, activation)
            return Gemma3Layer(shape.hidden_size, eps, attention, mlp)

        windows = hf.windows()
        self.is_local = [window is not None for window in windows]
        embed_tokens = Embedding(hf.integer("vocab_size"), shape.hidden_size)
        layers = [layer(layer_id, window) for layer_id, window in enumerate(windows)]
        self.model = DecoderStack(embed_tokens, list(layers), GemmaRMSNorm(shape.hidden_size, eps))
        self.scale_embedding = EmbeddingScale(shape.hidden_size)
        self.rotary = RotaryEmbedding(hf.rope())
        self.local_rotary = RotaryEmbedding(hf.rope("rope_local_base_freq", scaled=False))
        self.lm_head = LMHead(embed_tokens, tied=hf.flag("tie_word_embeddings", True))
        self.final_soft_cap = hf.optional_number("final_logit_softcapping")

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.scale_embedding(self.model.embed_tokens(input_ids))
        rotate, rotate_local = self.rotary(positions, x.dtype), self.local_rotary(positions, x.dtype)
        for layer, is_local in zip(self.model.layers, self.is_local, strict=True):
            x = layer(x, rotate_local if is_local else rotate, ctx)
        normed: Tensor = self.model.norm(x)
        return normed

    def compute_logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(hidden)
        if self.final_soft_cap is None:
            return logits
        return logits.div_(self.final_soft_cap).tanh_().mul_(self.final_soft_cap)
