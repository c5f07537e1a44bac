"""Rotary frequencies of every scaling against transformers, and the rotation against complex numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from octavo.errors import ModelError
from octavo.layers.rotary import RopeConfig, RotaryEmbedding

HEAD_DIM, MAX_POSITIONS = 64, 4096


def rotary(**scaling: Any) -> RotaryEmbedding:
    config = RopeConfig(head_dim=HEAD_DIM, theta=10000.0, max_position_embeddings=MAX_POSITIONS, scaling=scaling)
    return RotaryEmbedding(config)


def transformers_frequencies(seq_len: int | None = None, **scaling: Any) -> tuple[torch.Tensor, float]:
    config = LlamaConfig(
        hidden_size=HEAD_DIM * 2,
        num_attention_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_theta": 10000.0, **scaling},
    )
    frequencies: tuple[torch.Tensor, float] = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, None, seq_len=seq_len)
    return frequencies


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 2.5},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.5, "high_freq_factor": 3.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
        {"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 100, "beta_fast": 8, "beta_slow": 2},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "truncate": False},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "attention_factor": 0.9},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "mscale": 0.7},
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
            "mscale": 0.7,
            "mscale_all_dim": 1.0,
        },
    ],
)
def test_scalings(scaling: dict[str, Any]) -> None:
    scaling.setdefault("original_max_position_embeddings", MAX_POSITIONS)
    ours = rotary(**scaling)
    inv_freq, attention_factor = transformers_frequencies(**scaling)
    torch.testing.assert_close(ours.inv_freq, inv_freq, rtol=1e-6, atol=0)
    assert ours.attention_factor == pytest.approx(attention_factor)


def test_dynamic_has_the_base_of_the_longest_sequence() -> None:
    ours = rotary(rope_type="dynamic", factor=4.0)
    inv_freq, _ = transformers_frequencies(4 * MAX_POSITIONS, rope_type="dynamic", factor=4.0)
    torch.testing.assert_close(ours.inv_freq, inv_freq, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scaling", [{}, {"rope_type": "default"}, {"rope_type": "yarn", "factor": 4.0}])
def test_rotation_turns_pairs(scaling: dict[str, Any]) -> None:
    embedding, positions = rotary(**scaling), torch.tensor([0, 1, 7, 4000])
    x = torch.randn(4, 3 * HEAD_DIM)
    rotated = embedding(positions, torch.float32)(x).view(4, 3, HEAD_DIM)
    first, second = x.view(4, 3, 2, HEAD_DIM // 2).unbind(dim=2)
    angles = positions[:, None, None] * embedding.inv_freq
    turned = torch.complex(first, second) * torch.polar(torch.full_like(angles, embedding.attention_factor), angles)
    torch.testing.assert_close(rotated, torch.cat([turned.real, turned.imag], dim=-1), rtol=1e-5, atol=1e-5)


def test_frequencies_stay_float32() -> None:
    embedding = rotary()
    embedding.create_weights(torch.bfloat16, torch.device("cpu"))
    assert embedding.inv_freq.dtype == torch.float32
    assert embedding(torch.tensor([5]), torch.bfloat16).cos.dtype == torch.bfloat16


def test_unknown_type() -> None:
    with pytest.raises(ModelError, match="unknown rope_type 'llama'; did you mean 'llama3'"):
        rotary(rope_type="llama", factor=2.0)


@pytest.mark.parametrize("factor", [None, "8", True])
def test_missing_number(factor: Any) -> None:
    with pytest.raises(ModelError, match="rope_scaling of type 'llama3' needs a number 'factor', got"):
        rotary(rope_type="llama3", factor=factor, low_freq_factor=1.0, high_freq_factor=4.0)
