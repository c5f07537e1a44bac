"""KVCacheManager: the names of blocks, and that asking only beyond `num_settled_tokens` leaves out nothing."""

from __future__ import annotations

import hashlib
from array import array

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from octavo.config import KVCacheLayout, KVGroupSpec
from octavo.request import Request
from octavo.sampling_params import SamplingParams
from octavo.scheduler.kv_cache import KVCacheManager


def make_manager(block_size: int, windows: list[int | None], num_blocks: int = 200) -> KVCacheManager:
    groups = tuple(KVGroupSpec(layer_ids=(i,), sliding_window=window) for i, window in enumerate(windows))
    layout = KVCacheLayout(num_blocks=num_blocks, block_size=block_size, groups=groups)
    return KVCacheManager(layout, enable_prefix_caching=True)


def request(prompt: list[int], output: list[int] | None = None, **fields: str) -> Request:
    return Request(
        request_id="a", prompt_token_ids=prompt, output_token_ids=output or [], params=SamplingParams(), **fields
    )  # type: ignore[arg-type]


def names(one: Request, block_size: int = 4) -> list[bytes]:
    make_manager(block_size, [None]).find_prefix(one)
    return one.block_hashes


def test_the_name_of_a_block_is_a_hash_of_its_typed_parts() -> None:
    def part(tag: str, content: bytes) -> bytes:
        return tag.encode() + len(content).to_bytes(8, "little") + content

    tokens = [1, 2**40, 3, 4, 5, 6, 7, 8, 9]
    texts = [array("q", tokens[i : i + 4]).tobytes() for i in (0, 4)]
    first = hashlib.sha256(part("P", b"") + part("T", texts[0]) + part("L", b"ad") + part("S", "sä".encode()))
    second = hashlib.sha256(part("P", first.digest()) + part("T", texts[1]))
    assert names(request(tokens, lora="ad", cache_salt="sä")) == [first.digest(), second.digest()]


@pytest.mark.parametrize("split", range(1, 13))
def test_the_border_between_prompt_and_output_does_not_show_in_the_names(split: int) -> None:
    tokens = list(range(100, 113))
    whole = names(request(tokens))
    assert len(set(whole)) == 3
    assert names(request(tokens[:split], tokens[split:])) == whole
    grown = request(tokens[:split], tokens[split:-4])  # named in two goes
    names(grown)
    grown.output_token_ids.extend(tokens[len(grown.all_token_ids) :])
    assert names(grown) == whole


def state(manager: KVCacheManager, one: Request) -> object:
    pool = manager.pool
    return one.block_ids, one.block_hashes, pool._by_key, pool._blank, list(pool._cached_free), pool._ref_counts


@settings(max_examples=300, deadline=None)
@given(
    block_size=st.sampled_from([1, 2, 4, 8]),
    windows=st.sampled_from([[None], [1], [3], [9], [None, 5], [7, None, 3], [8, 4]]),
    prompt_length=st.integers(1, 40),
    chunk=st.integers(1, 40),
    num_decoded=st.integers(0, 40),
    lag=st.integers(0, 1),
)
def test_a_manager_that_is_asked_only_when_needed_keeps_the_tables_of_one_that_is_always_asked(
    block_size: int, windows: list[int | None], prompt_length: int, chunk: int, num_decoded: int, lag: int
) -> None:
    """`lag`: how many tokens are still being sampled when the next step is scheduled."""
    always, when_needed = (make_manager(block_size, windows) for _ in range(2))
    requests = [request(list(range(prompt_length))) for _ in range(2)]
    for manager, one in zip((always, when_needed), requests, strict=True):
        hit = manager.find_prefix(one)  # a window that reaches back to no other block is a hit of its own
        one.num_computed_tokens = hit.num_tokens
        count = min(chunk, prompt_length - hit.num_tokens)
        assert manager.admit(one, hit, count)
        one.num_computed_tokens += count
    while one.num_computed_tokens < prompt_length + num_decoded:
        assert state(always, requests[0]) == state(when_needed, requests[1])
        for manager, one in zip((always, when_needed), requests, strict=True):
            count = min(chunk, max(1, prompt_length - one.num_computed_tokens))
            target = one.num_computed_tokens + count
            one.output_token_ids.extend(range(one.num_tokens, target - lag))  # what the host knows of them
            if manager is always or target > one.num_settled_tokens:
                assert manager.allocate(one, count) is not None
            one.num_computed_tokens = target
            assert all(len(table) == -(-target // block_size) for table in one.block_ids)
    assert state(always, requests[0]) == state(when_needed, requests[1])
    for manager, one in zip((always, when_needed), requests, strict=True):
        manager.free(one)
        assert one.num_settled_tokens == 0
        assert manager.pool.num_used == 0
    assert state(always, requests[0]) == state(when_needed, requests[1])


def test_most_steps_need_not_ask() -> None:
    manager, one = make_manager(16, [None, 20]), request(list(range(100)))
    assert manager.admit(one, manager.no_hit(), 100)
    one.num_computed_tokens = 100
    asked = []
    for computed in range(100, 164):
        one.output_token_ids.append(7)
        if computed + 1 > one.num_settled_tokens:
            assert manager.allocate(one, 1) is not None
            asked.append(computed)
        one.num_computed_tokens += 1
    # The first step after the prompt lets go of what left the window; then: a block gets full, the next one is taken,
    # and three tokens later the window (19 tokens before the new one) leaves a block behind.
    assert asked == [100, 111, 112, 115, 127, 128, 131, 143, 144, 147, 159, 160, 163]


def test_a_refused_admission_takes_nothing() -> None:
    manager = make_manager(4, [None], num_blocks=5)
    first, second = request(list(range(9))), request(list(range(20)))
    assert manager.admit(first, manager.find_prefix(first), 9)
    hit = manager.find_prefix(second)
    assert hit.num_tokens == 8
    assert not manager.admit(second, hit, 4)  # 20 tokens need 3 blocks more
    assert second.block_ids == ()
    assert manager.pool.num_used == 3
    third = request(list(range(15)))
    assert manager.admit(third, manager.find_prefix(third), 7)
    assert third.block_ids[0][:2] == first.block_ids[0][:2]
    manager.pool.check()
