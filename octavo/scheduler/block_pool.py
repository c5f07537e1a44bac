"""BlockPool: the free list of KV-cache blocks and the map from content to block.

It knows block ids, reference counts and content keys; not requests, tokens or layers. A block is in exactly one of
three states: used (reference count above 0), free and cached (its content can still be found), free and blank.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable


class BlockPool:
    """`num_blocks` blocks, handed out by id from 0. All operations are O(1) a block.

    Blank blocks are handed out first, the last freed one before all others, so that a lightly loaded engine touches
    little memory; after them the cached ones, least recently used first. A block that was never used costs new memory
    where memory is taken when it is first written: once `soft_limit` blocks have been used, cached content makes room
    first, and the others are there for what is in use at once. None: there is no such limit.
    """

    def __init__(self, num_blocks: int, soft_limit: int | None = None) -> None:
        self.num_blocks = num_blocks
        self.soft_limit = num_blocks if soft_limit is None else soft_limit
        self._ref_counts = [0] * num_blocks
        self._keys: list[Hashable | None] = [None] * num_blocks
        self._blank: list[int] = []  # of those used before
        self._num_touched = 0  # the blocks from here on were never used
        self._cached_free: OrderedDict[int, None] = OrderedDict()
        self._by_key: dict[Hashable, int] = {}

    @property
    def num_free(self) -> int:
        return self.num_blocks - self._num_touched + len(self._blank) + len(self._cached_free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def is_free(self, block_id: int) -> bool:
        return self._ref_counts[block_id] == 0

    def lookup(self, key: Hashable) -> int | None:
        """The block that holds the content `key`, used or free."""
        return self._by_key.get(key)

    def allocate(self, num_blocks: int) -> list[int]:
        """Take `num_blocks` free blocks, one reference each. The caller has seen that there are enough."""
        taken = []
        for _ in range(num_blocks):
            if self._blank:
                block_id = self._blank.pop()
            elif self._num_touched < (self.num_blocks if not self._cached_free else self.soft_limit):
                block_id = self._num_touched
                self._num_touched += 1
            else:
                block_id, _ = self._cached_free.popitem(last=False)
                self._forget(block_id)
            self._ref_counts[block_id] = 1
            taken.append(block_id)
        return taken

    def share(self, block_ids: Iterable[int]) -> None:
        """Take one more reference to blocks found by `lookup`."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                del self._cached_free[block_id]
            self._ref_counts[block_id] += 1

    def release(self, block_ids: Iterable[int]) -> None:
        """Give back one reference each. What is given back first is evicted first."""
        for block_id in block_ids:
            count = self._ref_counts[block_id] - 1
            assert count >= 0, f"block {block_id} was released more often than taken"
            self._ref_counts[block_id] = count
            if count == 0:
                if self._keys[block_id] is None:
                    self._blank.append(block_id)
                else:
                    self._cached_free[block_id] = None

    def register(self, block_id: int, key: Hashable) -> None:
        """The used block holds the content `key` from now on. The first block of a content keeps the key."""
        if key not in self._by_key:
            self._by_key[key] = block_id
            self._keys[block_id] = key

    def reset_cache(self) -> bool:
        """Forget all contents. False, and nothing done, while blocks are in use."""
        if self.num_used:
            return False
        for block_id in self._cached_free:
            self._keys[block_id] = None
        self._blank.extend(self._cached_free)
        self._cached_free.clear()
        self._by_key.clear()
        return True

    def check(self) -> None:
        """Assert that every block is in one state and every key leads to its block. For tests; O(num_blocks)."""
        untouched = set(range(self._num_touched, self.num_blocks))
        assert len(set(self._blank)) == len(self._blank), "a block is twice in the free list"
        assert not untouched & set(self._blank), "a block that was never used was freed"
        blank, cached = untouched | set(self._blank), set(self._cached_free)
        assert not blank & cached, "a block is blank and cached"
        for block_id, count in enumerate(self._ref_counts):
            assert (count == 0) == (block_id in blank or block_id in cached), f"block {block_id} is lost or owned twice"
            key = self._keys[block_id]
            assert key is None or self._by_key[key] == block_id
            assert block_id not in blank or key is None
        assert all(self._keys[block_id] == key for key, block_id in self._by_key.items())

    def _forget(self, block_id: int) -> None:
        key = self._keys[block_id]
        if key is not None:
            del self._by_key[key]
            self._keys[block_id] = None
