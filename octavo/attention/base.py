"""Attention over the paged KV cache: what a backend is asked to serve, what it is told each step, what it must do.

A KV cache of one layer is a tensor of blocks of `block_size` tokens. A request's tokens lie in the blocks that its row
of the block table names, in order. The layout inside a block is the backend's choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """What one attention layer needs of a backend."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype  # of the run: queries, new keys and values, results
    kv_cache_dtype: torch.dtype
    sliding_window: int | None  # tokens that a query sees, itself included; None: all
    logits_soft_cap: float | None  # scores become cap * tanh(scores / cap)
    block_size: int


@dataclass(slots=True, kw_only=True)
class AttentionMetadata:
    """One step, as one group of layers sees it: R requests, T new tokens, those of a request next to each other."""

    query_start_loc: Tensor  # int32 [R + 1], where each request's new tokens begin
    seq_lens: Tensor  # int32 [R], tokens in the cache after this step, new ones included
    block_table: Tensor  # int32 [R, max_blocks]; entries of blocks that a window has left behind are never read
    slot_mapping: Tensor  # int64 [T], block_id * block_size + offset of each new token
    num_reqs: int
    num_tokens: int
    max_query_len: int
    max_seq_len: int
    isolated: bool = False  # no request sees a token that another one writes in this step
    causal: bool = True  # False: new tokens see all tokens of their request
    host_starts: Tensor | None = None  # query_start_loc and seq_lens on the host, where it has them: some plan there
    host_lens: Tensor | None = None
    plan: Any = None  # the backend's own, from `build`


HeadNorms = tuple[
    Tensor, Tensor, float, float
]  # RMS norms: weights [head_dim] of q and k, epsilon, what is added to both


class AttentionLayer(Protocol):
    """What a backend reads of the layer that calls it."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    sliding_window: int | None
    logits_soft_cap: float | None


class AttentionBackend(ABC):
    """Serves all attention layers of a model.

    `specs` are those of the layers. The layers share dtypes, head_dim, num_kv_heads and block_size (`select_backend`
    checks it); sliding window and soft cap may differ. `kernels` are the platform's, for a backend that is made of
    them. The KV cache must be finite everywhere, also where nothing was written (allocate it zeroed): a masked key
    has weight 0, and 0 times not-a-number is not 0.
    """

    name: ClassVar[str]
    capturable: ClassVar[bool] = False  # its decode steps can be captured: no result is looked at on the host
    rotates: ClassVar[bool] = False  # it has `forward_rotated`

    def __init__(self, specs: Sequence[AttentionSpec], kernels: object) -> None:
        self.dtype = specs[0].dtype
        self.head_dim = specs[0].head_dim
        self.num_kv_heads = specs[0].num_kv_heads
        self.block_size = specs[0].block_size

    @classmethod
    @abstractmethod
    def declines(cls, spec: AttentionSpec, device: torch.device, kernels: object) -> str | None:
        """Why this backend can't serve `spec` on `device` with the platform's `kernels`; None when it can."""

    @staticmethod
    @abstractmethod
    def kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> tuple[int, ...]:
        """The shape of one layer's KV cache of that dtype."""

    @abstractmethod
    def build(self, metadata: AttentionMetadata, sliding_window: int | None) -> AttentionMetadata:
        """`metadata` with `plan` set: what all layers of a group share is computed here, once per step."""

    @abstractmethod
    def forward(
        self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, kv_cache: Tensor, metadata: AttentionMetadata
    ) -> Tensor:
        """Writes k and v [T, num_kv_heads, head_dim] to the cache, then attends with q [T, num_heads, head_dim].

        What is new is read as the cache holds it, so that a result does not depend on how a prompt was cut.

        Returns [T, num_heads, head_dim].
        """

    def forward_rotated(
        self,
        layer: AttentionLayer,
        qkv: Tensor,
        angles: tuple[Tensor, Tensor],
        norms: HeadNorms | None,
        kv_cache: Tensor,
        metadata: AttentionMetadata,
    ) -> Tensor:
        """`forward` for qkv [T, (num_heads + 2 * num_kv_heads) * head_dim] as the product gives it.

        The heads of q and k are normed, where there are `norms`, and rotated by cosines and sines [T, 1, half].
        """
        raise NotImplementedError
