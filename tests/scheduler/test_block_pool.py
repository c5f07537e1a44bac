"""BlockPool: states, sharing, eviction order."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from octavo.scheduler.block_pool import BlockPool


def test_blank_blocks_go_first_then_the_least_recently_used() -> None:
    pool = BlockPool(3)
    a, b, c = pool.allocate(3)
    pool.register(a, "a")
    pool.register(b, "b")
    pool.release([b])
    pool.release([a])
    pool.release([c])
    assert pool.allocate(1) == [c]
    assert pool.allocate(1) == [b]
    assert pool.lookup("b") is None
    assert pool.lookup("a") == a


def test_cached_blocks_make_room_once_the_soft_limit_is_used() -> None:
    pool = BlockPool(5, soft_limit=2)
    (a,) = pool.allocate(1)
    pool.register(a, "a")
    pool.release([a])
    (b,) = pool.allocate(1)
    assert pool.lookup("a") == a  # kept: the limit was not reached
    pool.register(b, "b")
    pool.release([b])
    assert pool.allocate(1) == [a]
    assert pool.allocate(1) == [b]
    c, d = pool.allocate(2)  # nothing cached is left, so more is taken
    assert {c, d} == {2, 3}
    pool.release([d])
    assert pool.allocate(1) == [d]
    assert pool.num_free == 1
    pool.check()


def test_memory_is_what_was_in_use_at_once() -> None:
    """Rounds of requests that share nothing use the blocks of the round before."""
    pool, used = BlockPool(100, soft_limit=3), set()
    for round_number in range(5):
        blocks = pool.allocate(10)
        used |= set(blocks)
        for block_id in blocks:
            pool.register(block_id, (round_number, block_id))
        pool.release(blocks)
    assert used == set(range(10))


def test_a_shared_block_is_free_only_after_its_last_owner() -> None:
    pool = BlockPool(2)
    (a,) = pool.allocate(1)
    pool.register(a, "a")
    pool.share([a])
    pool.release([a])
    assert not pool.is_free(a)
    pool.release([a])
    assert pool.is_free(a)
    pool.share([a])
    assert pool.num_free == 1


def test_the_first_block_of_a_content_keeps_it() -> None:
    pool = BlockPool(2)
    a, b = pool.allocate(2)
    pool.register(a, "x")
    pool.register(b, "x")
    assert pool.lookup("x") == a
    pool.release([a, b])
    pool.check()


def test_reset_forgets_contents_but_not_while_blocks_are_in_use() -> None:
    pool = BlockPool(2)
    (a,) = pool.allocate(1)
    pool.register(a, "a")
    assert not pool.reset_cache()
    pool.release([a])
    assert pool.reset_cache()
    assert pool.lookup("a") is None
    pool.check()
    assert sorted(pool.allocate(2)) == [0, 1]


class PoolMachine(RuleBasedStateMachine):
    """Random use against a model that keeps plain sets."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6, soft_limit=3)
        self.owned: list[int] = []

    @precondition(lambda self: self.pool.num_free)
    @rule(data=st.data())
    def allocate(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, self.pool.num_free))
        taken = self.pool.allocate(count)
        assert not set(taken) & set(self.owned)
        self.owned += taken

    @precondition(lambda self: self.owned)
    @rule(data=st.data(), key=st.integers(0, 4))
    def register(self, data: st.DataObject, key: int) -> None:
        block_id = data.draw(st.sampled_from(self.owned))
        if self.pool._keys[block_id] is None:
            self.pool.register(block_id, key)

    @rule(key=st.integers(0, 4))
    def share(self, key: int) -> None:
        block_id = self.pool.lookup(key)
        if block_id is not None:
            self.pool.share([block_id])
            self.owned.append(block_id)

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block_id = data.draw(st.sampled_from(self.owned))
        self.owned.remove(block_id)
        self.pool.release([block_id])

    @invariant()
    def accounts_agree(self) -> None:
        self.pool.check()
        assert self.pool.num_used == len(set(self.owned))


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
