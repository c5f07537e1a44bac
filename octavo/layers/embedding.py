"""Token embeddings and the head that turns hidden states into logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octavo.layers.base import Layer, Slot
from octavo.layers.linear import Linear


class Embedding(Layer):
    """ids [T] -> [T, embedding_dim]."""

    weight: nn.Parameter

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(weight=(num_embeddings, embedding_dim))
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        return self.kernels.embedding(ids, self.weight)


class LMHead(Linear):
    """hidden [N, embedding_dim] -> logits [N, num_embeddings]. A tied head has no weight but the embedding's."""

    def __init__(self, embedding: Embedding, *, tied: bool) -> None:
        super().__init__(embedding.embedding_dim, embedding.num_embeddings)
        # In a tuple, so that the embedding is not registered a second time under this layer's name.
        self.tied_to = (embedding,) if tied else ()

    def create_weights(self, dtype: torch.dtype, device: torch.device) -> None:
        if not self.tied_to:
            super().create_weights(dtype, device)

    def slots(self) -> dict[Slot, tuple[int, ...]]:
        return {} if self.tied_to else super().slots()

    def finish_loading(self) -> None:
        if not self.tied_to:
            super().finish_loading()

    def forward(self, x: Tensor) -> Tensor:
        if self.tied_to:
            return self.kernels.linear(x, self.tied_to[0].weight, None)
        return super().forward(x)
