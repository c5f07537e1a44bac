"""The memory plan: how much of the cache keeps what nobody uses at the moment."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.config import CacheConfig, Checkpoint, DeviceTraits, EngineArgs, KVGroupSpec, SchedulerConfig, resolve
from octavo.worker.memory_plan import GIB, MemoryNeeds, layout, plan_memory

GROUPS = (KVGroupSpec(layer_ids=(0,)),)
BLOCK = 1 << 20
CHECKPOINT = Checkpoint(
    path="model",
    format="safetensors",
    hf_config={
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 8,
        "max_position_embeddings": 2048,
        "dtype": "bfloat16",
    },
    generation_config={},
)


def resolved(on_touch: bool, **args: Any) -> tuple[CacheConfig, SchedulerConfig]:
    traits = DeviceTraits(
        name="device",
        dtypes=("bfloat16",),
        block_size=128,
        max_num_seqs=64,
        max_num_batched_tokens=2048,
        gpu_memory_utilization=0.25,
        async_scheduling=False,
        memory_on_touch=on_touch,
    )
    config = resolve(EngineArgs.from_kwargs(model="model", **args), CHECKPOINT, traits)
    return config.cache, config.scheduler


def soft_limit(weights: int, on_touch: bool = True, **args: Any) -> tuple[int | None, int]:
    cache, scheduler = resolved(on_touch, **args)
    needs = MemoryNeeds(total=16 * GIB, available=8 * GIB, weights=weights, activations=0, bytes_per_block=BLOCK)
    found = layout(plan_memory(needs, cache, scheduler, GROUPS), GROUPS)
    return found.soft_limit, found.num_blocks


def test_as_much_as_the_weights_or_one_request() -> None:
    assert soft_limit(weights=100 * BLOCK) == (100, 64 * 16)
    assert soft_limit(weights=3 * BLOCK) == (16, 64 * 16)
    assert soft_limit(weights=100 * BLOCK, max_num_seqs=2) == (32, 32)


def test_a_share_of_the_memory_is_a_bound_and_no_wish() -> None:
    assert soft_limit(weights=100 * BLOCK, gpu_memory_utilization=0.25)[0] == 100


@pytest.mark.parametrize("args", [{"kv_cache_memory_bytes": 200 * BLOCK}, {"num_gpu_blocks_override": 200}])
def test_all_that_the_user_asked_for(args: dict[str, Any]) -> None:
    assert soft_limit(weights=100 * BLOCK, **args)[0] is None


def test_all_where_memory_is_taken_at_once() -> None:
    assert soft_limit(weights=100 * BLOCK, on_touch=False)[0] is None
