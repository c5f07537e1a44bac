"""Steps as graphs, with graphs that run what they recorded again: filling up to a size changes no token.

The kernels of a CPU give a row the same logits in any batch, so what is compared is exact. They know no token without a
place, so what fills a step up gets one that no request has. Real graphs are compared with eager steps in tests/gpu.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from all_kernels import needs_cpp_kernels
from tiny_models import VOCAB, save
from torch import Tensor

from octavo import LLM, SamplingParams
from octavo.kernels import torch_sampling
from octavo.worker import captured_prompt
from octavo.worker.captured_prompt import CapturedPrompt, token_sizes
from octavo.worker.captured_step import CapturedStep, sizes_up_to
from octavo.worker.step_graph import EagerStep, Forward, StepGraph
from octavo.worker.worker import Worker

FEW = 7


class Again:
    """A graph that calls the function, and gives the tensor that it gave when it was recorded."""

    def __init__(self, run: Callable[[], Tensor]) -> None:
        self._run, self._result = run, run().clone()

    def replay(self) -> Tensor:
        return self._result.copy_(self._run())


class Pool:
    def __init__(self) -> None:
        self.recorded = 0

    def record(self, run: Callable[[], Tensor]) -> Again:
        self.recorded += 1
        return Again(run)


class Sampling:
    argmax = staticmethod(torch_sampling.argmax)

    @staticmethod
    def draw_on_device(logits: Tensor, temperature: Tensor, *params: Tensor) -> Tensor:
        if not temperature.any():  # plain torch has nothing to draw then
            return torch_sampling.argmax(logits)
        return torch_sampling.draw(logits, temperature, *params)


def work(seed: int, num_requests: int) -> tuple[list[Any], list[SamplingParams]]:
    """Prompts of one to ninety tokens, and parameters of every kind."""
    rng = random.Random(seed)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.9},
        {"temperature": 0.8, "top_p": 0.9, "top_k": 20},
        {"temperature": 0.7, "repetition_penalty": 1.2, "logprobs": 2},
    ]
    if num_requests == FEW:  # while a prompt is scored, no graph serves
        kinds.append({"temperature": 0.0, "prompt_logprobs": 1})
    prompts = [
        {"prompt_token_ids": [rng.randrange(3, VOCAB) for _ in range(rng.choice([1, 3, 17, 40, 90]))]}
        for _ in range(num_requests)
    ]
    params = [
        SamplingParams(**rng.choice(kinds), max_tokens=rng.randrange(1, 24), ignore_eos=True, detokenize=False, seed=i)
        for i in range(num_requests)
    ]
    return prompts, params


@needs_cpp_kernels
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_steps_of_fixed_sizes_give_the_same_tokens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(save(name, tmp_path / name))
    options: dict[str, Any] = {
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "use_tqdm_on_load": False,
        "max_num_batched_tokens": 96,
        "max_num_seqs": 24,
        "enable_prefix_caching": False,
    }
    rounds = [work(n, n) for n in (1, FEW, 40)]

    def tokens(llm: LLM) -> list[list[int]]:
        return [list(o.outputs[0].token_ids) for w in rounds for o in llm.generate(*w, use_tqdm=False)]

    expected = tokens(LLM(folder, **options))
    pool, served = Pool(), {CapturedStep: 0, CapturedPrompt: 0, EagerStep: 0}

    def graphs(worker: Worker, forward: Forward) -> list[StepGraph]:
        buffers, (num_blocks, *_) = forward.buffers, forward._kv_caches[0].shape
        pad = buffers.pad

        def pad_with_places(num_tokens: int, token_size: int, num_requests: int, request_size: int) -> None:
            pad(num_tokens, token_size, num_requests, request_size)
            for mapping, table in zip(buffers.slot_mappings, buffers.block_tables, strict=True):
                mapping.host[num_tokens:token_size] = (num_blocks - 1) * worker._config.cache.block_size
                table.host[num_requests:request_size] = num_blocks - 1
            buffers.seq_lens.host[num_requests:request_size] = 1

        monkeypatch.setattr(buffers, "pad", pad_with_places)
        step = CapturedStep(forward, pool, Sampling(), max_model_len=256)  # type: ignore[arg-type]
        prompt = CapturedPrompt(forward, pool, max_model_len=256, operations_per_token=1)  # type: ignore[arg-type]
        return [step, prompt, EagerStep(forward)]

    for kind in served:

        def counted(graph: Any, *args: Any, run: Any = kind.run, kind: Any = kind) -> Any:
            served[kind] += 1
            return run(graph, *args)

        monkeypatch.setattr(kind, "run", counted)
    monkeypatch.setattr(Worker, "_graphs", graphs)
    assert tokens(LLM(folder, **options)) == expected
    assert all(count > 0 for count in served.values()), served
    assert pool.recorded > 20

    llm = LLM(folder, **options)
    recorded = pool.recorded
    while llm.collective_rpc("record_ahead")[0]:
        assert pool.recorded == recorded + 1
        recorded = pool.recorded
    assert tokens(llm) == expected
    assert pool.recorded == recorded


def test_sizes_leave_little_to_fill() -> None:
    assert sizes_up_to(1) == [1]
    assert sizes_up_to(20) == [1, 2, 4, 8, 12, 16, 20]
    assert token_sizes(31) == []
    for sizes, worst in ((sizes_up_to(1024), 1.5), (token_sizes(8192), 1.5)):
        assert sizes == sorted(set(sizes))
        assert all(b / (a + 1) <= worst for a, b in pairwise(sizes[3:]))
    assert len(token_sizes(8192)) < 32


def test_large_models_launch_their_large_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With this many operations a token, Python is done before the device."""

    class Buffers:
        max_num_tokens, max_num_seqs = 8192, 256

    class Model:
        buffers = Buffers()

    monkeypatch.setattr(CapturedPrompt, "_capture_empty", lambda *_: None)
    for billions, most in ((0.5, 8192), (8, 1250), (400, 0)):
        graph = CapturedPrompt(
            Model(),  # type: ignore[arg-type]
            Pool(),  # type: ignore[arg-type]
            max_model_len=4096,
            operations_per_token=int(2e9 * billions),
        )
        assert (graph._token_sizes or [0])[-1] == min(most, 8192)
    assert captured_prompt.WORTH == 20e12
