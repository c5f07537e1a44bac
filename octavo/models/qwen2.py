"""Qwen2 and Qwen2.5 (arXiv 2407.10671): Llama with a bias on queries, keys and values."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.blocks import AttentionShape
from octavo.models.hf_config import HFConfig
from octavo.models.llama import LlamaForCausalLM


class Qwen2ForCausalLM(LlamaForCausalLM):
    def attention_shape(self, hf: HFConfig) -> AttentionShape:
        return replace(super().attention_shape(hf), qkv_bias=True, output_bias=False)
