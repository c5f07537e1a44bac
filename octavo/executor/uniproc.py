"""UniprocExecutor: one worker in the engine's own process."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from octavo.batch import ScheduledBatch, StepOutput
from octavo.config import EngineConfig, KVCacheLayout
from octavo.executor.base import Executor
from octavo.platforms.base import Platform
from octavo.worker.worker import Worker


class UniprocExecutor(Executor):
    """Runs steps in the caller's thread, or, with asynchronous scheduling, in one thread of its own.

    The thread gives the engine time to schedule a step while the one before it computes: torch's operations let go
    of the interpreter lock.
    """

    def __init__(self, config: EngineConfig, platform: Platform) -> None:
        self._worker: Worker | None = Worker(config, platform)
        self._thread = ThreadPoolExecutor(1, "octavo-worker") if config.scheduler.async_scheduling else None

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

    def execute(self, batch: ScheduledBatch) -> Future[StepOutput]:
        if self._thread is not None:
            return self._thread.submit(self.worker.execute, batch)
        future: Future[StepOutput] = Future()
        try:
            future.set_result(self.worker.execute(batch))
        except Exception as error:
            future.set_exception(error)
        return future

    def call(self, method: str) -> list[Any]:
        function = getattr(self.worker, method)
        return [function() if self._thread is None else self._thread.submit(function).result()]

    def shutdown(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        self._worker = None
