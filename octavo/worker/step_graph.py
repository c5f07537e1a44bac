"""StepGraph: how the forward pass of one step is run.

A recorded graph replays a fixed sequence of kernels over the buffers of InputBatch for one bucket of batch sizes;
EagerStep calls the model's code, works for every batch, and is the twin that recorded graphs are compared with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from octavo.layers.context import ForwardContext
from octavo.models.base import CausalLM
from octavo.worker.input_batch import StepInputs


class StepGraph(ABC):
    """The forward pass of the steps that it `accepts`."""

    @abstractmethod
    def accepts(self, inputs: StepInputs) -> bool: ...

    @abstractmethod
    def run(self, inputs: StepInputs, context: ForwardContext) -> Tensor:
        """Hidden states [T, hidden_size] of the step's tokens; keys and values go to the cache."""


class EagerStep(StepGraph):
    """The model's own code, operation by operation."""

    def __init__(self, model: CausalLM) -> None:
        self._model = model

    def accepts(self, inputs: StepInputs) -> bool:
        return True

    def run(self, inputs: StepInputs, context: ForwardContext) -> Tensor:
        hidden: Tensor = self._model(inputs.input_ids, inputs.positions, context)
        return hidden
