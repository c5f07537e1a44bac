"""AsyncEngine: requests of many users at once, on one event loop, served by an engine process.

Prompts come in tokenized; it sends requests over, and turns what comes back into text. It knows when the engine is
well, when its queue is full, and when it is gone. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from typing import TypeVar

from octavo import errors
from octavo.engine.grammars import grammar_compiler
from octavo.engine.inputs import InputProcessor, Prompt
from octavo.engine.messages import Add, Failed, Finish, Opened, Ready, Step
from octavo.engine.opened import OpenedModel
from octavo.engine.output_stream import OutputStream
from octavo.engine.outputs import OutputProcessor
from octavo.engine.remote import EngineProcess
from octavo.errors import EngineDeadError, EngineError, OverloadedError
from octavo.log import get_logger
from octavo.observability.prometheus import ServerMetrics
from octavo.observability.request_times import RequestTimes
from octavo.observability.stats import EngineStats
from octavo.observability.stats_log import StatsLog
from octavo.outputs import RequestOutput
from octavo.request import FinishReason
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.tokenizer.load import Tokenizer

logger = get_logger(__name__)


class AsyncEngine:
    """An engine process that is ready, and the requests under way in it. `start` makes one."""

    def __init__(
        self,
        process: EngineProcess,
        opened: OpenedModel,
        tokenizer: Tokenizer | None,
        *,
        metrics: ServerMetrics,
        max_num_queued_reqs: int | None,
        health_timeout: float,
        log_stats: bool,
    ) -> None:
        self.model_config = opened.config.model
        self.tokenizer = tokenizer
        self.chat_template = opened.chat_template
        self.defaults = opened.defaults
        self.inputs = InputProcessor(opened.config.model, opened.config.scheduler, tokenizer, opened.defaults)
        self._compiler = grammar_compiler(opened, lambda: tokenizer)
        self.metrics = metrics
        self._process = process
        self._max_num_queued_reqs = max_num_queued_reqs
        self._health_timeout = health_timeout
        self._outputs = OutputProcessor(tokenizer)
        self._streams: dict[str, OutputStream] = {}
        self._ids = itertools.count()
        self._num_sent = 0  # requests, since the start
        self._num_taken = 0  # of these, those that the engine counts in `_stats`
        self._stats = EngineStats()
        self._times = RequestTimes(metrics)
        self._last_progress = time.monotonic()
        self._draining = False
        self._cause_of_death: str | None = None
        self._closed = asyncio.Event()
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._watch())]
        if log_stats:
            self._tasks.append(asyncio.create_task(self._log_stats()))

    @classmethod
    async def start(
        cls,
        process: EngineProcess,
        *,
        model_name: str | None = None,
        max_num_queued_reqs: int | None = None,
        health_timeout: float = 60.0,
        log_stats: bool = False,
    ) -> AsyncEngine:
        """Wait until the process serves. The tokenizer is built meanwhile.

        Args:
            model_name: labels the metrics.
            max_num_queued_reqs: how many requests may wait; None: any number.
            health_timeout: seconds without progress, while there is work, after which `health` complains.
            log_stats: every ten seconds with work, a line says how much.

        Raises:
            ConfigError, ModelError, EngineError: what stopped the process from getting ready.
        """
        opened = await _expect(process, Opened)
        tokenizer = asyncio.create_task(asyncio.to_thread(opened.model.tokenizer))
        try:
            await _expect(process, Ready)
        finally:
            await asyncio.wait([tokenizer])
        return cls(
            process,
            opened.model,
            await tokenizer,
            metrics=ServerMetrics(model_name or opened.model.config.model.model),
            max_num_queued_reqs=max_num_queued_reqs,
            health_timeout=health_timeout,
            log_stats=log_stats,
        )

    # ---- requests ----

    async def generate(
        self, request_id: str, prompt: Prompt, params: SamplingParams, priority: int = 0
    ) -> AsyncGenerator[RequestOutput, None]:
        """The outputs of one prompt, as `params.output_kind` wants them. Closing the generator aborts the request.

        Raises:
            RequestError: a field that does not go with the model; the request did not start.
            OverloadedError: too many requests wait, or the engine is about to stop; the request did not start.
            EngineError: the request was ended by a failure; EngineDeadError: with all others, for good.
        """
        if params.structured_outputs is not None and self.tokenizer is not None:
            await self._compiler.check(params.structured_outputs)
        key = str(next(self._ids))  # ids of clients may come twice
        requests = self.inputs.requests(key, prompt, params, priority)
        self._check_open(len(requests))
        sequence_ids = [request.request_id for request in requests]
        stream = self._streams[key] = OutputStream(delta=params.output_kind is RequestOutputKind.DELTA)
        self._outputs.add(key, prompt, params, requests)
        self._times.add(sequence_ids, num_prompt_tokens=len(prompt.token_ids))
        if len(self._streams) == 1:
            self._last_progress = time.monotonic()
        self._process.send(Add(requests))
        self._num_sent += len(requests)
        finished = False
        try:
            while not finished:
                output = await stream.get()
                finished = output.finished
                if any(completion.finish_reason == FinishReason.ERROR for completion in output.outputs):
                    raise EngineError("the engine failed in a step and ended this request; send it again")
                output.request_id = request_id
                yield output
        finally:
            del self._streams[key]
            if not finished:
                self._outputs.discard(sequence_ids)
                self._times.discard(sequence_ids)
                if self._cause_of_death is None:
                    self._process.send(Finish(sequence_ids, FinishReason.ABORT))

    def _check_open(self, num_requests: int) -> None:
        if self._cause_of_death is not None:
            raise EngineDeadError("the engine has stopped; the server ends and has to be started again")
        if self._draining:
            raise OverloadedError("the server is about to stop and takes no new requests")
        limit = self._max_num_queued_reqs
        # A request with an n above the limit is taken when nothing waits.
        if limit is not None and self.num_waiting + num_requests > max(limit, num_requests):
            raise OverloadedError(f"{self.num_waiting} requests wait already, at most {limit} may; try again later")

    @property
    def num_unfinished(self) -> int:
        """Prompts under way."""
        return len(self._streams)

    @property
    def num_waiting(self) -> int:
        """Sequences that have no place in a step yet, those included that the engine has not counted yet."""
        return self._stats.num_waiting + self._num_sent - self._num_taken

    # ---- health ----

    def health(self) -> str | None:
        """None, or why the engine does not serve: it is gone, or has work and makes no progress."""
        if self._cause_of_death is not None:
            return "the engine has stopped"
        idle = time.monotonic() - self._last_progress
        if self._streams and idle > self._health_timeout:
            return f"the engine has work, and has made no progress for {idle:.0f} seconds"
        return None

    def is_ready(self) -> bool:
        """Whether new requests are taken."""
        return self._cause_of_death is None and not self._draining

    async def wait_for_death(self) -> str:
        """Why the engine ended by itself, once it has."""
        await self._closed.wait()
        return self._cause_of_death or "the engine was closed"

    def drain(self) -> None:
        """Take no new requests; those under way go on."""
        self._draining = True

    async def close(self) -> None:
        """End everything that is still under way, and the process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._die("the engine was shut down")
        await self._process.stop()

    # ---- what comes back ----

    async def _receive(self) -> None:
        try:
            while True:
                message = await self._process.receive()
                if isinstance(message, Step):
                    self._take(message)
                elif isinstance(message, Failed):
                    self._die(message.message)
        except Exception as error:
            logger.exception("the way from the engine is broken")
            self._die(f"{type(error).__name__}: {error}")

    def _take(self, step: Step) -> None:
        now = self._last_progress = time.monotonic()
        self._num_taken = step.num_added
        self._stats = step.stats
        self.metrics.update_engine(step.stats)
        self._times.update(step.updates, now)
        outputs, stopped = self._outputs.process(step.updates)
        for met in stopped:
            self._times.finish(met.request_id, FinishReason.STOP, now)
            self._process.send(Finish([met.request_id], FinishReason.STOP, met.stop))
        for output in outputs:
            self._streams[output.request_id].put(output)

    async def _log_stats(self) -> None:
        log = StatsLog()
        while True:
            await asyncio.sleep(1)
            line = log.update(self._stats, time.monotonic())
            if line is not None:
                logger.info("%s", line)

    async def _watch(self) -> None:
        how = await self._process.ended()
        await asyncio.sleep(0.1)  # its last words may still be on their way
        self._die(how)

    def _die(self, cause: str) -> None:
        if self._cause_of_death is None:
            self._cause_of_death = cause
            self._closed.set()
            for stream in self._streams.values():
                stream.fail(EngineDeadError("the engine has stopped; this request was lost with it"))


_T = TypeVar("_T", Opened, Ready)


async def _expect(process: EngineProcess, kind: type[_T]) -> _T:
    """The next message of a process that is getting ready, or the error that it ended with."""
    receive = asyncio.ensure_future(process.receive())
    ended = asyncio.ensure_future(process.ended())
    try:
        await asyncio.wait([receive, ended], return_when=asyncio.FIRST_COMPLETED)
        if not receive.done():
            await asyncio.wait([receive], timeout=0.2)  # its last words may still be on their way
        if not receive.done():
            raise EngineDeadError(f"{ended.result()} before it was ready")
        message = receive.result()
    finally:
        receive.cancel()
        ended.cancel()
    if isinstance(message, Failed):
        raise getattr(errors, message.kind)(message.message)
    assert isinstance(message, kind)
    return message
