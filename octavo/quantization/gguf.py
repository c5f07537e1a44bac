"""Linear layers whose checkpoint is a GGUF file: shards are kept in the file's form until the layer is complete.

The shards of one layer may have different types (Q4_K beside Q6_K, or plain float), so each is kept by itself. When
the layer is complete they are expanded into one weight in the dtype of the run.
"""

from __future__ import annotations

from octavo.quantization.base import LinearLayer, Weight
from octavo.quantization.unquantized import UnquantizedLinearMethod


class GGUFLinearMethod(UnquantizedLinearMethod):
    """One object per layer: it holds the layer's shards while they arrive."""

    def __init__(self) -> None:
        self.shards: dict[int, Weight] = {}

    def load_shard(self, linear: LinearLayer, shard: int, tensor: Weight) -> None:
        self.shards[shard] = tensor

    def finish_loading(self, linear: LinearLayer) -> None:
        for shard, tensor in self.shards.items():
            super().load_shard(linear, shard, tensor)
        self.shards.clear()
