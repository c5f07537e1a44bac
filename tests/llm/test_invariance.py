"""With the C++ kernels a request's log probabilities are the same to the last bit, whatever runs beside it and however.

Alone, in a crowd, in chunks, after a cache hit, after a preemption, recorded or eager: compared without any tolerance.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from all_kernels import CPP_KERNELS

from octavo import LLM, SamplingParams

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CPP_KERNELS, reason="plain torch makes no such promise"),
]

Answer = list[tuple[int, float]]


def answers(llm: LLM, prompts: list[list[int]], max_tokens: int = 12) -> list[Answer]:
    """The tokens with their log probabilities, of the prompt and of what follows."""
    params = SamplingParams(
        temperature=0.9,
        seed=3,
        max_tokens=max_tokens,
        ignore_eos=True,
        logprobs=0,
        prompt_logprobs=0,
        skip_reading_prefix_cache=False,
    )
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    found = []
    for output in outputs:
        completion = output.outputs[0]
        rows = zip(completion.token_ids, completion.logprobs or [], strict=True)
        found.append([(token, (row or {})[token].logprob) for token, row in rows])
    return found


def random_prompts(count: int, vocab_size: int, longest: int) -> list[list[int]]:
    rng = random.Random(count)
    prompts = [[rng.randrange(3, vocab_size) for _ in range(rng.randrange(1, longest))] for _ in range(count)]
    prompts[1] = prompts[0] + prompts[1]  # a shared prefix
    return prompts


@pytest.mark.parametrize("name", tiny_models.CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recorded_steps_equal_eager_ones(make_llm: Callable[..., LLM], name: str, dtype: str) -> None:
    prompts = random_prompts(9, tiny_models.VOCAB, 60)
    options: dict[str, Any] = {"dtype": dtype, "max_num_batched_tokens": 64, "max_num_seqs": 4}
    with make_llm(name, **options) as recorded, make_llm(name, enforce_eager=True, **options) as eager:
        assert answers(recorded, prompts) == answers(eager, prompts)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3", "opt"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_request_does_not_depend_on_its_company(make_llm: Callable[..., LLM], name: str, dtype: str) -> None:
    prompts = random_prompts(12, tiny_models.VOCAB, 90)
    with make_llm(name, dtype=dtype, enable_prefix_caching=False) as llm:
        alone = [answers(llm, [prompt])[0] for prompt in prompts]
        assert answers(llm, prompts) == alone
    chunked = {"max_num_batched_tokens": 16, "max_num_seqs": 16}
    num_groups = 4 if name == "gemma3" else 1  # of layers with blocks of their own
    crowded = {"num_gpu_blocks_override": 40 * num_groups, "max_model_len": 192}  # preemptions
    for options in (chunked, crowded):
        with make_llm(name, dtype=dtype, **options) as llm:
            assert answers(llm, prompts) == alone
            assert answers(llm, prompts[::-1]) == alone[::-1]  # with hits of the prefix cache


def test_the_default_model(default_llm: LLM, default_gguf: Path) -> None:
    prompts = random_prompts(10, 40_000, 200)
    alone = [answers(default_llm, [prompt])[0] for prompt in prompts]
    assert answers(default_llm, prompts) == alone
    with LLM(str(default_gguf), max_model_len=1024, max_num_batched_tokens=48, max_num_seqs=32) as chunked:
        assert answers(chunked, prompts) == alone
