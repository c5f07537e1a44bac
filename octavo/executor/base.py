"""Executor: the only way from the engine to devices. Seven methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

from octavo.batch import GrammarBitmask, ScheduledBatch, StepOutput
from octavo.config import KVCacheLayout


class PendingStep(Protocol):
    """A step that was started, and may still compute. A concurrent.futures.Future is one."""

    def result(self) -> StepOutput:
        """Waits for the output. Raises what went wrong."""
        ...


class Executor(ABC):
    """Runs steps on one or more workers, in the order in which they are given."""

    @abstractmethod
    def start(self) -> None:
        """Bring up the workers and their devices."""

    @abstractmethod
    def load(self) -> None:
        """Build the model and read its weights.

        Raises:
            ModelError: the model is not supported or its weights do not fit.
        """

    @abstractmethod
    def kv_capacity(self) -> KVCacheLayout:
        """Plan the memory, allocate the KV cache and tell its layout. Called once, after `load`.

        Raises:
            OutOfMemoryError: there is no room for one request, with the option and the value that would fit.
        """

    @abstractmethod
    def execute(self, batch: ScheduledBatch) -> PendingStep:
        """Start a step. Steps run in order. What goes wrong is raised here or by the step's `result`."""

    @abstractmethod
    def sample(self, batch: ScheduledBatch, bitmask: GrammarBitmask | None) -> None:
        """Have a step sampled that `awaits_bitmask`, once; None restricts nothing. The next step is executed later."""

    @abstractmethod
    def call(self, method: str) -> list[Any]:
        """Call a method of every worker between steps; its results in the order of the workers."""

    @abstractmethod
    def shutdown(self) -> None:
        """Let go of workers and devices. May be called twice."""
