"""OPT (arXiv 2205.01068): learned positions, LayerNorm with bias, a plain MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from octavo.errors import ModelError
from octavo.layers.activation import ACTIVATIONS, Activation
from octavo.layers.attention import Attention
from octavo.layers.context import ForwardContext
from octavo.layers.elementwise import Add
from octavo.layers.embedding import Embedding, LMHead
from octavo.layers.linear import Linear
from octavo.layers.norm import LayerNorm
from octavo.models.base import CausalLM, WeightMap
from octavo.models.hf_config import HFConfig

POSITION_OFFSET = 2  # the first two rows of the position table belong to the padding of the original code


class OPTAttention(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, layer_id: int, *, bias: bool) -> None:
        super().__init__()
        head_dim = hidden_size // num_heads
        self.qkv_proj = Linear(hidden_size, (hidden_size, hidden_size, hidden_size), bias=bias)
        self.attn = Attention(num_heads, num_heads, head_dim, head_dim**-0.5, layer_id)
        self.out_proj = Linear(hidden_size, hidden_size, bias=bias)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv_proj(x).chunk(3, dim=-1)
        out: Tensor = self.out_proj(self.attn(q, k, v, ctx))
        return out


class OPTLayer(nn.Module):
    """Norms before attention and MLP, or (350m) after them."""

    def __init__(self, hf: HFConfig, hidden_size: int, num_heads: int, layer_id: int) -> None:
        super().__init__()
        bias, ffn_dim = hf.flag("enable_bias", True), hf.integer("ffn_dim")
        self.norm_before = hf.flag("do_layer_norm_before", True)
        self.self_attn = OPTAttention(hidden_size, num_heads, layer_id, bias=bias)
        self.self_attn_layer_norm = LayerNorm(hidden_size)
        self.fc1 = Linear(hidden_size, ffn_dim, bias=bias)
        self.activation = Activation(hf.choice("activation_function", ACTIVATIONS))
        self.fc2 = Linear(ffn_dim, hidden_size, bias=bias)
        self.final_layer_norm = LayerNorm(hidden_size)
        self.add = Add()

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        if self.norm_before:
            x = self.add(x, self.self_attn(self.self_attn_layer_norm(x), ctx))
            out: Tensor = self.add(x, self._mlp(self.final_layer_norm(x)))
            return out
        x = self.self_attn_layer_norm(self.add(x, self.self_attn(x, ctx)))
        out = self.final_layer_norm(self.add(x, self._mlp(x)))
        return out

    def _mlp(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.activation(self.fc1(x)))
        return out


class OPTDecoder(nn.Module):
    """The part of a checkpoint whose names begin with `model.decoder.`."""

    def __init__(self, hf: HFConfig) -> None:
        super().__init__()
        hidden_size, num_heads = hf.integer("hidden_size"), hf.integer("num_attention_heads")
        if hidden_size % num_heads:
            raise ModelError(f"hidden_size ({hidden_size}) must be a multiple of num_attention_heads ({num_heads})")
        projected = hf.integer("word_embed_proj_dim")
        self.embed_tokens = Embedding(hf.integer("vocab_size"), projected)
        self.embed_positions = Embedding(
            hf.integer("max_position_embeddings") + POSITION_OFFSET, hidden_size, first=POSITION_OFFSET
        )
        self.add = Add()
        self.project_in = Linear(projected, hidden_size) if projected != hidden_size else None
        self.layers = nn.ModuleList(
            OPTLayer(hf, hidden_size, num_heads, layer_id) for layer_id in range(hf.integer("num_hidden_layers"))
        )
        has_norm = hf.flag("do_layer_norm_before", True) and not hf.flag("_remove_final_layer_norm", False)
        self.final_layer_norm = LayerNorm(hidden_size) if has_norm else None
        self.project_out = Linear(hidden_size, projected) if projected != hidden_size else None

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x: Tensor = self.embed_tokens(input_ids)
        if self.project_in is not None:
            x = self.project_in(x)
        x = self.add(x, self.embed_positions(positions))
        for layer in self.layers:
            x = layer(x, ctx)
        if self.final_layer_norm is not None:
            x = self.final_layer_norm(x)
        if self.project_out is not None:
            x = self.project_out(x)
        return x


class OPTForCausalLM(CausalLM):
    """`forward` returns [T, word_embed_proj_dim], which the head takes."""

    weight_map: ClassVar[WeightMap] = WeightMap(
        rename={r"decoder\.(.*)": r"model.decoder.\1"},  # checkpoints that were saved without the head
        stacked={"q_proj": ("qkv_proj", 0), "k_proj": ("qkv_proj", 1), "v_proj": ("qkv_proj", 2)},
    )

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        hf = HFConfig(config)
        hf.require("layer_norm_elementwise_affine", True)
        decoder = OPTDecoder(hf)
        self.model = nn.ModuleDict({"decoder": decoder})
        self.lm_head = LMHead(decoder.embed_tokens, tied=hf.flag("tie_word_embeddings", True))

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        out: Tensor = self.model["decoder"](input_ids, positions, ctx)
        return out

    def compute_logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(hidden)
        return logits
