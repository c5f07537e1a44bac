"""ForwardContext: what a forward pass needs beside tokens and positions. It is passed along, never kept."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from octavo.attention.base import AttentionMetadata


@dataclass(slots=True)
class ForwardContext:
    metadata: tuple[AttentionMetadata, ...]  # one per KV-cache group
    kv_caches: list[Tensor]  # one per layer id
