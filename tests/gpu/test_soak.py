"""Many short requests of every kind through one engine with a tiny cache: nothing is left behind on either side."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path

import pytest
import tiny_models
import torch

from octavo import LLM, SamplingParams
from octavo.request import FinishReason, Request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

NUM_REQUESTS = int(os.environ.get("SOAK_REQUESTS", "20000"))
WAITING = 600  # requests in the engine at a time
SLACK = 64 << 20  # bytes: graphs that were still to be captured when counting began


def random_params(rng: random.Random) -> SamplingParams:
    """Greedy ones, and others with a few of all the fields."""
    length = rng.randint(1, 12) if rng.random() < 0.9 else 80  # the long ones fill the cache and are preempted
    fields: dict[str, object] = {"max_tokens": length, "temperature": rng.choice([0.0, 0.3, 1.0, 1.7])}
    chances = {
        "top_k": lambda: rng.choice([1, 2, 5, 40, 1000]),
        "top_p": lambda: rng.uniform(0.05, 1.0),
        "min_p": lambda: rng.uniform(0.0, 0.9),
        "seed": lambda: rng.randrange(1 << 30),
        "repetition_penalty": lambda: rng.uniform(0.7, 1.5),
        "presence_penalty": lambda: rng.uniform(-1.0, 1.0),
        "frequency_penalty": lambda: rng.uniform(-1.0, 1.0),
        "logprobs": lambda: rng.randint(0, 5),
        "prompt_logprobs": lambda: rng.randint(0, 2),
        "ignore_eos": lambda: True,
        "min_tokens": lambda: 1,
        "logit_bias": lambda: {rng.randrange(tiny_models.VOCAB): rng.uniform(-9.0, 9.0)},
        "allowed_token_ids": lambda: rng.sample(range(tiny_models.VOCAB), 7),
        "stop_token_ids": lambda: [rng.randrange(tiny_models.VOCAB)],
    }
    for name, make in chances.items():
        if rng.random() < 0.12:
            fields[name] = make()
    return SamplingParams(detokenize=False, **fields)


def random_request(llm: LLM, index: int, rng: random.Random, prefixes: list[list[int]]) -> Request:
    length = rng.choice([1, 2, 7, 15, 16, 17, 40, 90])
    own = [rng.randrange(tiny_models.VOCAB) for _ in range(length)]
    ids = rng.choice(prefixes) + own if rng.random() < 0.5 else own
    prompt = llm._inputs.prompt({"prompt_token_ids": ids})
    return llm._inputs.requests(f"request-{index}", prompt, random_params(rng))[0]


def settle(llm: LLM) -> int:
    """Bytes of the device in use when nothing runs; no block may be."""
    scheduler = llm._engine._scheduler  # type: ignore[attr-defined]
    scheduler.kv_cache.pool.check()
    assert scheduler.kv_cache.pool.num_used == 0
    assert not scheduler.requests
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def serve(llm: LLM, indices: range, rng: random.Random, prefixes: list[list[int]]) -> dict[FinishReason | None, int]:
    """All requests of `indices`, some of them aborted on the way; how many ended for which reason."""
    engine, to_come = llm._engine, iter(indices)
    alive: dict[str, Request] = {}
    ended: dict[FinishReason | None, int] = {}
    exhausted = False
    while not exhausted or alive or engine.has_unfinished:
        while not exhausted and len(alive) < WAITING:
            index = next(to_come, None)
            if index is None:
                exhausted = True
                break
            request = random_request(llm, index, rng, prefixes)
            alive[request.request_id] = request
            engine.add_request(request)
        if alive and rng.random() < 0.3:
            victims = rng.sample(sorted(alive), min(len(alive), rng.randint(1, 5)))
            engine.finish_requests(victims, FinishReason.ABORT)
            for victim in victims:
                del alive[victim]
            ended[FinishReason.ABORT] = ended.get(FinishReason.ABORT, 0) + len(victims)
        for update in engine.step():
            if update.finish_reason is not None and update.request_id in alive:
                del alive[update.request_id]
                ended[update.finish_reason] = ended.get(update.finish_reason, 0) + 1
    return ended


def test_nothing_is_left_after_many_requests(tmp_path: Path) -> None:
    rng = random.Random(0)
    folder = tiny_models.save("qwen3", tmp_path)
    prefixes = [[rng.randrange(tiny_models.VOCAB) for _ in range(rng.choice([16, 33, 64]))] for _ in range(6)]
    options = {"skip_tokenizer_init": True, "use_tqdm_on_load": False, "block_size": 16, "num_gpu_blocks_override": 200}
    with LLM(str(folder), dtype="bfloat16", max_num_seqs=128, max_num_batched_tokens=1024, **options) as llm:
        warm = min(2000, NUM_REQUESTS // 2)
        serve(llm, range(warm), rng, prefixes)
        before = settle(llm)
        ended = serve(llm, range(warm, NUM_REQUESTS), rng, prefixes)
        after = settle(llm)
        preempted = next(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions")
    assert sum(ended.values()) == NUM_REQUESTS - warm
    assert ended[FinishReason.ABORT] > 100
    assert preempted > 0
    assert after - before < SLACK
