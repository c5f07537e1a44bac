"""KVCacheManager: the block tables of the requests, prefix hits, and the blocks that leave a sliding window.

Layers are in groups; a request has one block table per group, and all groups draw on one BlockPool. A block's content
is known by a SHA-256 chained over the request's blocks (`block_hashes`); a block is registered under (hash, group) as
soon as the step that fills it is scheduled: steps run in order, so whoever finds it reads it after it is written.

Most steps of a running request change nothing here: no block is needed, none becomes full, none leaves a window until
more than `num_settled_tokens` tokens are computed. Only then need blocks be asked for.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass

from octavo.config import KVCacheLayout, KVGroupSpec
from octavo.request import Request
from octavo.scheduler.block_pool import BlockPool

FREED = -1  # in a block table: the block left the window
TOKEN_BYTES = 8  # in `token_bytes`


def chain_hash(parent: bytes | None, tokens: bytes, lora: str | None, cache_salt: str | None) -> bytes:
    """SHA-256 of a block's content: its parent's hash, its tokens and what else its keys and values depend on.

    `tokens` are 64-bit integers (`token_bytes`). Each part is preceded by a type tag and its length, so that no two
    different contents give the same bytes.
    """
    content = _tagged(b"P", parent or b"") + _tagged(b"T", tokens)
    if parent is None:  # the chain carries these to all later blocks
        content += _tagged(b"L", (lora or "").encode()) + _tagged(b"S", (cache_salt or "").encode())
    return hashlib.sha256(content).digest()


def token_bytes(token_ids: list[int]) -> bytes:
    return array("q", token_ids).tobytes()


def _tagged(tag: bytes, part: bytes) -> bytes:
    return tag + len(part).to_bytes(8, "little") + part


@dataclass(slots=True)
class PrefixHit:
    """Blocks found in the cache for the beginning of a request."""

    num_tokens: int
    block_ids: tuple[list[int], ...]  # per group; FREED where the window does not reach


class KVCacheManager:
    """Block tables over one pool. Of a request it changes `block_ids`, `block_hashes` and `num_settled_tokens`."""

    def __init__(self, layout: KVCacheLayout, *, enable_prefix_caching: bool) -> None:
        self.block_size = layout.block_size
        self.groups = layout.groups
        self.pool = BlockPool(layout.num_blocks, layout.soft_limit)
        self.enable_prefix_caching = enable_prefix_caching
        self.no_blocks: tuple[list[int], ...] = tuple([] for _ in self.groups)  # what a step takes that needs none
        self._windows = [(i, group) for i, group in enumerate(self.groups) if group.sliding_window is not None]
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

    def admit(self, request: Request, hit: PrefixHit, num_new_tokens: int) -> bool:
        """Tables for a waiting request: the blocks of `hit`, then blocks for `num_new_tokens` tokens after them.

        False, and nothing done, when there are too few. There must be room for all tokens that the host knows of the
        request, though no more is taken than asked.
        """
        target = hit.num_tokens + num_new_tokens
        most = max(target, request.num_tokens)
        num_missing = self._num_missing(hit.block_ids, target)
        reserved = num_free_found = 0
        for group, table in zip(self.groups, hit.block_ids, strict=True):
            held = [block_id for block_id in table if block_id != FREED]
            reserved += max(0, group.blocks_per_request(self.block_size, most, num_new_tokens) - len(held))
            num_free_found += sum(map(self.pool.is_free, held))
        if max(num_missing * len(self.groups), reserved) > self.pool.num_free - num_free_found:
            return False
        for table in hit.block_ids:
            self.pool.share(block_id for block_id in table if block_id != FREED)
        request.block_ids = hit.block_ids
        self._num_registered[request.request_id] = hit.num_tokens // self.block_size
        self._append_blocks(request, num_missing)
        self._settle(request, hit.num_tokens, target)
        return True

    def allocate(self, request: Request, num_new_tokens: int) -> tuple[list[int], ...] | None:
        """Blocks for the next `num_new_tokens` tokens of a running request: the new ids per group, None when too few.

        What has left the windows is given back first.
        """
        computed = request.num_computed_tokens
        target = computed + num_new_tokens
        self._release_outside_windows(request)
        num_missing = self._num_missing(request.block_ids, target)
        if num_missing * len(self.groups) > self.pool.num_free:
            return None
        new_ids = self._append_blocks(request, num_missing)
        self._settle(request, computed, target)
        return new_ids

    def free(self, request: Request) -> None:
        """Give back all blocks of the request, the last ones first: the beginning is what others may share."""
        self._register(request, request.num_computed_tokens)
        for table in request.block_ids:
            self.pool.release(b for b in reversed(table) if b != FREED)
        request.block_ids = ()
        request.num_settled_tokens = 0
        self._num_registered.pop(request.request_id, None)

    def reset_prefix_cache(self) -> bool:
        return self.pool.reset_cache()

    @property
    def usage(self) -> float:
        """Share of the blocks in use, 0 to 1."""
        return self.pool.num_used / self.pool.num_blocks

    def _num_missing(self, tables: tuple[list[int], ...], num_tokens: int) -> int:
        """The blocks that each of the tables, which are of one length, needs for so many tokens."""
        return max(0, -(-num_tokens // self.block_size) - len(tables[0]))

    def _append_blocks(self, request: Request, num_missing: int) -> tuple[list[int], ...]:
        """Make each table longer by `num_missing` blocks; their ids per group."""
        if num_missing == 0:
            return self.no_blocks
        new_ids = []
        for table in request.block_ids:
            ids = self.pool.allocate(num_missing)
            table.extend(ids)
            new_ids.append(ids)
        return tuple(new_ids)

    def _settle(self, request: Request, computed: int, target: int) -> None:
        """Register what a step from `computed` to `target` tokens fills, and note for how long nothing more is to do.

        That is until the last block gets full (a token that is still being sampled has it registered one step later,
        with the block after it) or the first block leaves a window.
        """
        self._register(request, target)
        settled = len(request.block_ids[0]) * self.block_size - 1
        for _, group in self._windows:
            assert group.sliding_window is not None
            end_of_first = (self._first_needed_block(group, computed) + 1) * self.block_size
            settled = min(settled, end_of_first + group.sliding_window - 1)
        request.num_settled_tokens = settled

    def _first_needed_block(self, group: KVGroupSpec, num_computed: int) -> int:
        """The first block that a query at position `num_computed` can see."""
        if group.sliding_window is None:
            return 0
        return max(0, num_computed - group.sliding_window + 1) // self.block_size

    def _release_outside_windows(self, request: Request) -> None:
        for group_id, group in self._windows:
            table = request.block_ids[group_id]
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
        tokens = token_bytes(request.tokens_between(len(hashes) * self.block_size, num_full * self.block_size))
        width = self.block_size * TOKEN_BYTES
        parent = hashes[-1] if hashes else None
        for start in range(0, len(tokens), width):
            parent = chain_hash(parent, tokens[start : start + width], request.lora, request.cache_salt)
            hashes.append(parent)

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
