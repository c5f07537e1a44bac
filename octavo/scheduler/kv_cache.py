"""KVCacheManager: the block tables of the requests, prefix hits, and the blocks that leave a sliding window.

Layers are in groups; a request has one block table per group, and all groups draw on one BlockPool. A block's content
is known by a SHA-256 chained over the request's blocks (`block_hashes`); a block is registered under (hash, group) as
soon as the step that fills it is scheduled: steps run in order, so whoever finds it reads it after it is written.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass

from octavo.config import KVCacheLayout, KVGroupSpec
from octavo.request import Request
from octavo.scheduler.block_pool import BlockPool

FREED = -1  # in a block table: the block left the window


def chain_hash(parent: bytes | None, token_ids: list[int], lora: str | None, cache_salt: str | None) -> bytes:
    """SHA-256 of a block's content: its parent's hash, its tokens and what else its keys and values depend on.

    Each part is preceded by a type tag and its length, so that no two different contents give the same bytes.
    """
    digest = hashlib.sha256()
    parts = [(b"P", parent or b""), (b"T", array("q", token_ids).tobytes())]
    if parent is None:  # the chain carries these to all later blocks
        parts += [(b"L", (lora or "").encode()), (b"S", (cache_salt or "").encode())]
    for tag, part in parts:
        digest.update(tag + len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


@dataclass(slots=True)
class PrefixHit:
    """Blocks found in the cache for the beginning of a request."""

    num_tokens: int
    block_ids: tuple[list[int], ...]  # per group; FREED where the window does not reach


class KVCacheManager:
    """Block tables over one pool. It changes `block_ids` and `block_hashes` of requests, nothing else of them."""

    def __init__(self, layout: KVCacheLayout, *, enable_prefix_caching: bool) -> None:
        self.block_size = layout.block_size
        self.groups = layout.groups
        self.pool = BlockPool(layout.num_blocks, layout.soft_limit)
        self.enable_prefix_caching = enable_prefix_caching
        self._num_registered: dict[str, int] = {}  # blocks of each request's tables that were offered to the cache

    def no_hit(self) -> PrefixHit:
        return PrefixHit(0, tuple([] for _ in self.groups))

    def find_prefix(self, request: Request) -> PrefixHit:
        """The longest beginning of the request that every group has in the cache; at least one token is left out."""
        if not self.enable_prefix_caching:
            return self.no_hit()
        self._extend_hashes(request)
        num_blocks = (request.num_tokens - 1) // self.block_size
        hashes = request.block_hashes[:num_blocks]
        num_blocks = len(hashes)
        settled = False
        while not settled:  # a group may shorten what a group before it found
            settled = True
            for group_id, group in enumerate(self.groups):
                found = self._longest_hit(group_id, group, hashes, num_blocks)
                settled &= found == num_blocks
                num_blocks = found
        tables: list[list[int]] = []
        for group_id, group in enumerate(self.groups):
            first = self._first_needed_block(group, num_blocks * self.block_size)
            found_ids = [self.pool.lookup((h, group_id)) for h in hashes[first:num_blocks]]
            tables.append([FREED] * first + [block_id for block_id in found_ids if block_id is not None])
        return PrefixHit(num_blocks * self.block_size, tuple(tables))

    def allocate(
        self, request: Request, num_new_tokens: int, hit: PrefixHit | None = None, reserve_tokens: int = 0
    ) -> tuple[list[int], ...] | None:
        """Blocks for the next `num_new_tokens` tokens of the request; the new ids per group, or None when too few.

        `hit` is given once, when the request is admitted: its blocks become the beginning of the tables.
        With `reserve_tokens` there must be room for that many tokens in all, though no more is taken than asked.
        """
        computed = request.num_computed_tokens
        if hit is not None:
            request.block_ids = tuple([] for _ in self.groups)
            computed = hit.num_tokens
        else:
            self._release_outside_window(request)
        target = computed + num_new_tokens
        tables = request.block_ids if hit is None else hit.block_ids
        needed = [max(0, -(-target // self.block_size) - len(table)) for table in tables]
        reserved = sum(
            max(
                0,
                group.blocks_per_request(self.block_size, max(target, reserve_tokens), num_new_tokens)
                - self._held(table),
            )
            for group, table in zip(self.groups, tables, strict=True)
        )
        num_free = self.pool.num_free
        if hit is not None:
            num_free -= sum(b != FREED and self.pool.is_free(b) for table in hit.block_ids for b in table)
        if max(sum(needed), reserved if reserve_tokens else 0) > num_free:
            return None
        if hit is not None:
            for table, found in zip(request.block_ids, hit.block_ids, strict=True):
                self.pool.share(b for b in found if b != FREED)
                table.extend(found)
            self._num_registered[request.request_id] = hit.num_tokens // self.block_size
        new_ids = tuple(self.pool.allocate(count) for count in needed)
        for table, ids in zip(request.block_ids, new_ids, strict=True):
            table.extend(ids)
        self._register(request, target)
        return new_ids

    def free(self, request: Request) -> None:
        """Give back all blocks of the request, the last ones first: the beginning is what others may share."""
        self._register(request, request.num_computed_tokens)
        for table in request.block_ids:
            self.pool.release(b for b in reversed(table) if b != FREED)
        request.block_ids = ()
        self._num_registered.pop(request.request_id, None)

    def reset_prefix_cache(self) -> bool:
        return self.pool.reset_cache()

    @property
    def usage(self) -> float:
        """Share of the blocks in use, 0 to 1."""
        return self.pool.num_used / self.pool.num_blocks

    def _held(self, table: list[int]) -> int:
        return sum(b != FREED for b in table)

    def _first_needed_block(self, group: KVGroupSpec, num_computed: int) -> int:
        """The first block that a query at position `num_computed` can see."""
        if group.sliding_window is None:
            return 0
        return max(0, num_computed - group.sliding_window + 1) // self.block_size

    def _release_outside_window(self, request: Request) -> None:
        for group, table in zip(self.groups, request.block_ids, strict=True):
            first = self._first_needed_block(group, request.num_computed_tokens)
            index = min(first, len(table)) - 1
            while index >= 0 and table[index] != FREED:
                self.pool.release((table[index],))
                table[index] = FREED
                index -= 1

    def _longest_hit(self, group_id: int, group: KVGroupSpec, hashes: list[bytes], limit: int) -> int:
        """The most blocks, at most `limit`, of which this group has all that a query after them sees."""
        if group.sliding_window is None:
            for index in range(limit):
                if self.pool.lookup((hashes[index], group_id)) is None:
                    return index
            return limit
        end = limit
        index = limit - 1
        while index >= self._first_needed_block(group, end * self.block_size):
            if self.pool.lookup((hashes[index], group_id)) is None:
                end = index
            index -= 1
        return end

    def _extend_hashes(self, request: Request) -> None:
        hashes = request.block_hashes
        num_full = request.num_tokens // self.block_size
        if len(hashes) >= num_full:
            return
        token_ids = request.all_token_ids
        for index in range(len(hashes), num_full):
            block = token_ids[index * self.block_size : (index + 1) * self.block_size]
            parent = hashes[-1] if hashes else None
            hashes.append(chain_hash(parent, block, request.lora, request.cache_salt))

    def _register(self, request: Request, num_computed: int) -> None:
        """Offer the request's full blocks, whose tokens are known, to the cache."""
        if not self.enable_prefix_caching or not request.block_ids:
            return
        start = self._num_registered[request.request_id]
        num_full = min(num_computed, request.num_tokens) // self.block_size
        if num_full <= start:
            return
        self._extend_hashes(request)
        for group_id, table in enumerate(request.block_ids):
            for index in range(start, num_full):
                if table[index] != FREED:
                    self.pool.register(table[index], (request.block_hashes[index], group_id))
        self._num_registered[request.request_id] = num_full
