"""The floor's arithmetic, on numbers that were worked out by hand."""

from __future__ import annotations

import pytest

from octavo.bench.floor import Floor, Requests, tokens_seen
from octavo.cost import AttentionCost, MachineRates, ModelCost

COST = ModelCost(
    layer_bytes=1000,
    head_bytes=200,
    embedding_bytes=10,
    layer_operations={"int8": 4000, "bfloat16": 100},
    head_operations={"int8": 800},
    attention=(
        AttentionCost(sliding_window=None, kv_bytes=20, operations=8),
        AttentionCost(sliding_window=3, kv_bytes=5, operations=2),
    ),
    attention_arithmetic="bfloat16",
)
NO_MULTIPLIER = 1e30  # operations per second, so that reading alone counts
NO_READER = 1e30


def reading(num_bytes: float) -> Floor:
    return Floor(COST, MachineRates(read_bytes=num_bytes, operations={"float32": NO_MULTIPLIER}))


def computing(**operations: float) -> Floor:
    return Floor(COST, MachineRates(read_bytes=NO_READER, operations=operations))


@pytest.mark.parametrize(
    ("num_tokens", "window", "seen"),
    [(1, None, 1), (4, None, 10), (4, 4, 10), (4, 9, 10), (5, 2, 1 + 2 + 2 + 2 + 2), (5, 1, 5)],
)
def test_tokens_seen(num_tokens: int, window: int | None, seen: int) -> None:
    assert tokens_seen(num_tokens, window) == seen


def test_a_decode_step_reads_weights_once_and_each_request_its_context() -> None:
    # 1000 + 200 for the weights; each of 2 requests: 10 for its embedding, 7 * 20 and 3 * 5 for its context
    assert reading(100).decode_step(2, 7) == pytest.approx((1200 + 2 * (10 + 140 + 15)) / 100)


def test_a_decode_step_computes_each_request() -> None:
    # Each of 2 requests: 4800 in int8; 100 and 7 * 8 + 3 * 2 for attention in bfloat16
    floor = computing(float32=1, bfloat16=10, int8=100)
    assert floor.decode_step(2, 7) == pytest.approx(2 * (4800 / 100 + (100 + 56 + 6) / 10))


def test_the_slower_of_both_counts() -> None:
    rates = MachineRates(read_bytes=100, operations={"bfloat16": 10, "int8": 100})
    read, computed = 1375 / 100, 4800 / 100 + 162 / 10
    assert Floor(COST, rates).decode_step(1, 7) == pytest.approx(max(read - 0.1, computed))
    slow = MachineRates(read_bytes=1, operations={"bfloat16": 10, "int8": 100})
    assert Floor(COST, slow).decode_step(1, 7) == pytest.approx(1200 + 10 + 140 + 15)


def test_arithmetic_without_instructions_is_done_in_float32() -> None:
    assert computing(float32=10).decode_step(1, 7) == pytest.approx((4000 + 100 + 800 + 62) / 10)
    assert computing(float32=10, bfloat16=20).decode_step(1, 7) == pytest.approx(4800 / 10 + 162 / 20)


def test_prefill_reads_weights_once_a_step() -> None:
    # 3 requests of 5 tokens, 8 tokens a step: 2 steps; 15 tokens with 10 for the embedding and 25 for keys and values
    assert reading(100).prefill(3, 5, 8) == pytest.approx((2 * 1200 + 15 * 35) / 100)
    # One request in 3 steps makes logits in the last one only.
    assert reading(100).prefill(1, 5, 2) == pytest.approx((3 * 1000 + 200 + 5 * 35) / 100)


def test_prefill_computes_every_token_and_a_head_for_each_request() -> None:
    # Attention of a prompt of 5: 15 pairs without a window, 1 + 2 + 3 + 3 + 3 with one of 3
    attention = 15 * 8 + 12 * 2
    assert computing(float32=1, bfloat16=10, int8=100).prefill(3, 5, 8) == pytest.approx(
        (15 * 4000 + 3 * 800) / 100 + (15 * 100 + 3 * attention) / 10
    )


def test_a_workload_is_prompts_and_then_a_step_for_each_further_token() -> None:
    floor = reading(100)
    requests = Requests(num_requests=2, input_len=5, output_len=3)
    expected = floor.prefill(2, 5, 100) + floor.decode_step(2, 6) + floor.decode_step(2, 7)
    assert floor.workload(requests, max_num_seqs=2, max_num_batched_tokens=100) == pytest.approx(expected)


def test_more_requests_than_run_at_once_come_after_one_another() -> None:
    floor = reading(100)

    def seconds(num_requests: int, max_num_seqs: int) -> float:
        requests = Requests(num_requests=num_requests, input_len=5, output_len=3)
        return floor.workload(requests, max_num_seqs=max_num_seqs, max_num_batched_tokens=100)

    assert seconds(7, 3) == pytest.approx(2 * seconds(3, 3) + seconds(1, 3))
    assert seconds(6, 3) == pytest.approx(2 * seconds(3, 3))
    assert seconds(1, 3) == pytest.approx(seconds(1, 1))


def test_rates_in_a_line() -> None:
    rates = MachineRates(read_bytes=34.1e9, operations={"float32": 232e9, "int8": 930e9}, barrier_seconds=63e-9)
    assert rates.describe() == "barrier 63 ns, read 34.1 GB/s, float32 232, int8 930 Gop/s"
    assert MachineRates(read_bytes=1e9, operations={"bfloat16": 5e9}).describe() == "read 1.0 GB/s, bfloat16 5 Gop/s"
