"""What a model asks of a machine for a token, and what a machine gives at most. Plain numbers, no torch.

The device's side tells both, and `bench/floor.py` makes times of them. Arithmetic is named by what is multiplied: the
name of a dtype, such as "bfloat16" or "int8"; a multiplication and an addition are two operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCost:
    """Of all layers that see the same tokens of a request."""

    sliding_window: int | None  # tokens that a query sees, itself included; None: all
    kv_bytes: int  # of the KV cache, per token
    operations: int  # per new token and token that it sees


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """Of a loaded model. Weights count with the bytes that they have in memory."""

    layer_bytes: int  # weights that every step reads
    head_bytes: int  # weights that a step reads which makes logits
    embedding_bytes: int  # per token: its rows
    layer_operations: Mapping[str, int]  # products with weights, per token, by arithmetic
    head_operations: Mapping[str, int]  # per token that is sampled
    attention: tuple[AttentionCost, ...]
    attention_arithmetic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRates:
    """Measured, not promised: what a device did just now when it did one thing only. Per second."""

    read_bytes: float
    operations: Mapping[str, float]  # by arithmetic
    barrier_seconds: float | None = None  # in which the threads of a team meet; None: there is no team

    def rate(self, arithmetic: str) -> float:
        """Operations per second. What the device has no instructions for is done in float32."""
        return self.operations.get(arithmetic) or self.operations["float32"]

    def describe(self) -> str:
        """One line."""
        rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in self.operations.items())
        barrier = "" if self.barrier_seconds is None else f"barrier {self.barrier_seconds * 1e9:.0f} ns, "
        return f"{barrier}read {self.read_bytes / 1e9:.1f} GB/s, {rates} Gop/s"
