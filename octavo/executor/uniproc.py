"""UniprocExecutor: one worker in the engine's own process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from octavo.batch import ScheduledBatch, StepOutput
from octavo.config import EngineConfig, KVCacheLayout
from octavo.executor.base import Executor, PendingStep
from octavo.platforms.base import Platform
from octavo.worker.worker import Worker


class UniprocExecutor(Executor):
    """Runs steps in the caller's thread, or in one of its own.

    With asynchronous scheduling the engine schedules a step while the one before it computes. A GPU computes by itself;
    a CPU's kernels occupy the thread that calls them, so there they get a thread (they let go of the interpreter lock).
    """

    def __init__(self, config: EngineConfig, platform: Platform) -> None:
        self._worker: Worker | None = Worker(config, platform)
        needs_thread = config.scheduler.async_scheduling and not platform.runs_ahead
        self._thread = ThreadPoolExecutor(1, "octavo-worker") if needs_thread else None

    @property
    def worker(self) -> Worker:
        assert self._worker is not None, "the executor was shut down"
        return self._worker

    def start(self) -> None:
        self.worker.start()

    def load(self) -> None:
        self.worker.load()

    def kv_capacity(self) -> KVCacheLayout:
        return self.worker.kv_capacity()

    def execute(self, batch: ScheduledBatch) -> PendingStep:
        if self._thread is None:
            return self.worker.execute(batch)
        return self._thread.submit(self._run, batch)

    def _run(self, batch: ScheduledBatch) -> StepOutput:
        return self.worker.execute(batch).result()

    def call(self, method: str) -> list[Any]:
        function = getattr(self.worker, method)
        return [function() if self._thread is None else self._thread.submit(function).result()]

    def shutdown(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        self._worker = None
