"""The memory plan: how much of the device goes to weights, activations and the KV cache.

Arithmetic only; it allocates nothing and knows no model, just sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from octavo.config import CacheConfig, KVCacheLayout, KVGroupSpec, SchedulerConfig
from octavo.errors import OutOfMemoryError

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeeds:
    """Bytes, and what decides the size of the KV cache."""

    total: int  # of the device
    available: int  # of the device, before the KV cache, after the weights
    weights: int
    activations: int  # the most that a step needs beside weights and KV cache
    bytes_per_block: int  # of the KV cache, for one group of layers


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    needs: MemoryNeeds
    num_blocks: int
    block_size: int
    budget: int  # bytes that the engine may use in all
    soft_limit: int | None  # blocks that are used before cached content makes room; None: all

    @property
    def kv_cache(self) -> int:
        return self.num_blocks * self.needs.bytes_per_block

    def table(self) -> str:
        """The plan as a few lines of text, for the log."""
        rows = [
            ("weights", self.needs.weights),
            ("activations", self.needs.activations),
            (f"KV cache ({self.num_blocks} blocks of {self.block_size} tokens)", self.kv_cache),
            *self._soft_limit_row(),
            ("free", max(0, self.needs.available - self.needs.activations - self.kv_cache)),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"  {name:<{width}}  {size / GIB:8.3f} GiB" for name, size in rows]
        return "\n".join([f"memory plan ({self.needs.total / GIB:.1f} GiB in all):", *lines])

    def _soft_limit_row(self) -> list[tuple[str, int]]:
        if self.soft_limit is None:
            return []
        return [("of it for finished requests", self.soft_limit * self.needs.bytes_per_block)]


def activation_bytes(
    *, num_tokens: int, num_seqs: int, hidden_size: int, widest: int, vocab_size: int, element_size: int
) -> int:
    """An estimate of a step's temporaries: some hidden states and the widest product a token, logits a sequence.

    Eight rows of the hidden size (input, residual, norm, q, k, v, attention, its projection), three of the widest
    layer (product, activation, its input), and four float32 copies of the logits for sampling.
    """
    per_token = (8 * hidden_size + 3 * widest) * element_size
    return num_tokens * per_token + num_seqs * vocab_size * (4 * 4 + element_size)


def plan_memory(
    needs: MemoryNeeds, cache: CacheConfig, scheduler: SchedulerConfig, groups: tuple[KVGroupSpec, ...]
) -> MemoryPlan:
    """How many blocks the KV cache has.

    A sparing cache keeps the content of finished requests in as much memory as the weights take, and as one request of
    max_model_len tokens needs: a measure that grows with the model. Beyond that it takes what running requests need.

    Raises:
        OutOfMemoryError: there is no room for a block, or for one request of max_model_len tokens.
    """
    block_size = cache.block_size
    least = blocks_for(groups, block_size, scheduler.max_model_len, scheduler.max_num_batched_tokens)
    budget = min(int(cache.gpu_memory_utilization * needs.total), needs.weights + needs.available)
    if cache.num_gpu_blocks_override is not None:
        num_blocks, option = cache.num_gpu_blocks_override, "num_gpu_blocks_override"
        enough = str(least)
    elif cache.kv_cache_memory_bytes is not None:
        num_blocks, option = cache.kv_cache_memory_bytes // needs.bytes_per_block, "kv_cache_memory_bytes"
        enough = str(least * needs.bytes_per_block)
    else:
        most = least * scheduler.max_num_seqs  # more could never be used at once
        num_blocks = min(most, (budget - needs.weights - needs.activations) // needs.bytes_per_block)
        wanted = needs.weights + needs.activations + least * needs.bytes_per_block
        option, share = "gpu_memory_utilization", -(-wanted * 100 // needs.total) / 100
        enough = f"{share:.2f}" if share <= 1 else f"more than this device has ({wanted / GIB:.2f} GiB)"
    num_blocks = max(num_blocks, 0)
    if num_blocks < least:
        longest = longest_that_fits(groups, block_size, num_blocks, scheduler)
        shorter = f", or lower max_model_len to at most {longest}" if longest else ""
        raise OutOfMemoryError(
            f"the KV cache has room for {num_blocks} blocks of {block_size} tokens, but one request of max_model_len "
            f"({scheduler.max_model_len}) needs {least}; raise {option} to {enough}{shorter}. "
            f"(weights {needs.weights / GIB:.3f} GiB, activations {needs.activations / GIB:.3f} GiB, "
            f"a block {needs.bytes_per_block} bytes, budget {budget / GIB:.3f} of {needs.total / GIB:.3f} GiB)"
        )
    soft_limit = min(num_blocks, max(least, needs.weights // needs.bytes_per_block)) if cache.sparing else None
    return MemoryPlan(needs=needs, num_blocks=num_blocks, block_size=block_size, budget=budget, soft_limit=soft_limit)


def blocks_for(groups: tuple[KVGroupSpec, ...], block_size: int, num_tokens: int, max_num_batched_tokens: int) -> int:
    """The most blocks, over all groups, that one request of `num_tokens` tokens holds at once."""
    return sum(group.blocks_per_request(block_size, num_tokens, max_num_batched_tokens) for group in groups)


def longest_that_fits(
    groups: tuple[KVGroupSpec, ...], block_size: int, num_blocks: int, scheduler: SchedulerConfig
) -> int:
    """The largest max_model_len for which one request fits into `num_blocks` blocks; 0 when none does."""
    low, high = 0, scheduler.max_model_len
    while low < high:
        middle = (low + high + 1) // 2
        if blocks_for(groups, block_size, middle, scheduler.max_num_batched_tokens) <= num_blocks:
            low = middle
        else:
            high = middle - 1
    return low


def group_layers(windows: list[int | None]) -> tuple[KVGroupSpec, ...]:
    """Layers in groups of equal size that share block tables.

    `windows` holds each layer's sliding window, None for full attention. All groups draw on one pool of blocks, so a
    block has room for as many layers as a group has; the smallest kind sets that size, and the last group of a kind
    may be shorter (its room in a block stays unused).
    """
    kinds: dict[int | None, list[int]] = {}
    for layer_id, window in enumerate(windows):
        kinds.setdefault(window, []).append(layer_id)
    size = min(len(layer_ids) for layer_ids in kinds.values())
    return tuple(
        KVGroupSpec(layer_ids=tuple(layer_ids[start : start + size]), sliding_window=window)
        for window, layer_ids in kinds.items()
        for start in range(0, len(layer_ids), size)
    )


def layout(plan: MemoryPlan, groups: tuple[KVGroupSpec, ...]) -> KVCacheLayout:
    return KVCacheLayout(
        num_blocks=plan.num_blocks, block_size=plan.block_size, groups=groups, soft_limit=plan.soft_limit
    )
