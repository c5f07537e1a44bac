"""StepGraph: how the forward pass of one step is run, over the inputs in StepBuffers.

A recorded graph replays a fixed sequence of kernels; EagerStep calls the model's code, works for every step, and is the
twin that recorded graphs are compared with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from octavo.attention.base import AttentionBackend, AttentionMetadata
from octavo.config import KVGroupSpec
from octavo.layers.context import ForwardContext
from octavo.models.base import CausalLM
from octavo.worker.input_batch import StepInputs
from octavo.worker.step_buffers import StepBuffers, TokenTable


class StepGraph(ABC):
    """The forward pass of the steps that it `accepts`."""

    @abstractmethod
    def accepts(self, inputs: StepInputs) -> bool: ...

    @abstractmethod
    def run(self, inputs: StepInputs) -> tuple[Tensor, Tensor | None]:
        """Hidden states [T, hidden_size] of the step's tokens, and their logits where these are part of the graph.

        Keys and values go to the cache.
        """


class Forward:
    """The model's own code with its cache: one call is the forward pass of the step that the buffers hold."""

    def __init__(
        self,
        model: CausalLM,
        backend: AttentionBackend,
        groups: tuple[KVGroupSpec, ...],
        kv_caches: list[Tensor],
        buffers: StepBuffers,
        tokens: TokenTable,
    ) -> None:
        self.buffers, self.backend = buffers, backend
        self._tokens = tokens
        self.model, self._groups, self._kv_caches = model, groups, kv_caches

    def read_tokens(self, num_tokens: int) -> None:
        """The ids of the step's tokens, some of which may be known to the device alone."""
        self._tokens.read(self.buffers.token_places, self.buffers.input_ids[:num_tokens])

    def __call__(
        self, *, num_tokens: int, num_requests: int, max_query_len: int, max_seq_len: int, isolated: bool = False
    ) -> Tensor:
        """Hidden states. `isolated`: no request sees keys that another one writes in this step."""
        buffers = self.buffers
        metadata = tuple(
            self.backend.build(
                AttentionMetadata(
                    query_start_loc=buffers.query_start_loc.tensor[: num_requests + 1],
                    seq_lens=buffers.seq_lens.tensor[:num_requests],
                    block_table=table.tensor[:num_requests],
                    slot_mapping=slots.tensor[:num_tokens],
                    num_reqs=num_requests,
                    num_tokens=num_tokens,
                    max_query_len=max_query_len,
                    max_seq_len=max_seq_len,
                    isolated=isolated,
                ),
                group.sliding_window,
            )
            for group, table, slots in zip(self._groups, buffers.block_tables, buffers.slot_mappings, strict=True)
        )
        context = ForwardContext(metadata=metadata, kv_caches=self._kv_caches)
        hidden: Tensor = self.model(buffers.input_ids[:num_tokens], buffers.positions.tensor[:num_tokens], context)
        return hidden


class EagerStep(StepGraph):
    """The model's own code, operation by operation."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def accepts(self, inputs: StepInputs) -> bool:
        return True

    def run(self, inputs: StepInputs) -> tuple[Tensor, Tensor | None]:
        self._forward.buffers.upload(len(inputs.slots))
        self._forward.read_tokens(inputs.num_tokens)
        hidden = self._forward(
            num_tokens=inputs.num_tokens,
            num_requests=len(inputs.slots),
            max_query_len=inputs.max_query_len,
            max_seq_len=inputs.max_seq_len,
            isolated=inputs.isolated,
        )
        return hidden, None
