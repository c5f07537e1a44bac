"""Greedy tokens of every architecture against transformers, however the engine cuts the work."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import tiny_models

from octavo import LLM, SamplingParams

NUM_TOKENS = 64
BLOCK = 16


def mixed_prompts(count: int = 17) -> list[list[int]]:
    """Lengths around the borders of blocks, and others."""
    rng = random.Random(5)
    lengths = [
        1,
        2,
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        2 * BLOCK - 1,
        2 * BLOCK,
        2 * BLOCK + 1,
        3,
        7,
        40,
        61,
        64,
        77,
        90,
        5,
        33,
    ]
    return [[rng.randrange(2, tiny_models.VOCAB) for _ in range(length)] for length in lengths[:count]]


def run(llm: LLM, prompts: list[list[int]], num_tokens: int = NUM_TOKENS) -> list[list[int]]:
    params = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True, detokenize=False)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    llm_is_drained(llm)
    return [output.outputs[0].token_ids for output in outputs]


def llm_is_drained(llm: LLM) -> None:
    """After a run nothing may be left: no block in use, no request, no row."""
    scheduler = llm._engine._scheduler  # type: ignore[attr-defined]
    scheduler.kv_cache.pool.check()
    assert scheduler.kv_cache.pool.num_used == 0
    assert not scheduler.requests
    assert not scheduler.running
    assert len(scheduler.waiting) == 0
    assert not llm._outputs._by_sequence


def metric(llm: LLM, name: str) -> float:
    return next(m.value for m in llm.get_metrics() if m.name == f"vllm:{name}")


def expected(name: str, prompts: list[list[int]]) -> list[list[int]]:
    return [tiny_models.greedy(name, tuple(ids), NUM_TOKENS) for ids in prompts]


MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "torch sdpa": {"attention_backend": "TORCH_SDPA"},
    "small chunks": {"max_num_batched_tokens": 7, "max_num_seqs": 5},
    "eager": {"enforce_eager": True},
    "synchronous": {"async_scheduling": False},
    "asynchronous": {"async_scheduling": True},
    "asynchronous small chunks": {"async_scheduling": True, "max_num_batched_tokens": 11, "max_num_seqs": 6},
    "no prefix cache, no chunks": {"enable_prefix_caching": False, "enable_chunked_prefill": False},
    "large blocks": {"block_size": 128},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", tiny_models.CONFIGS)
def test_greedy_tokens_equal_those_of_transformers(name: str, mode: str, make_llm: Callable[..., LLM]) -> None:
    prompts = mixed_prompts()
    with make_llm(name, **MODES[mode]) as llm:
        assert run(llm, prompts) == expected(name, prompts)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_steps_recorded_ahead_change_no_token(name: str, make_llm: Callable[..., LLM]) -> None:
    """As an engine does that has nothing to do."""
    prompts = mixed_prompts()
    with make_llm(name, max_num_batched_tokens=256, max_num_seqs=16) as llm:
        while llm.collective_rpc("record_ahead")[0]:
            pass
        assert run(llm, prompts) == expected(name, prompts)


@pytest.mark.parametrize("async_scheduling", [False, True])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "opt"])
def test_preemption_changes_no_token(name: str, async_scheduling: bool, make_llm: Callable[..., LLM]) -> None:
    prompts = mixed_prompts()
    # Room for one request of the whole context and little more.
    blocks = {"gemma3": 4 * 16, "mistral": 16}.get(name, 17)
    options = {"num_gpu_blocks_override": blocks, "async_scheduling": async_scheduling, "max_num_batched_tokens": 64}
    with make_llm(name, max_num_seqs=16, **options) as llm:
        assert run(llm, prompts) == expected(name, prompts)
        assert metric(llm, "num_preemptions") > 0


@pytest.mark.parametrize("async_scheduling", [False, True])
@pytest.mark.parametrize("name", tiny_models.CONFIGS)
def test_prefix_hits_change_no_token(name: str, async_scheduling: bool, make_llm: Callable[..., LLM]) -> None:
    rng = random.Random(9)
    shared = [rng.randrange(2, tiny_models.VOCAB) for _ in range(100)]
    prompts = [shared[:cut] + ids for cut, ids in zip([100, 96, 97, 64, 33, 16], mixed_prompts(6), strict=True)]
    # So many blocks that all of the first run stay in the cache.
    with make_llm(name, async_scheduling=async_scheduling, num_gpu_blocks_override=512) as llm:
        wanted = expected(name, prompts)
        assert run(llm, prompts) == wanted
        hits = metric(llm, "prefix_cache_hits")
        assert hits > 0
        assert run(llm, prompts) == wanted  # now from the cache of the first run
        assert metric(llm, "prefix_cache_hits") > 2 * hits
        longer = [ids + tokens for ids, tokens in zip(prompts, wanted, strict=True)]
        assert run(llm, longer, 8) == [tiny_models.greedy(name, tuple(ids), 8) for ids in longer]


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_request_gets_the_same_tokens_alone_and_in_a_batch(name: str, make_llm: Callable[..., LLM]) -> None:
    prompts = mixed_prompts()
    with make_llm(name, enable_prefix_caching=False) as llm:
        together = run(llm, prompts)
        assert [run(llm, [ids])[0] for ids in prompts] == together


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_blocks_that_leave_the_window_are_given_back(name: str, make_llm: Callable[..., LLM]) -> None:
    with make_llm(name, enable_prefix_caching=False, max_num_batched_tokens=32, max_num_seqs=4) as llm:
        pool = llm._engine._scheduler.kv_cache.pool  # type: ignore[attr-defined]
        prompt = mixed_prompts()[14]
        seen = []
        params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False)
        for _ in llm._run(llm._jobs([prompt], params, None, add_special_tokens=False)):
            seen.append(pool.num_used)
        num_blocks = -(-(len(prompt) + NUM_TOKENS) // BLOCK)
        windows = {"mistral": (0, 1), "gemma3": (1, 3)}[name]  # groups of full and of sliding layers
        assert max(seen[4:]) <= windows[0] * num_blocks + windows[1] * 3
