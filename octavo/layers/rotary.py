"""Rotary position embeddings (RoPE, Su et al. 2021, arXiv 2104.09864) and the ways to stretch them.

Angles are computed for the positions of a step, once for all layers; no table of all positions is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from octavo.errors import ModelError, unknown_name
from octavo.layers.base import Kernels, Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """`theta` is the base of the wavelengths; `scaling` is `rope_scaling` of the configuration, {} for none."""

    head_dim: int
    theta: float
    max_position_embeddings: int
    scaling: dict[str, Any]

    def number(self, key: str, default: float | None = None) -> float:
        value = self.scaling.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            kind = self.scaling.get("rope_type")
            raise ModelError(f"rope_scaling of type {kind!r} needs a number {key!r}, got {value!r}; correct the config")
        return float(value)


@dataclass(slots=True)
class Rotation:
    """The rotation of one step's tokens: cos and sin [T, 1, head_dim / 2]."""

    cos: Tensor
    sin: Tensor
    kernels: Kernels

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, num_heads * head_dim], any number of heads -> rotated, same shape."""
        heads = x.view(x.shape[0], -1, 2 * self.cos.shape[-1])
        return self.kernels.rotary_embedding(heads, self.cos, self.sin).view(x.shape)


class RotaryEmbedding(Layer):
    """positions [T] -> Rotation.

    Raises:
        ModelError: `scaling` has an unknown `rope_type`, or lacks a number that its type needs.
    """

    inv_freq: Tensor

    def __init__(self, config: RopeConfig) -> None:
        super().__init__()
        kind = config.scaling.get("rope_type", "default")
        if kind not in _SCALINGS:
            raise ModelError(f"{unknown_name('rope_type', str(kind), _SCALINGS)} (rope_scaling of the config)")
        inv_freq, self.attention_factor = _SCALINGS[kind](config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def create_weights(self, dtype: torch.dtype, device: torch.device) -> None:
        self.inv_freq = self.inv_freq.to(device)  # float32 whatever the dtype of the run: positions are large

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        cos, sin = self.kernels.rotary_angles(positions, self.inv_freq, self.attention_factor, dtype)
        return Rotation(cos, sin, self.kernels)


def _inv_freq(head_dim: int, theta: float) -> Tensor:
    """theta^(-2i/head_dim) for i in 0 .. head_dim/2 - 1, float32."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def _default(config: RopeConfig) -> tuple[Tensor, float]:
    return _inv_freq(config.head_dim, config.theta), 1.0


def _linear(config: RopeConfig) -> tuple[Tensor, float]:
    """Position interpolation: positions divided by `factor` (Chen et al. 2023, arXiv 2306.15595)."""
    return _inv_freq(config.head_dim, config.theta) / config.number("factor"), 1.0


def _dynamic(config: RopeConfig) -> tuple[Tensor, float]:
    """NTK-aware scaling with a larger base (described in section 3.1 of YaRN, arXiv 2309.00071).

    The original formula grows the base with the length of the sequence. Keys in the cache would then have been rotated
    with another base than later queries, so the base is fixed here, as for max_position_embeddings * factor tokens.
    """
    factor, dim = config.number("factor"), config.head_dim
    theta = config.theta * (factor * factor - (factor - 1)) ** (dim / (dim - 2))
    return _inv_freq(dim, theta), 1.0


def _yarn(config: RopeConfig) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2023, arXiv 2309.00071, section 3): NTK by parts, and warmer attention.

    Wavelengths that turn more than `beta_fast` times in the original context stay, those that turn less than
    `beta_slow` times are interpolated, a linear ramp lies between. `mscale`, `mscale_all_dim` and `truncate` are
    the extensions that DeepSeek and gpt-oss checkpoints use.
    """
    dim, theta = config.head_dim, config.theta
    original = config.number("original_max_position_embeddings", config.max_position_embeddings)
    factor = config.number("factor", config.max_position_embeddings / original)

    def dimension_that_turns(num_turns: float) -> float:
        return dim * math.log(original / (num_turns * 2 * math.pi)) / (2 * math.log(theta))

    low = dimension_that_turns(config.number("beta_fast", 32))
    high = dimension_that_turns(config.number("beta_slow", 1))
    if config.scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    interpolated = ramp.clamp(0, 1)
    inv_freq = _inv_freq(dim, theta)
    inv_freq = inv_freq / factor * interpolated + inv_freq * (1 - interpolated)

    def warmth(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    mscale, mscale_all_dim = config.scaling.get("mscale"), config.scaling.get("mscale_all_dim")
    inferred = warmth(mscale) / warmth(mscale_all_dim) if mscale and mscale_all_dim else warmth(1.0)
    return inv_freq, config.number("attention_factor", inferred)


def _llama3(config: RopeConfig) -> tuple[Tensor, float]:
    """Llama 3.1 ("The Llama 3 Herd of Models", arXiv 2407.21783, section 3.4.2; formula of Meta's code).

    Wavelengths longer than original / low_freq_factor are interpolated, those shorter than original / high_freq_factor
    stay, and between them the two are mixed by wavelength.
    """
    factor, low, high = (config.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = config.number("original_max_position_embeddings", config.max_position_embeddings)
    inv_freq = _inv_freq(config.head_dim, config.theta)
    turns = original * inv_freq / (2 * math.pi)  # in the original context
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * inv_freq / factor + kept * inv_freq, 1.0


_SCALINGS: dict[str, Callable[[RopeConfig], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
}
