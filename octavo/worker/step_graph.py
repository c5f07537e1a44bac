"""StepGraph: how the forward pass of one step is run, over the inputs in StepBuffers.

A recorded graph replays a fixed sequence of kernels; EagerStep calls the model's code, works for every step, and is the
twin that recorded graphs are compared with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from octavo.attention.base import AttentionBackend, AttentionMetadata
from octavo.config import KVGroupSpec
from octavo.layers.context import ForwardContext
from octavo.models.base import CausalLM
from octavo.sampling.sampler import Draw
from octavo.worker.input_batch import StepInputs
from octavo.worker.step_buffers import StepBuffers, TokenTable


@dataclass(frozen=True, slots=True)
class StepResult:
    """What the graph of a step gives for its S rows that sample."""

    hidden: Tensor | None  # [T, hidden_size], of all tokens of the step, where the graph keeps them
    logits: Tensor | None = None  # [S, V]
    token_ids: Tensor | None = None  # [S] int64, instead of logits: chosen, and written where the next step reads them


class StepGraph(ABC):
    """The forward pass of the steps that it `accepts`."""

    chooses: ClassVar[bool] = False  # it can choose the tokens, where `run` is told how

    @abstractmethod
    def accepts(self, inputs: StepInputs, *, all_hidden: bool) -> bool:
        """Whether `run` serves the step. `all_hidden`: the hidden states of all its tokens are wanted."""

    @abstractmethod
    def run(self, inputs: StepInputs, draw: Draw | None) -> StepResult:
        """Run the step; keys and values go to the cache. `draw` is for graphs that choose; None: logits are wanted."""

    def record_ahead(self) -> bool:
        """Get ready for one more size of step, while none is under way. False: there is nothing left to record."""
        return False


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

    def logits(self, hidden: Tensor, inputs: StepInputs) -> Tensor | None:
        """Of hidden states [T, hidden_size] of a step, the logits [S, V] of the rows that sample; None without any."""
        num_sampled = len(inputs.sampled_rows)
        if num_sampled == 0:
            return None
        if not inputs.all_sampled:
            hidden = hidden[self.buffers.sampled_tokens.tensor[:num_sampled]]
        return self.model.compute_logits(hidden)

    def append(self, token_ids: Tensor) -> None:
        """Write the chosen tokens [S] where the next step reads them."""
        self._tokens.put(self.buffers.sampled_places, token_ids)

    @property
    def nowhere(self) -> int:
        """A place for tokens that nothing reads."""
        return self._tokens.nowhere

    def __call__(
        self, *, num_tokens: int, num_requests: int, max_query_len: int, max_seq_len: int, isolated: bool = False
    ) -> Tensor:
        """Hidden states. `isolated`: no request sees keys that another one writes in this step."""
        buffers = self.buffers
        starts, lengths = buffers.query_start_loc.host, buffers.seq_lens.host
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
                    host_starts=torch.from_numpy(starts[: num_requests + 1]),
                    host_lens=torch.from_numpy(lengths[:num_requests]),
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

    def accepts(self, inputs: StepInputs, *, all_hidden: bool) -> bool:
        return True

    def run(self, inputs: StepInputs, draw: Draw | None) -> StepResult:
        self._forward.buffers.upload(len(inputs.slots))
        self._forward.read_tokens(inputs.num_tokens)
        hidden = self._forward(
            num_tokens=inputs.num_tokens,
            num_requests=len(inputs.slots),
            max_query_len=inputs.max_query_len,
            max_seq_len=inputs.max_seq_len,
            isolated=inputs.isolated,
        )
        return StepResult(hidden, self._forward.logits(hidden, inputs))
