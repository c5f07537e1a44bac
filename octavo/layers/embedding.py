"""Token embeddings and the head that turns hidden states into logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octavo.layers.base import Kernels, Layer, Slot
from octavo.layers.linear import Linear
from octavo.quantization.base import LinearFunction, Weight, fill, parameter
from octavo.quantization.gguf_tensor import GGUFTensor


class Embedding(Layer):
    """ids [T] -> [T, embedding_dim]. Id 0 is row `first` of the table.

    Where kernels keep the table in an order of their own, for the head that shares it or as the blocks that it came in,
    rows are looked up there, and nothing else is kept.
    """

    weight: nn.Parameter
    keeps_blocks = False  # a table of quantized blocks stays one, where kernels can look rows up in it
    tied = False  # to a head, which takes the weight over

    def __init__(self, num_embeddings: int, embedding_dim: int, *, first: int = 0) -> None:
        super().__init__(weight=(num_embeddings, embedding_dim))
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.first = first
        self.blocks: GGUFTensor | None = None  # what `weight` is still to be filled with
        self.packed: LinearFunction | None = None

    def load_weight(self, slot: Slot, tensor: Weight) -> None:
        if isinstance(tensor, GGUFTensor):
            self.blocks = tensor
        else:
            super().load_weight(slot, tensor)

    def attach(self, kernels: Kernels) -> None:
        super().attach(kernels)
        if self.blocks is None or self.tied:
            return
        blocks, self.blocks = self.blocks, None
        if self.keeps_blocks and not self.first and self.weight.dtype is not torch.float32:
            self.packed = kernels.pack_blocks([(blocks.raw, blocks.type_name)], self.embedding_dim, None)
        if self.packed is None:
            fill(self.weight, blocks)
        else:
            self.drop_weight()

    def drop_weight(self) -> None:
        """The packed form has a copy of its own."""
        self.weight = parameter((0, self.embedding_dim), self.weight.dtype, self.weight.device)

    @property
    def packed_bytes(self) -> int:
        return 0 if self.packed is None or self.tied else self.packed.nbytes

    def forward(self, ids: Tensor) -> Tensor:
        if self.packed is not None:
            return self.packed.rows(ids, self.weight.dtype)
        return self.kernels.embedding(ids, self.weight[self.first :])


class LMHead(Linear):
    """hidden [N, embedding_dim] -> float32 logits [N, num_embeddings]. A tied head uses the embedding's weight."""

    float_output = True

    def __init__(self, embedding: Embedding, *, tied: bool) -> None:
        super().__init__(embedding.embedding_dim, embedding.num_embeddings)
        # In a tuple, so that the embedding is not registered a second time under this layer's name.
        self.tied_to = (embedding,) if tied else ()
        embedding.tied = tied

    def create_weights(self, dtype: torch.dtype, device: torch.device) -> None:
        if not self.tied_to:
            super().create_weights(dtype, device)

    def slots(self) -> dict[Slot, tuple[int, ...]]:
        return {} if self.tied_to else super().slots()

    def finish_loading(self) -> None:
        if not self.tied_to:
            super().finish_loading()

    def attach(self, kernels: Kernels) -> None:
        if not self.tied_to:
            super().attach(kernels)
            return
        (embedding,) = self.tied_to
        self.method.share(self, embedding.weight, embedding.blocks)
        embedding.blocks = None
        super().attach(kernels)
        if self.multiply.nbytes:
            embedding.packed = self.multiply
            embedding.drop_weight()
