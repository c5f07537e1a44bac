"""Token embeddings and the head that turns hidden states into logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octavo.layers.base import Kernels, Layer, Slot
from octavo.layers.linear import Linear
from octavo.quantization.base import Weight
from octavo.quantization.gguf_tensor import GGUFTensor


class Embedding(Layer):
    """ids [T] -> [T, embedding_dim]. Id 0 is row `first` of the table."""

    weight: nn.Parameter

    def __init__(self, num_embeddings: int, embedding_dim: int, *, first: int = 0) -> None:
        super().__init__(weight=(num_embeddings, embedding_dim))
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.first = first
        self.blocks: GGUFTensor | None = None  # the weight as it was stored, for a head that shares it

    def load_weight(self, slot: Slot, tensor: Weight) -> None:
        super().load_weight(slot, tensor)
        if isinstance(tensor, GGUFTensor):
            self.blocks = tensor

    def forward(self, ids: Tensor) -> Tensor:
        return self.kernels.embedding(ids, self.weight[self.first :])


class LMHead(Linear):
    """hidden [N, embedding_dim] -> float32 logits [N, num_embeddings]. A tied head uses the embedding's weight."""

    float_output = True

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

    def attach(self, kernels: Kernels) -> None:
        if self.tied_to:
            embedding = self.tied_to[0]
            self.method.share(self, embedding.weight, embedding.blocks)
            embedding.blocks = None
        super().attach(kernels)
