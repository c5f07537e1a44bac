"""CausalLM, what every architecture is; WeightMap, how names of a checkpoint become places in the model."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from octavo.layers.attention import Attention
from octavo.layers.base import Slot
from octavo.layers.context import ForwardContext


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightMap:
    """Names of tensors in a checkpoint -> layers and slots of the model. Names that nothing changes stay as they are.

    Patterns are regular expressions that must match the whole name.
    """

    rename: Mapping[str, str] = field(default_factory=dict)  # pattern -> replacement, the first that matches
    stacked: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # "q_proj" -> ("qkv_proj", 0)
    skip: tuple[str, ...] = ()  # tensors that the model does not need

    def resolve(self, name: str) -> tuple[str, Slot] | None:
        """The layer's path and the slot that tensor `name` fills; None for a tensor to skip."""
        if any(re.fullmatch(pattern, name) for pattern in self.skip):
            return None
        for pattern, replacement in self.rename.items():
            if match := re.fullmatch(pattern, name):
                name = match.expand(replacement)
                break
        path, _, parameter = name.rpartition(".")
        parent, _, layer = path.rpartition(".")
        if layer in self.stacked:
            stack, shard = self.stacked[layer]
            return f"{parent}.{stack}", Slot(parameter, shard)
        return path, Slot(parameter, 0)


class CausalLM(nn.Module, ABC):
    """A decoder that predicts the next token. Built from a canonical Hugging Face configuration, without memory."""

    weight_map: ClassVar[WeightMap]

    @abstractmethod
    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raises ModelError when `config` lacks a value or has one that the code does not know."""
        super().__init__()

    @abstractmethod
    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        """input_ids and positions, int64 [T] -> hidden states [T, hidden_size], after the last norm."""

    @abstractmethod
    def compute_logits(self, hidden: Tensor) -> Tensor:
        """hidden [N, hidden_size] -> logits [N, vocab_size]."""

    def attention_layers(self) -> list[Attention]:
        """In the order of `layer_id`, which counts from 0 without gaps."""
        found = [module for module in self.modules() if isinstance(module, Attention)]
        return sorted(found, key=lambda layer: layer.layer_id)
