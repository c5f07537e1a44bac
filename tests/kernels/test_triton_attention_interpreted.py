"""The Triton attention kernels in Triton's interpreter: their arithmetic without a GPU, on small shapes.

The interpreter must be chosen before Triton is imported, so the tests of this file run in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from paged_case import Heads, PagedCase, rotated_both_ways, through_backend
from torch import Tensor
from triton_device import INTERPRETED, loops_with_numpy_2_4

from octavo.attention.triton_attn import TritonAttentionBackend

inside = pytest.mark.skipif(not INTERPRETED, reason="runs in a process of its own, see the first test of this file")


@pytest.mark.skipif(INTERPRETED or find_spec("triton") is None, reason="needs the package triton")
def test_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(autouse=True)
def _loops(monkeypatch: pytest.MonkeyPatch) -> None:
    loops_with_numpy_2_4(monkeypatch)


def attend(case: PagedCase, *, num_splits: int = 0) -> Tensor:
    from octavo.kernels.triton_attention import paged_attention, plan_attention
    from octavo.kernels.triton_attention_tiles import AttentionTiles, DecodeTile, PrefillTile

    rows = max(16, case.heads.num_heads // case.heads.num_kv_heads)
    decode = DecodeTile(16, 1, 2)
    programs = num_splits * len(case.lengths + [(0, 0)] * case.padding) * case.heads.num_kv_heads
    tiles = AttentionTiles(decode, decode, PrefillTile(rows, 16, 1, 2), programs)
    plan = plan_attention(case.batch["query_start_loc"], **case.plan_arguments(), tiles=tiles)
    return paged_attention(case.q, case.kv_cache, plan, **case.batch, **case.scoring())


def check(case: PagedCase, *, num_splits: int = 0) -> None:
    bound = 1e-5 if case.heads.dtype == torch.float32 else 3e-3
    ours = attend(case, num_splits=num_splits)
    assert ours.dtype == case.heads.dtype
    assert (ours.float() - case.expected()).abs().max() < bound


DECODE = [(0, 1), (15, 1), (16, 1), (40, 1)]
MIXED = [(6, 1), (0, 19), (12, 5), (33, 1), (16, 16)]
LAYERS = {
    "plain": Heads(),
    "window": Heads(sliding_window=11),
    "window-of-one": Heads(sliding_window=1),
    "soft-cap": Heads(soft_cap=0.7),
    "window-and-soft-cap": Heads(sliding_window=20, soft_cap=0.7),
    "not-causal": Heads(causal=False),
    "no-sharing": Heads(num_kv_heads=4),
    "odd-group": Heads(num_heads=6),
    "wide-group": Heads(num_heads=16, num_kv_heads=1),
    "odd-head": Heads(head_dim=80),
    "blocks-of-many-tiles": Heads(block_size=64),
    "half": Heads(dtype=torch.float16),
}


@inside
@pytest.mark.parametrize("heads", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("num_splits", [0, 4, 8])
def test_decode(heads: Heads, num_splits: int) -> None:
    check(PagedCase(heads, DECODE), num_splits=num_splits)


@inside
@pytest.mark.parametrize("heads", LAYERS.values(), ids=LAYERS)
def test_prompts_chunks_and_single_tokens(heads: Heads) -> None:
    check(PagedCase(heads, MIXED), num_splits=4)


@inside
@pytest.mark.parametrize("heads", [Heads(), Heads(sliding_window=6), Heads(causal=False)])
@pytest.mark.parametrize("num_splits", [0, 4])
def test_few_guessed_tokens(heads: Heads, num_splits: int) -> None:
    check(PagedCase(heads, [(0, 3), (15, 2), (30, 4), (44, 1)]), num_splits=num_splits)


@inside
@pytest.mark.parametrize("lengths", [[(0, 33)], [(0, 20), (0, 20)], [(5, 9), (0, 1)]])
def test_only_prompts(lengths: list[tuple[int, int]]) -> None:
    check(PagedCase(Heads(), lengths))


@inside
@pytest.mark.parametrize("num_splits", [0, 4])
def test_padding_of_a_graph_gives_zeros(num_splits: int) -> None:
    check(PagedCase(Heads(), DECODE, padding=2), num_splits=num_splits)


@inside
@pytest.mark.parametrize("heads", [Heads(), Heads(sliding_window=25)])
def test_the_first_tile_read_early(heads: Heads, monkeypatch: pytest.MonkeyPatch) -> None:
    from octavo.kernels import triton_attention

    plan = triton_attention.plan_attention
    monkeypatch.setattr(triton_attention, "plan_attention", lambda *a, **k: replace(plan(*a, **k), early=True))
    for lengths in ([(47, 1)], [(48, 1)], [(0, 1)], [(90, 3)]):
        for num_splits in (0, 4):
            check(PagedCase(heads, lengths), num_splits=num_splits)


@inside
@pytest.mark.parametrize("heads", [LAYERS["plain"], LAYERS["window-and-soft-cap"], LAYERS["odd-group"]])
def test_the_backend_writes_and_attends(heads: Heads) -> None:
    case = PagedCase(heads, [(0, 20), (0, 1), (0, 16)])
    assert (through_backend(case, TritonAttentionBackend) - case.expected()).abs().max() < 1e-5


@inside
def test_a_map_of_tiles_lists_each_query_once() -> None:
    from octavo.kernels.triton_attention_prefill import make_tile_map

    counts = torch.randint(1, 40, (300,), generator=torch.Generator().manual_seed(0))
    counts[::3] = 1
    starts = torch.cat([torch.zeros(1), counts.cumsum(0)]).int()
    *found, counters = make_tile_map(starts, 300, int(starts[-1]), 8, 1).tolist()
    assert counters == [0, 0]
    end = found.index(next(entry for entry in found if entry[0] == -1))
    assert all(request == -1 for request, _ in found[end:])
    assert found[:end] == [
        [request, tile] for request, count in enumerate(counts) if count > 1 for tile in reversed(range(-(-count // 8)))
    ]


@inside
def test_cache_write_leaves_out_slots_below_0() -> None:
    from octavo.kernels.triton_cache import cache_write, kv_cache_shape

    cache = torch.full(kv_cache_shape(4, 16, 3, 80), float("nan"))
    expected = cache.clone()
    k, v = torch.randn(5, 6, 80).split(3, dim=1)
    slots = torch.tensor([17, -1, 0, 63, 30])
    cache_write(cache, k, v, slots)
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected[slot // 16, 0, :, slot % 16] = k[token]
            expected[slot // 16, 1, :, slot % 16] = v[token]
    assert torch.equal(cache.nan_to_num(7.0), expected.nan_to_num(7.0))


@inside
@pytest.mark.parametrize("head_dim", [64, 80])
@pytest.mark.parametrize("rotated", [1.0, 0.5])
@pytest.mark.parametrize("offset", [None, 0.0, 1.0])
def test_rotary_norm_and_cache_write_in_one(head_dim: int, rotated: float, offset: float | None) -> None:
    from octavo.kernels import torch_ops
    from octavo.kernels.triton_cache import kv_cache_shape, rotary_and_cache_write

    num_heads, num_kv_heads, half = 6, 2, int(head_dim * rotated) // 2
    qkv = torch.randn(3, 10 * head_dim + 32)[:, : 10 * head_dim]
    angles = torch.randn(3, 1, half)
    norms = torch.randn(2, head_dim)
    cache = torch.full(kv_cache_shape(2, 16, num_kv_heads, head_dim), float("nan"))
    slots = torch.tensor([31, -1, 4])
    options = {} if offset is None else {"q_norm": norms[0], "k_norm": norms[1], "eps": 1e-3, "norm_offset": offset}
    q = rotary_and_cache_write(qkv, cache, angles.cos(), angles.sin(), slots, num_heads=num_heads, **options)
    heads = qkv.unflatten(1, (10, head_dim))
    expected = []
    for x, norm in zip(heads.split([num_heads, num_kv_heads, num_kv_heads], dim=1)[:2], norms, strict=True):
        if offset is not None:
            x = torch_ops.rms_norm(x, norm + offset, 1e-3)
        turned = torch_ops.rotary_embedding(x[..., : 2 * half], angles.cos(), angles.sin())
        expected.append(torch.cat([turned, x[..., 2 * half :]], -1))
    assert torch.allclose(q, expected[0], atol=1e-5)
    for token, (block, offset_in_block) in ((0, (1, 15)), (2, (0, 4))):
        assert torch.allclose(cache[block, 0, :, offset_in_block], expected[1][token], atol=1e-5)
        assert torch.equal(cache[block, 1, :, offset_in_block], heads[token, 8:])
    assert cache.isfinite().sum() == 2 * 2 * num_kv_heads * head_dim


ROTATED = {
    "plain": Heads(num_heads=6, num_kv_heads=2),
    "window": Heads(sliding_window=11),
    "window-of-one": Heads(sliding_window=1),
    "soft-cap": Heads(soft_cap=0.7),
    "no-sharing": Heads(num_kv_heads=4),
    "odd-head": Heads(head_dim=80),
    "blocks-of-many-tiles": Heads(block_size=64),
}


@inside
@pytest.mark.parametrize("heads", ROTATED.values(), ids=ROTATED)
@pytest.mark.parametrize("num_splits", [0, 4])
def test_rotation_and_attention_in_one(heads: Heads, num_splits: int) -> None:
    from octavo.kernels.triton_attention_tiles import AttentionTiles, DecodeTile, PrefillTile

    for lengths, changes in (
        ([(0, 1), (15, 1), (16, 1), (40, 1)], {"normed": True, "alone": True}),
        ([(48, 1), (0, 1), (1, 1)], {"normed": False, "alone": False, "rotated": 0.5}),
        ([(6, 1), (0, 19), (12, 5)], {"normed": True, "alone": False}),
    ):
        case = PagedCase(heads, lengths, padding=1)
        programs = num_splits * (len(lengths) + 1) * heads.num_kv_heads
        decode = DecodeTile(16, 1, 2)
        tiles = AttentionTiles(decode, decode, PrefillTile(16, 16, 1, 2), programs)
        ours, expected = rotated_both_ways(case, tiles, **changes)
        assert (ours[0] - expected[0]).abs().max() < 1e-5
        assert torch.allclose(ours[1], expected[1], atol=1e-6, equal_nan=True)
        assert not ours[0][-1].any()


@inside
def test_the_first_tile_read_early_when_it_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    from octavo.kernels import triton_attention

    plan = triton_attention.plan_attention
    monkeypatch.setattr(triton_attention, "plan_attention", lambda *a, **k: replace(plan(*a, **k), early=True))
    for lengths in ([(47, 1)], [(48, 1)], [(0, 1)], [(1, 1)]):
        ours, expected = rotated_both_ways(PagedCase(Heads(), lengths), normed=True, alone=True)
        assert (ours[0] - expected[0]).abs().max() < 1e-5


@inside
@pytest.mark.parametrize("lengths", [[(6, 1), (0, 20), (33, 1), (5, 9)], [(0, 1), (40, 1)]], ids=["mixed", "decode"])
def test_a_cache_of_8_bits(lengths: list[tuple[int, int]]) -> None:
    """The case's keys are rounded before, so nothing is lost on the way."""
    heads = Heads(4, 2, 32, dtype=torch.float16, kv_cache_dtype=torch.float8_e4m3fn)
    case = PagedCase(heads, lengths)
    assert (attend(case).float() - case.expected()).abs().max() < 8e-3


@inside
def test_8_bits_are_written() -> None:
    heads = Heads(4, 2, 32, dtype=torch.float16, kv_cache_dtype=torch.float8_e4m3fn)
    case = PagedCase(heads, [(0, 20), (0, 1)])
    assert (through_backend(case, TritonAttentionBackend).float() - case.expected()).abs().max() < 8e-3
