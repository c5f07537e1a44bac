"""An engine process without a process: the real loop and engine in a thread, over the fake executor."""

from __future__ import annotations

import asyncio
import queue
import threading

from fakes import FakeExecutor

from octavo.config import (
    AttentionConfig,
    CacheConfig,
    Checkpoint,
    EngineConfig,
    KVCacheLayout,
    KVGroupSpec,
    LoadConfig,
    ModelConfig,
    SchedulerConfig,
)
from octavo.engine.engine import Engine
from octavo.engine.generation_config import SamplingDefaults
from octavo.engine.messages import Stop, decode_from_engine, decode_to_engine, encode
from octavo.engine.opened import OpenedModel
from octavo.engine.process import EngineLoop

LAYOUT = KVCacheLayout(num_blocks=64, block_size=4, groups=(KVGroupSpec(layer_ids=(0,)),))
SCHEDULER = SchedulerConfig(
    max_model_len=128,
    max_num_seqs=4,
    max_num_batched_tokens=32,
    enable_chunked_prefill=True,
    long_prefill_token_threshold=0,
    policy="fcfs",
    async_scheduling=False,
)


def opened_model() -> OpenedModel:
    """A model of 50 tokens that has no tokenizer."""
    checkpoint = Checkpoint(path="", format="safetensors", hf_config={}, generation_config={})
    return OpenedModel(
        config=EngineConfig(
            model=ModelConfig(
                model="fake",
                checkpoint=checkpoint,
                architecture="FakeForCausalLM",
                dtype="float32",
                quantization=None,
                max_model_len=SCHEDULER.max_model_len,
                vocab_size=50,
                seed=0,
                max_logprobs=20,
                eos_token_ids=(),
            ),
            load=LoadConfig(load_format="dummy", use_tqdm_on_load=False, seed=0),
            attention=AttentionConfig(backend=None),
            cache=CacheConfig(
                dtype="float32",
                block_size=LAYOUT.block_size,
                gpu_memory_utilization=0.5,
                kv_cache_memory_bytes=None,
                num_gpu_blocks_override=None,
                enable_prefix_caching=True,
            ),
            scheduler=SCHEDULER,
        ),
        defaults=SamplingDefaults({}),
        chat_template=None,
        tokenizer_path=None,
        tokenizer_metadata=None,
    )


class _EngineSide:
    """The channel as the engine's thread sees it."""

    def __init__(self, process: FakeEngineProcess) -> None:
        self._process = process

    def receive(self, *, wait: bool) -> object:
        self._process.go.wait()
        try:
            return decode_to_engine(self._process.to_engine.get(block=wait))
        except queue.Empty:
            return None

    def send(self, message: object) -> None:
        loop, outbox = self._process.loop, self._process.from_engine
        loop.call_soon_threadsafe(outbox.put_nowait, encode(message))


class FakeEngineProcess:
    """What EngineProcess offers, and a brake: while `go` is clear the engine stands still before its next message."""

    def __init__(self, executor: FakeExecutor | None = None) -> None:
        self.executor = executor or FakeExecutor(LAYOUT)
        self.engine = Engine(SCHEDULER, LAYOUT, self.executor, enable_prefix_caching=True)
        self.go = threading.Event()
        self.go.set()
        self.to_engine: queue.Queue[bytes] = queue.Queue()
        self.from_engine: asyncio.Queue[bytes] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        self.cause_of_death: str | None = None
        loop = EngineLoop(_EngineSide(self), self.engine)  # type: ignore[arg-type]
        self._thread = threading.Thread(target=loop.run)
        self._thread.start()

    def send(self, message: object) -> None:
        self.to_engine.put(encode(message))

    async def receive(self) -> object:
        return decode_from_engine(await self.from_engine.get())

    async def ended(self) -> str:
        while self.cause_of_death is None:
            await asyncio.sleep(0.01)
        return self.cause_of_death

    async def stop(self) -> None:
        self.go.set()
        self.send(Stop())
        await asyncio.to_thread(self._thread.join)
