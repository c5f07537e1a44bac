"""Qwen3 (arXiv 2505.09388): Llama with an RMSNorm on each head of queries and keys."""

from __future__ import annotations

from octavo.layers.norm import RMSNorm
from octavo.models.llama import LlamaForCausalLM


class Qwen3ForCausalLM(LlamaForCausalLM):
    def head_norms(self, head_dim: int, eps: float) -> tuple[RMSNorm, RMSNorm] | None:
        return RMSNorm(head_dim, eps), RMSNorm(head_dim, eps)
