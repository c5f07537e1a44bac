"""UniprocExecutor: one worker in the engine's own process."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from octavo.batch import GrammarBitmask, ScheduledBatch, StepOutput
from octavo.config import EngineConfig, KVCacheLayout
from octavo.executor.base import Executor, PendingStep
from octavo.platforms.base import Platform
from octavo.worker.launched_step import LaunchedStep
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
        # By step that waits for its bitmask: the step itself, or what its thread waits for.
        self._unsampled: dict[int, LaunchedStep] = {}
        self._bitmasks: dict[int, Future[GrammarBitmask | None]] = {}

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
            step = self.worker.execute(batch)
            if batch.awaits_bitmask:
                self._unsampled[batch.step_id] = step
            return step
        bitmask: Future[GrammarBitmask | None] | None = None
        if batch.awaits_bitmask:
            bitmask = self._bitmasks[batch.step_id] = Future()
        return self._thread.submit(self._run, batch, bitmask)

    def _run(self, batch: ScheduledBatch, bitmask: Future[GrammarBitmask | None] | None) -> StepOutput:
        step = self.worker.execute(batch)
        if bitmask is not None:
            self.worker.sample(step, bitmask.result())
        return step.result()

    def sample(self, batch: ScheduledBatch, bitmask: GrammarBitmask | None) -> None:
        if self._thread is None:
            self.worker.sample(self._unsampled.pop(batch.step_id), bitmask)
        else:
            self._bitmasks.pop(batch.step_id).set_result(bitmask)

    def call(self, method: str) -> list[Any]:
        function = getattr(self.worker, method)
        return [function() if self._thread is None else self._thread.submit(function).result()]

    def shutdown(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        self._worker = None
