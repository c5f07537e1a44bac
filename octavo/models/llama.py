"""Llama (arXiv 2302.13971, 2307.09288, 2407.21783), and the architectures that differ from it by a line or two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from octavo.layers.activation import GATED_ACTIVATIONS
from octavo.layers.context import ForwardContext
from octavo.layers.embedding import Embedding, LMHead
from octavo.layers.norm import RMSNorm
from octavo.layers.rotary import RotaryEmbedding
from octavo.models.base import CausalLM, WeightMap
from octavo.models.blocks import (
    LLAMA_WEIGHT_MAP,
    AttentionShape,
    DecoderStack,
    GatedMLP,
    PreNormLayer,
    RotaryAttention,
)
from octavo.models.hf_config import HFConfig


class LlamaForCausalLM(CausalLM):
    """Pre-norm decoder with RMSNorm, rotary embeddings, grouped-query attention and a gated MLP."""

    weight_map: ClassVar[WeightMap] = LLAMA_WEIGHT_MAP

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        hf = HFConfig(config)
        shape = self.attention_shape(hf)
        intermediate_size, eps = hf.integer("intermediate_size"), hf.number("rms_norm_eps")
        activation = hf.choice("hidden_act", GATED_ACTIVATIONS)
        mlp_bias = hf.flag("mlp_bias", False)

        def layer(layer_id: int, window: int | None) -> PreNormLayer:
            norms = self.head_norms(shape.head_dim, eps)
            attention = RotaryAttention(shape, layer_id, window, norms)
            mlp = GatedMLP(shape.hidden_size, intermediate_size, activation, bias=mlp_bias)
            return PreNormLayer(shape.hidden_size, eps, attention, mlp)

        embed_tokens = Embedding(hf.integer("vocab_size"), shape.hidden_size)
        layers = [layer(layer_id, window) for layer_id, window in enumerate(hf.windows())]
        self.model = DecoderStack(embed_tokens, list(layers), RMSNorm(shape.hidden_size, eps))
        self.rotary = RotaryEmbedding(hf.rope())
        self.lm_head = LMHead(embed_tokens, tied=hf.flag("tie_word_embeddings", False))

    def attention_shape(self, hf: HFConfig) -> AttentionShape:
        num_heads, num_kv_heads = hf.head_counts()
        bias = hf.flag("attention_bias", False)
        return AttentionShape(
            hidden_size=hf.integer("hidden_size"),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=hf.integer("head_dim"),
            scale=hf.integer("head_dim") ** -0.5,
            qkv_bias=bias,
            output_bias=bias,
        )

    def head_norms(self, head_dim: int, eps: float) -> tuple[RMSNorm, RMSNorm] | None:
        """Norms of the query and the key heads of a layer; Llama has none."""
        return None

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x: Tensor = self.model.embed_tokens(input_ids)
        rotate = self.rotary(positions, x.dtype)
        for layer in self.model.layers:
            x = layer(x, rotate, ctx)
        normed: Tensor = self.model.norm(x)
        return normed

    def compute_logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(hidden)
        return logits


class MistralForCausalLM(LlamaForCausalLM):
    """Llama with a sliding window (arXiv 2310.06825), which `layer_types` of the configuration says."""
