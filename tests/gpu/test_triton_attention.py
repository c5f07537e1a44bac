"""The Triton attention kernels on a real GPU, against plain torch in float32."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from paged_case import Heads, PagedCase, rotated_both_ways, through_backend
from torch import Tensor

from octavo.attention.triton_attn import TritonAttentionBackend
from octavo.kernels.triton_attention_tiles import SPECIALIZED, AttentionTiles, choose_tiles
from octavo.kernels.triton_launch import gpu_traits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

specialized = pytest.mark.skipif(
    not (torch.cuda.is_available() and gpu_traits(torch.device("cuda")).specialized_warps),
    reason="needs a Hopper GPU, and Triton 3.6",
)

BOUNDS = {torch.float32: 2e-5, torch.float16: 8e-3, torch.bfloat16: 3e-2}


def attend(case: PagedCase, **changes: Any) -> Tensor:
    """`changes` are for the plan's arguments."""
    from octavo.kernels.triton_attention import paged_attention, plan_attention

    plan = plan_attention(case.batch["query_start_loc"], **{**case.plan_arguments(), **changes})
    poison = torch.full(case.q.shape, float("nan"), dtype=case.q.dtype, device="cuda")
    del poison  # its memory is likely to be the result's
    return paged_attention(case.q, case.kv_cache, plan, **case.batch, **case.scoring())


def check(case: PagedCase, **changes: Any) -> None:
    ours, expected = attend(case, **changes), case.expected()
    assert ours.dtype == case.heads.dtype
    assert ours.isfinite().all()
    assert (ours.float() - expected).abs().max() < BOUNDS[case.heads.dtype]


DECODE = [(0, 1), (15, 1), (16, 1), (700, 1), (63, 1), (64, 1), (129, 1)]
MIXED = [(6, 1), (0, 190), (120, 50), (333, 1), (16, 16), (0, 1), (512, 129), (5, 2)]
LAYERS = {
    **{
        f"head-{size}": Heads(head_dim=size, dtype=torch.bfloat16, scale=size**-0.5)
        for size in (64, 80, 96, 112, 128, 192, 256)
    },
    **{
        f"group-{heads}-{kv_heads}": Heads(heads, kv_heads, 128, dtype=torch.bfloat16, scale=0.09)
        for heads, kv_heads in ((8, 8), (6, 2), (14, 2), (16, 2), (16, 1))
    },
    **{f"block-{size}": Heads(block_size=size, head_dim=128, dtype=torch.bfloat16) for size in (32, 64, 256)},
    **{f"{dtype}": Heads(8, 2, 128, dtype=dtype, scale=0.09) for dtype in BOUNDS},
    "window": Heads(dtype=torch.bfloat16, sliding_window=100),
    "window-of-one": Heads(dtype=torch.bfloat16, sliding_window=1),
    "window-float32": Heads(sliding_window=37),
    "soft-cap": Heads(dtype=torch.float16, soft_cap=0.7),
    "window-and-soft-cap": Heads(16, 8, 256, dtype=torch.bfloat16, sliding_window=64, soft_cap=30.0, scale=0.06),
    "not-causal": Heads(dtype=torch.bfloat16, causal=False),
}


@pytest.mark.parametrize("heads", LAYERS.values(), ids=LAYERS)
def test_decode(heads: Heads) -> None:
    check(PagedCase(heads, DECODE, "cuda"))
    check(PagedCase(heads, DECODE * 60, "cuda"))


@pytest.mark.parametrize("heads", LAYERS.values(), ids=LAYERS)
def test_prompts_chunks_and_single_tokens(heads: Heads) -> None:
    check(PagedCase(heads, MIXED, "cuda"))


SERVED = {
    name: heads
    for name, heads in {**LAYERS, "not-causal": Heads(head_dim=128, dtype=torch.bfloat16, causal=False)}.items()
    if heads.head_dim == 128 and heads.dtype.itemsize == 2
}


def specialized_tiles(heads: Heads) -> AttentionTiles:
    """For batches of any size, which otherwise have this kernel from some size on."""
    return replace(choose_tiles(gpu_traits(torch.device("cuda")), 128, heads.dtype), prefill=SPECIALIZED)


@specialized
@pytest.mark.parametrize("heads", SERVED.values(), ids=SERVED)
def test_specialized_warps(heads: Heads) -> None:
    tiles = specialized_tiles(heads)
    check(PagedCase(heads, MIXED, "cuda", padding=1), tiles=tiles)
    check(
        PagedCase(heads, [(0, 9), (0, 127), (1, 128), (127, 129), (128, 255), (3000, 600), (0, 2048)], "cuda"),
        tiles=tiles,
    )
    check(PagedCase(heads, [(37 * i % 300, 9 + 53 * i % 150) for i in range(200)], "cuda"), tiles=tiles)


@specialized
@pytest.mark.parametrize("heads", [heads for heads in SERVED.values() if heads.causal])
@pytest.mark.parametrize("normed", [False, True])
def test_specialized_warps_rotate(heads: Heads, normed: bool) -> None:
    case = PagedCase(heads, [*MIXED, (100, 1000)], "cuda", padding=1)
    ours, apart = rotated_both_ways(case, specialized_tiles(heads), normed=normed, alone=False)
    assert ours[0].isfinite().all()
    assert (ours[0].float() - apart[0].float()).abs().max() < BOUNDS[heads.dtype]


@specialized
def test_specialized_warps_serve_large_batches_of_plain_layers() -> None:
    from octavo.kernels.triton_attention import plan_attention

    def chosen(heads: Heads, lengths: list[tuple[int, int]]) -> bool:
        case = PagedCase(heads, lengths, "cuda")
        return plan_attention(case.batch["query_start_loc"], **case.plan_arguments()).tiles.prefill.specialized

    large, plain = [(0, 3000), (50, 3000)], Heads(head_dim=128, dtype=torch.bfloat16, scale=0.09)
    assert chosen(plain, large)
    check(PagedCase(plain, large, "cuda"))
    assert not chosen(plain, [(0, 300)])
    for other in (
        {"sliding_window": 100},
        {"soft_cap": 30.0},
        {"dtype": torch.float32},
        {"kv_cache_dtype": torch.float8_e4m3fn},
        {"head_dim": 64},
    ):
        assert not chosen(replace(plain, **other), large)


@specialized
def test_a_plan_of_specialized_warps_serves_layer_after_layer() -> None:
    """Programs are taken from a list, which each launch leaves as it found it."""
    from octavo.kernels.triton_attention import paged_attention, plan_attention

    heads = SERVED["head-128"]
    case = PagedCase(heads, [(0, 1000), (300, 200), (0, 1)] * 20, "cuda")
    plan = plan_attention(case.batch["query_start_loc"], **case.plan_arguments(), tiles=specialized_tiles(heads))
    first, *others = (paged_attention(case.q, case.kv_cache, plan, **case.batch, **case.scoring()) for _ in range(10))
    assert all(torch.equal(out, first) for out in others)
    assert plan.tile_map is not None
    assert plan.tile_map[-1].tolist() == [0, 0]


@pytest.mark.parametrize("heads", [LAYERS["head-128"], LAYERS["group-14-2"], LAYERS["window"]])
@pytest.mark.parametrize("length", [1, 2, 17, 256, 2000, 5000])
def test_one_stream(heads: Heads, length: int) -> None:
    """Its first keys are read before the kernel in front is done; graphs have room for more than there is."""
    case = PagedCase(heads, [(length - 1, 1)], "cuda")
    check(case)
    check(case, max_seq_len=131072)


def test_a_context_of_128k() -> None:
    heads = Heads(8, 1, 128, dtype=torch.bfloat16, scale=0.09)
    check(PagedCase(heads, [(131071, 1), (100000, 1)], "cuda"))
    check(PagedCase(replace(heads, block_size=256), [(131000, 72)], "cuda"))


@pytest.mark.parametrize("heads", [LAYERS["head-128"], LAYERS["window"], LAYERS["not-causal"], LAYERS["head-80"]])
def test_few_guessed_tokens(heads: Heads) -> None:
    check(PagedCase(heads, [(0, 3), (15, 2), (300, 8), (44, 1)], "cuda"))
    check(PagedCase(heads, [(700, 5)], "cuda"))


@pytest.mark.parametrize("max_seq_len", [1000, 100000])
def test_padding_of_a_graph_gives_zeros(max_seq_len: int) -> None:
    check(PagedCase(LAYERS["head-128"], DECODE, "cuda", padding=9), max_seq_len=max_seq_len)


@pytest.mark.parametrize("size", [1, 8, 33, 200, 1024])
def test_random_batches(size: int) -> None:
    draw = random.Random(size)
    new = [1 if draw.random() < 0.7 else draw.randint(1, 60) for _ in range(size)]
    case = PagedCase(LAYERS["group-14-2"], [(draw.randint(0, 400), count) for count in new], "cuda")
    check(case)


def test_results_are_equal_from_run_to_run() -> None:
    for lengths in (DECODE, MIXED, [(4000, 1)]):
        case = PagedCase(LAYERS["head-128"], lengths, "cuda")
        first = attend(case)
        assert all(torch.equal(attend(case), first) for _ in range(20))


def test_a_graph_serves_other_lengths_than_it_was_captured_with() -> None:
    from octavo.kernels.triton_attention import paged_attention, plan_attention

    heads = LAYERS["head-128"]
    long = PagedCase(heads, [(900, 1), (31, 1), (0, 1)], "cuda")
    arguments = {**long.plan_arguments(), "max_seq_len": 4096}
    plan = plan_attention(long.batch["query_start_loc"], **arguments)
    assert plan.num_splits > 1

    def run() -> Tensor:
        return paged_attention(long.q, long.kv_cache, plan, **long.batch, **long.scoring())

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    for lengths in ([901, 32, 1], [894, 25, 1], [401, 0, 1]):
        long.batch["seq_lens"].copy_(torch.tensor(lengths, dtype=torch.int32, device="cuda"))
        out.fill_(float("nan"))
        graph.replay()
        for row, length in enumerate(lengths):
            expected = torch.zeros(out.shape[1:], device="cuda")
            if length:
                k, v = long.keys[row][:length].float().to("cuda").repeat_interleave(2, 2).unbind(1)
                weights = (torch.einsum("hd,khd->hk", long.q[row].float(), k) * heads.scale).softmax(-1)
                expected = torch.einsum("hk,khd->hd", weights, v)
            assert (out[row].float() - expected).abs().max() < BOUNDS[heads.dtype]


def test_the_backend_writes_and_attends() -> None:
    for heads in (LAYERS["group-14-2"], LAYERS["window-and-soft-cap"]):
        assert TritonAttentionBackend.declines(heads.spec(), torch.device("cuda"), None) is None
        case = PagedCase(heads, [(0, 40), (0, 1), (0, 23)], "cuda")
        ours = through_backend(case, TritonAttentionBackend)
        assert (ours.float() - case.expected()).abs().max() < BOUNDS[heads.dtype]


@pytest.mark.parametrize(
    "heads", [heads for heads in LAYERS.values() if heads.causal], ids=[n for n in LAYERS if n != "not-causal"]
)
def test_rotation_and_attention_in_one(heads: Heads) -> None:
    for lengths, normed, alone in (
        (DECODE, True, True),
        ([(300, 1)], True, True),
        ([(0, 1)], False, True),
        (DECODE, True, False),
        (MIXED, True, False),
    ):
        case = PagedCase(heads, lengths, "cuda", padding=1)
        ours, apart = rotated_both_ways(case, normed=normed, alone=alone)
        assert ours[0].isfinite().all()
        assert (ours[0].float() - apart[0].float()).abs().max() < BOUNDS[heads.dtype]
        assert torch.allclose(ours[1].float(), apart[1].float(), atol=BOUNDS[heads.dtype], equal_nan=True)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("shape", [(32, 8, 128, 1), (7, 1, 80, 300), (16, 16, 256, 5)])
@pytest.mark.parametrize("normed", [False, True])
def test_rotary_norm_and_cache_write_in_one(dtype: torch.dtype, shape: tuple[int, int, int, int], normed: bool) -> None:
    from octavo.kernels import torch_ops
    from octavo.kernels.triton_cache import kv_cache_shape, rotary_and_cache_write

    num_heads, num_kv_heads, head_dim, num_tokens = shape
    total = num_heads + 2 * num_kv_heads
    qkv = torch.randn(num_tokens, total * head_dim, device="cuda").to(dtype)
    angles = torch.randn(num_tokens, 1, head_dim // 2, device="cuda")
    norms = torch.randn(2, head_dim, device="cuda").to(dtype)
    cache = torch.full(kv_cache_shape(30, 16, num_kv_heads, head_dim), float("nan"), device="cuda").to(dtype)
    slots = torch.randperm(480, device="cuda")[:num_tokens]
    slots[num_tokens // 2 + 1 :: 7] = -1
    options = {"q_norm": norms[0], "k_norm": norms[1], "eps": 1e-6} if normed else {}
    turn = angles.cos().to(dtype), angles.sin().to(dtype)
    q = rotary_and_cache_write(qkv, cache, *turn, slots, num_heads=num_heads, **options)
    heads = qkv.float().unflatten(1, (total, head_dim))
    expected = []
    for x, norm in zip(heads.split([num_heads, num_kv_heads, num_kv_heads], dim=1)[:2], norms.float(), strict=True):
        normal = torch_ops.rms_norm(x, norm, 1e-6) if normed else x
        expected.append(torch_ops.rotary_embedding(normal, turn[0].float(), turn[1].float()))
    bound = 4 * BOUNDS[dtype]
    assert (q.float() - expected[0]).abs().max() < bound
    kept = slots >= 0
    written = cache.transpose(2, 3).transpose(1, 2).flatten(0, 1)[slots[kept]].float()  # [T, 2, Hkv, D]
    assert (written[:, 0] - expected[1][kept]).abs().max() < bound
    assert torch.equal(written[:, 1], heads[kept, num_heads + num_kv_heads :])
    assert cache.isfinite().sum() == 2 * int(kept.sum()) * num_kv_heads * head_dim
