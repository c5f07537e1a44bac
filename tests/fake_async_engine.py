"""An AsyncEngine without a process: it says a given text, cut into tokens at random, through the real outputs."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from octavo.config import Checkpoint, ModelConfig, SchedulerConfig
from octavo.engine.generation_config import SamplingDefaults
from octavo.engine.inputs import InputProcessor, Prompt
from octavo.engine.outputs import OutputProcessor
from octavo.errors import EngineDeadError, OverloadedError
from octavo.outputs import RequestOutput
from octavo.request import FinishReason, Request, RequestUpdate, TokenLogprobs
from octavo.sampling_params import SamplingParams
from octavo.tokenizer.base import Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if mood is defined %}[{{ mood }}]{% endif %}"
    "{% if reasoning_effort is defined %}[effort {{ reasoning_effort }}]{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_CORPUS = [
    "the quick brown fox jumps over the lazy dog, hello there, and says: good morning!",
    "naïve café déjà vu 日本語",
]


@lru_cache(maxsize=1)
def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE of some 350 tokens: every byte, and pairs and words of a small corpus."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS * 3, trainer)
    return Tokenizer(
        backend,
        special_tokens={"bos_token": _SPECIAL[0], "eos_token": _SPECIAL[2]},
        chat_template=CHAT_TEMPLATE,
    )


def random_spelling(text: str, rng: random.Random) -> list[int]:
    """Token ids that spell `text`, chosen at random: cuts go through words and through characters."""
    tokenizer = tiny_tokenizer()
    by_bytes = {tokenizer.token_bytes[token_id]: token_id for token_id in range(len(_SPECIAL), len(tokenizer))}
    data, ids = text.encode(), []
    while data:
        fits = [data[:length] for length in range(1, 12) if data[:length] in by_bytes]
        piece = rng.choice(fits)
        ids.append(by_bytes[piece])
        data = data[len(piece) :]
    return ids


@dataclass
class Call:
    """One call of `generate`."""

    request_id: str
    prompt: Prompt
    params: SamplingParams
    priority: int


class FakeMetrics:
    """ServerMetrics that only remember."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, int]] = []

    def http(self, method: str, handler: str, status: int, seconds: float) -> None:
        self.requests.append((method, handler, status))

    def render(self) -> tuple[bytes, str]:
        return b"# no metrics\n", "text/plain; version=0.0.4; charset=utf-8"


class FakeAsyncEngine:
    """The surface of AsyncEngine.

    Args:
        texts: what it says; sequence i of a prompt says texts[i % len(texts)], then the end-of-sequence token.
        seed: of the cuts into tokens and steps; None: each text as the tokenizer spells it, a token a step.
        defaults: fields of SamplingParams that the model brings along.

    Attributes:
        calls, aborted, finished: what `generate` was called with, and the ids of requests by how they ended.
        overloaded, dead, sick: refuse every request, or be unwell, from now on.
        fail_after: outputs of a request after which it raises `error`.
        pause_after: outputs of a request after which it waits for `go`; None: it never waits.
        num_cached_tokens: of every prompt.
    """

    def __init__(
        self,
        texts: Sequence[str] = ("Hello there, good morning!",),
        *,
        seed: int | None = None,
        max_model_len: int = 512,
        policy: str = "fcfs",
        defaults: Mapping[str, Any] | None = None,
        max_tokens_cap: int | None = None,
    ) -> None:
        self.tokenizer: Tokenizer | None = tiny_tokenizer()
        self.chat_template: str | None = None
        self.model_config = ModelConfig(
            model="tiny/model",
            checkpoint=Checkpoint(path="tiny", format="safetensors", hf_config={}, generation_config={}),
            architecture="LlamaForCausalLM",
            dtype="float32",
            quantization=None,
            max_model_len=max_model_len,
            vocab_size=len(self.tokenizer),
            seed=0,
            max_logprobs=20,
            eos_token_ids=(self.tokenizer.eos_token_id or 0,),
        )
        scheduler = SchedulerConfig(
            max_model_len=max_model_len,
            max_num_seqs=8,
            max_num_batched_tokens=512,
            enable_chunked_prefill=True,
            long_prefill_token_threshold=0,
            policy=policy,
            async_scheduling=False,
        )
        self.defaults = SamplingDefaults(dict(defaults or {}), max_tokens_cap)
        self.inputs = InputProcessor(self.model_config, scheduler, self.tokenizer, self.defaults)
        self.metrics = FakeMetrics()
        self.texts = texts
        self.calls: list[Call] = []
        self.aborted: list[str] = []
        self.finished: list[str] = []
        self.overloaded = False
        self.dead = False
        self.sick: str | None = None
        self.fail_after: int | None = None
        self.error: Exception = EngineDeadError("the engine has stopped; this request was lost with it")
        self.pause_after: int | None = None
        self.go = asyncio.Event()
        self.num_cached_tokens = 0
        self._rng = None if seed is None else random.Random(seed)
        self._running = 0

    def health(self) -> str | None:
        return "the engine has stopped" if self.dead else self.sick

    def is_ready(self) -> bool:
        return not self.dead

    @property
    def num_unfinished(self) -> int:
        return self._running

    async def generate(
        self, request_id: str, prompt: Prompt, params: SamplingParams, priority: int = 0
    ) -> AsyncGenerator[RequestOutput, None]:
        self.calls.append(Call(request_id, prompt, params, priority))
        requests = self.inputs.requests(request_id, prompt, params, priority)
        if self.dead:
            raise EngineDeadError("the engine has stopped; the server ends and has to be started again")
        if self.overloaded:
            raise OverloadedError("8 requests wait already, at most 8 may; try again later")
        outputs = OutputProcessor(self.tokenizer)
        outputs.add(request_id, prompt, params, requests)
        waiting = {request.request_id: self._script(request, index) for index, request in enumerate(requests)}
        finished = False
        self._running += 1
        try:
            for num_outputs in itertools.count():
                if num_outputs == self.fail_after:
                    raise self.error
                if num_outputs == self.pause_after:
                    await self.go.wait()
                await asyncio.sleep(0)
                made, stopped = outputs.process([script.pop(0) for script in waiting.values()])
                ended = {met.request_id for met in stopped}
                waiting = {key: script for key, script in waiting.items() if script and key not in ended}
                for output in made:
                    finished = output.finished
                    yield output
                if not waiting:
                    return
        finally:
            self._running -= 1
            (self.finished if finished else self.aborted).append(request_id)

    def _script(self, request: Request, index: int) -> list[RequestUpdate]:
        """The updates of one sequence, up to its end."""
        assert self.tokenizer is not None
        text, params = self.texts[index % len(self.texts)], request.params
        ids = random_spelling(text, self._rng) if self._rng else self.tokenizer.encode(text, add_special_tokens=False)
        if params.ignore_eos:
            ids = (ids * request.max_tokens)[: request.max_tokens]
        else:
            ids = [*ids, self.model_config.eos_token_ids[0]]
        reason, stop_reason = FinishReason.STOP, None
        for position, token_id in enumerate(ids):
            if token_id in params.stop_token_ids:
                ids, stop_reason = ids[: position + 1], token_id
                break
        if stop_reason is None and (params.ignore_eos or len(ids) > request.max_tokens):
            ids, reason = ids[: request.max_tokens], FinishReason.LENGTH
        updates = []
        while ids:
            count = self._rng.randint(1, 3) if self._rng else 1
            new, ids = ids[:count], ids[count:]
            updates.append(
                RequestUpdate(
                    request_id=request.request_id,
                    new_token_ids=new,
                    logprobs=None if params.logprobs is None else [self._row(i, params.logprobs) for i in new],
                    num_cached_tokens=self.num_cached_tokens,
                )
            )
        updates[-1].finish_reason, updates[-1].stop_reason = reason, stop_reason
        if params.prompt_logprobs is not None:
            rows = [self._row(token_id, params.prompt_logprobs) for token_id in request.prompt_token_ids[1:]]
            updates[0].prompt_logprobs = [None, *rows]
        return updates

    def _row(self, token_id: int, asked: int) -> TokenLogprobs:
        """The chosen token is the most likely but one; the tokens after it follow, the fourth is impossible."""
        size = self.model_config.vocab_size
        top = [(token_id + shift) % size for shift in (-1, 0, 1, 2, *range(3, size - 1))][
            : size if asked == -1 else asked
        ]
        values = [-0.25, -1.5, -3.0, float("-inf"), *[float("-inf")] * size][: len(top)]
        return TokenLogprobs([token_id, *top], [-1.5, *values], rank=2)
