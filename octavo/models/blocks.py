"""Blocks that several decoder architectures share: attention with rotary embeddings, the gated MLP, the stack."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from octavo.layers.activation import GATED_ACTIVATIONS
from octavo.layers.attention import Attention
from octavo.layers.context import ForwardContext
from octavo.layers.embedding import Embedding
from octavo.layers.linear import Linear
from octavo.layers.norm import GemmaRMSNorm, HeadNorm, RMSNorm
from octavo.layers.rotary import Rotation
from octavo.models.base import WeightMap

# Names of Llama-like checkpoints: separate projections that the model multiplies as one.
LLAMA_WEIGHT_MAP = WeightMap(
    stacked={
        "q_proj": ("qkv_proj", 0),
        "k_proj": ("qkv_proj", 1),
        "v_proj": ("qkv_proj", 2),
        "gate_proj": ("gate_up_proj", 0),
        "up_proj": ("gate_up_proj", 1),
    },
    skip=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),  # derived from the config
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """The numbers of an attention block that all layers of a model share."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float  # of the scores before the softmax
    qkv_bias: bool = False
    output_bias: bool = False
    logits_soft_cap: float | None = None


class RotaryAttention(nn.Module):
    """x -> q, k, v; norm of each head of q and k where the architecture has one; rotation; attention; output."""

    def __init__(
        self,
        shape: AttentionShape,
        layer_id: int,
        sliding_window: int | None,
        head_norms: tuple[HeadNorm, HeadNorm] | None = None,
    ) -> None:
        super().__init__()
        self.q_size, self.kv_size = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        self.head_dim = shape.head_dim
        self.qkv_proj = Linear(shape.hidden_size, (self.q_size, self.kv_size, self.kv_size), bias=shape.qkv_bias)
        self.o_proj = Linear(self.q_size, shape.hidden_size, bias=shape.output_bias)
        self.q_norm: HeadNorm | None
        self.k_norm: HeadNorm | None
        self.q_norm, self.k_norm = head_norms or (None, None)
        self.attn = Attention(
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            shape.scale,
            layer_id,
            sliding_window=sliding_window,
            logits_soft_cap=shape.logits_soft_cap,
        )

    def forward(
        self,
        x: Tensor,
        rotate: Rotation,
        ctx: ForwardContext,
        *,
        norm: RMSNorm | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """`norm` of x comes first; the result is added to `residual`, in place."""
        qkv: Tensor = self.qkv_proj(x, norm=norm)
        norms = (self.q_norm, self.k_norm) if self.q_norm is not None and self.k_norm is not None else None
        attended = self.attn.rotated(qkv, rotate, norms, ctx)
        out: Tensor = self.o_proj(attended, residual=residual)
        return out


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str, *, bias: bool = False) -> None:
        super().__init__()
        gate = GATED_ACTIVATIONS[activation]
        self.gate_up_proj = Linear(hidden_size, (intermediate_size, intermediate_size), bias=bias, gate=gate)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x: Tensor, *, norm: RMSNorm | None = None, residual: Tensor | None = None) -> Tensor:
        """`norm` of x comes first; the result is added to `residual`, in place."""
        out: Tensor = self.down_proj(self.gate_up_proj(x, norm=norm), residual=residual)
        return out


class PreNormLayer(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x)), both in place."""

    def __init__(self, hidden_size: int, eps: float, self_attn: RotaryAttention, mlp: GatedMLP) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(hidden_size, eps)
        self.self_attn = self_attn
        self.post_attention_layernorm = RMSNorm(hidden_size, eps)
        self.mlp = mlp

    def forward(self, x: Tensor, rotate: Rotation, ctx: ForwardContext) -> Tensor:
        x = self.self_attn(x, rotate, ctx, norm=self.input_layernorm, residual=x)
        out: Tensor = self.mlp(x, norm=self.post_attention_layernorm, residual=x)
        return out


class DecoderStack(nn.Module):
    """The part of a checkpoint whose names begin with `model.`: embedding, layers, last norm."""

    def __init__(self, embed_tokens: Embedding, layers: list[nn.Module], norm: RMSNorm | GemmaRMSNorm) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.layers = nn.ModuleList(layers)
        self.norm = norm
