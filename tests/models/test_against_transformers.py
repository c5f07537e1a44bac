"""Logits of every architecture, driven through the paged cache in several ways, against transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from all_kernels import CPP_KERNELS
from models.paged_runner import PagedRunner
from models.transformers_reference import reference_logits, reference_model, same_model
from torch import Tensor
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCAB_SIZE, LENGTH = 61, 23
BLOCK_SIZES = {"CPU_ATTN": 16, "TORCH_ATTN": 4, "TORCH_SDPA": 4}
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPT: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "ffn_dim": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 64,
}
GEMMA3: dict[str, Any] = SMALL | {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 6}
GEMMA3 |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "tie_word_embeddings": True}


def llama(**changes: Any) -> LlamaConfig:
    return LlamaConfig(**SMALL | changes)


def rope(kind: str, **numbers: float) -> LlamaConfig:
    """A Llama whose positions in these tests go beyond the original length."""
    parameters = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **numbers}
    return llama(rope_parameters=parameters, max_position_embeddings=64)


def gemma3(**changes: Any) -> Gemma3TextConfig:
    return Gemma3TextConfig(**GEMMA3 | changes)


CONFIGS: dict[str, PretrainedConfig] = {
    "llama": llama(),
    "llama-tied": llama(tie_word_embeddings=True),
    "llama-biases": llama(attention_bias=True, mlp_bias=True),
    "llama-head-dim": llama(head_dim=48, num_key_value_heads=1),
    "llama-gelu": llama(hidden_act="gelu", num_key_value_heads=4),
    "llama-theta": llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama-linear": rope("linear"),
    "llama-yarn": rope("yarn", original_max_position_embeddings=16),
    "llama-yarn-ramp": rope("yarn", original_max_position_embeddings=16, beta_fast=4.0, beta_slow=0.3),
    "llama-yarn-mscale": rope("yarn", original_max_position_embeddings=16, mscale=1.2, mscale_all_dim=0.7),
    "llama-yarn-factor": rope("yarn", original_max_position_embeddings=16, attention_factor=1.3, truncate=False),
    "llama-llama3": rope("llama3", original_max_position_embeddings=16, low_freq_factor=1.0, high_freq_factor=4.0),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
    "mistral-window": MistralConfig(**SMALL, sliding_window=7),
    "qwen2": Qwen2Config(**SMALL | {"tie_word_embeddings": True}),
    "qwen2-window": Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": Qwen3Config(**SMALL, head_dim=16),
    "opt": OPTConfig(**OPT),
    "opt-post-norm": OPTConfig(**OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 20}),
    "opt-project": OPTConfig(**OPT | {"word_embed_proj_dim": 20, "enable_bias": False}),
    "opt-no-last-norm": OPTConfig(**OPT, _remove_final_layer_norm=True, tie_word_embeddings=False),
    "gemma3": gemma3(),
    "gemma3-caps": gemma3(attn_logit_softcapping=3.0, final_logit_softcapping=2.0),
    "gemma3-scaled": gemma3(
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def reference(request: pytest.FixtureRequest) -> PreTrainedModel:
    return reference_model(CONFIGS[request.param])


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(3, VOCAB_SIZE, (LENGTH,), generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=[name for name in BLOCK_SIZES if name != "CPU_ATTN" or CPP_KERNELS])
def runner(request: pytest.FixtureRequest, reference: PreTrainedModel) -> PagedRunner:
    block_size = BLOCK_SIZES[request.param]
    model = same_model(reference)
    return PagedRunner(model, num_requests=4, max_len=LENGTH + 1, block_size=block_size, backend=request.param)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-4


def test_prompt_chunks_and_decode(runner: PagedRunner, reference: PreTrainedModel, tokens: Tensor) -> None:
    """The same tokens as one prompt, as chunks, and one by one."""
    expected = reference_logits(reference, tokens)
    assert expected.std() > 0.1  # else agreement would mean little
    assert_same(runner.step([(0, tokens)])[0], expected)
    chunks = [runner.step([(1, chunk)])[0] for chunk in tokens.split((8, 1, 3, 11))]
    assert_same(torch.cat(chunks), expected)
    singles = [runner.step([(2, token)])[0] for token in tokens.split(1)]
    assert_same(torch.cat(singles), expected)


def test_mixed_batch(runner: PagedRunner, reference: PreTrainedModel, tokens: Tensor) -> None:
    """Four requests that begin, go on in chunks and decode side by side, some at the border of a block."""
    prompts = [tokens, tokens.flip(0), tokens.roll(3), tokens.roll(9)]
    expected = [reference_logits(reference, prompt) for prompt in prompts]
    steps = [{0: 8, 1: 4}, {0: 1, 1: 1, 2: 16, 3: 2}, {3: 1, 1: 3, 0: 1, 2: 1}, {2: 1, 0: 1, 1: 1}, {0: 7, 3: 20}]
    done = [0] * len(prompts)
    for step in steps:
        new = [(row, prompts[row][done[row] : done[row] + count]) for row, count in step.items()]
        for (row, part), logits in zip(new, runner.step(new), strict=True):
            assert_same(logits, expected[row][done[row] : done[row] + len(part)])
            done[row] += len(part)
