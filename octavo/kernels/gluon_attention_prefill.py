"""Prompt attention on Hopper GPUs by warps that each do one job, in Gluon: Triton's language for what Triton hides.

After FlashAttention-3 (Shah et al. 2024, arXiv 2407.08608, sections 3.1 and 3.2). Four warps copy tiles of keys and
values into a ring in shared memory. Two groups of four warps, each for 64 rows, multiply, and take the softmax of one
tile while the tensor cores multiply the weights of the tile before with its values. Four more warps take what is to be
done next and prepare its queries meanwhile. There are as many programs as processors, and each takes one entry of the
map after another.

Rows, map and softmax are those of `triton_attention_prefill` and `triton_softmax`; windows, soft caps and other numbers
than those of 16 bits are left to that kernel. Keys are read from the last tile to the first: for most queries the first
one that is read is the only one that is masked.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from octavo.kernels.triton_attention_prefill import tile_queries
from octavo.kernels.triton_attention_tiles import PrefillTile
from octavo.kernels.triton_cache import Rotation
from octavo.kernels.triton_launch import gpu_traits, launch
from octavo.kernels.triton_softmax import PagedBatch, Scoring

HIDDEN = gl.constexpr(-1.0e30)  # as in `triton_softmax`
ROWS = gl.constexpr(64)  # of one group of warps that multiplies
PART = gl.constexpr(32)  # rows of queries that are prepared at a time
CHUNK = gl.constexpr(16)  # tokens that lie in one piece whatever the size of a block

# Registers of a thread: 512 for the four jobs together, of which the first group that multiplies has what is left.
ATTEND_REGISTERS = gl.constexpr(200)
COPY_REGISTERS = gl.constexpr(40)
PREPARE_REGISTERS = gl.constexpr(72)

# What there is to do, as the warps that take it tell the others: so many numbers in shared memory.
JOB = gl.constexpr(6)
KV_HEAD = gl.constexpr(0)  # -1: nothing more
REQUEST = gl.constexpr(1)
TOKEN = gl.constexpr(2)  # of the first query
QUERIES_LEFT = gl.constexpr(3)  # of the request, from that one on
POSITION = gl.constexpr(4)  # of that one
KEYS = gl.constexpr(5)  # how many of the request the last of the queries sees

ONE = gl.constexpr(gl.BlockedLayout([1], [32], [4], [0]))  # of a tensor with one number


@gluon.jit
def _put(jobs, slot, which, number):
    jobs.index(slot * JOB + which).store(gl.full([1], 0, gl.int32, layout=ONE) + number)


@gluon.jit
def _get(jobs, slot, which):
    return gl.max(jobs.index(slot * JOB + which).load(ONE), 0)


@gluon.jit
def _queries(
    q_ptr, cos_ptr, sin_ptr, norm_ptr, eps, norm_offset, q_stride, kv_head, first_token, num_queries, first_row,
    GROUP: gl.constexpr, D: gl.constexpr, ROTATE: gl.constexpr, NORM: gl.constexpr
):  # fmt: skip
    """Both halves [PART, D / 2] of the queries of rows from `first_row` on, normed and rotated.

    Rows without a query have some query's numbers: what becomes of them is written nowhere.
    """
    HALF: gl.constexpr = D // 2
    LANES: gl.constexpr = HALF // 8
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [32 // LANES, LANES], [4, 1], [1, 0])
    h = gl.arange(0, HALF, layout=gl.SliceLayout(0, layout))
    row = first_row + gl.arange(0, PART, layout=gl.SliceLayout(1, layout))
    token = (first_token + gl.minimum(row // GROUP, num_queries - 1)).to(gl.int64)
    at = q_ptr + token * q_stride + (kv_head * GROUP + row % GROUP) * D
    at = at.expand_dims(1) + h.expand_dims(0)
    first = gl.load(at)
    second = gl.load(at + HALF)
    if ROTATE:
        angle = (token * HALF).expand_dims(1) + h.expand_dims(0)
        cos = gl.load(cos_ptr + angle).to(gl.float32)
        sin = gl.load(sin_ptr + angle).to(gl.float32)
        x = first.to(gl.float32)
        y = second.to(gl.float32)
        if NORM:
            inverse = gl.rsqrt(gl.sum(x * x + y * y, 1) / D + eps).expand_dims(1)
            x *= inverse * (gl.load(norm_ptr + h).to(gl.float32) + norm_offset).expand_dims(0)
            y *= inverse * (gl.load(norm_ptr + HALF + h).to(gl.float32) + norm_offset).expand_dims(0)
        first = (x * cos - y * sin).to(first.dtype)
        second = (y * cos + x * sin).to(first.dtype)
    return first, second


@gluon.jit
def _request(map_ptr, program, num_programs, HKV: gl.constexpr):
    """Whose queries a program is for; -1 where the map has ended."""
    return gl.load(map_ptr + program // HKV * 2, mask=program < num_programs, other=-1)


@gluon.jit
def _prepare(
    q_ptr, cos_ptr, sin_ptr, norm_ptr, eps, norm_offset, q_stride, map_ptr, starts_ptr, lens_ptr, num_programs, queries,
    jobs, told, ready, done, HQ: gl.constexpr, HKV: gl.constexpr, D: gl.constexpr, QUERIES: gl.constexpr,
    CAUSAL: gl.constexpr, ROTATE: gl.constexpr, NORM: gl.constexpr
):  # fmt: skip
    """Takes programs, tells the others of them, and puts their queries, normed and rotated, into shared memory."""
    HALF: gl.constexpr = D // 2
    counters = map_ptr + num_programs // HKV * 2  # behind the map: of what was taken, and of those that are done
    job = 0
    program = gl.program_id(0)
    request = _request(map_ptr, program, num_programs, HKV)
    while request >= 0:
        kv_head = program % HKV
        first_query = gl.load(map_ptr + program // HKV * 2 + 1) * QUERIES
        first_token = gl.load(starts_ptr + request)
        num_queries = gl.load(starts_ptr + request + 1) - first_token - first_query
        first_token += first_query
        seq_len = gl.load(lens_ptr + request)
        position = seq_len - num_queries
        hi = gl.minimum(position + QUERIES, seq_len) if CAUSAL else seq_len
        slot = job % 2
        mbarrier.wait(done.index(slot), job // 2 & 1 ^ 1)
        _put(jobs, slot, KV_HEAD, kv_head)
        _put(jobs, slot, REQUEST, request)
        _put(jobs, slot, TOKEN, first_token)
        _put(jobs, slot, QUERIES_LEFT, num_queries)
        _put(jobs, slot, POSITION, position)
        _put(jobs, slot, KEYS, hi)
        gl.thread_barrier()
        mbarrier.arrive(told.index(slot))
        for group in range(2):
            rows_at = queries.index(slot * 2 + group)
            for part in gl.static_range(ROWS // PART):
                first, second = _queries(
                    q_ptr, cos_ptr, sin_ptr, norm_ptr, eps, norm_offset, q_stride, kv_head, first_token, num_queries,
                    group * ROWS + part * PART, HQ // HKV, D, ROTATE, NORM
                )  # fmt: skip
                here = rows_at.slice(part * PART, PART)
                here.slice(0, HALF, 1).store(first)
                here.slice(HALF, HALF, 1).store(second)
        fence_async_shared()
        gl.thread_barrier()
        mbarrier.arrive(ready.index(slot))
        job += 1
        program = gl.atomic_add(counters, 1, sem="relaxed") + gl.num_programs(0)
        request = _request(map_ptr, program, num_programs, HKV)
    if gl.atomic_add(counters + 1, 1, sem="relaxed") == gl.num_programs(0) - 1:  # none takes anything any more
        gl.store(counters, 0)
        gl.store(counters + 1, 0)
    slot = job % 2
    mbarrier.wait(done.index(slot), job // 2 & 1 ^ 1)
    _put(jobs, slot, KV_HEAD, -1)
    gl.thread_barrier()
    mbarrier.arrive(told.index(slot))
    mbarrier.arrive(ready.index(slot))


@gluon.jit
def _pages(table_ptr, start, hi, PAGE: gl.constexpr):
    """Blocks of the chunks from positions `start` on; 0 where there is no key below `hi`."""
    return gl.load(table_ptr + start // PAGE, mask=(start >= 0) & (start < hi), other=0)


@gluon.jit
def _copy(
    kv_ptr, table_ptr, table_stride, ring, full, empty, jobs, told, done, HKV: gl.constexpr, D: gl.constexpr,
    PAGE: gl.constexpr, TOKENS: gl.constexpr, STAGES: gl.constexpr
):  # fmt: skip
    """Brings tiles of keys and values [TOKENS, D] into the ring, their blocks looked up one tile ahead."""
    BLOCK: gl.constexpr = 2 * HKV * PAGE * D
    VALUES: gl.constexpr = HKV * PAGE * D
    LANES: gl.constexpr = D // 8
    SOME: gl.constexpr = 32 // LANES  # tokens that a warp copies at a time
    # [chunks, of SOME tokens each, tokens, D]: what a thread copies of a chunk lies at fixed distances.
    layout: gl.constexpr = gl.BlockedLayout([1, 1, 1, 8], [1, 1, SOME, LANES], [4, 1, 1, 1], [3, 2, 1, 0])
    cube: gl.constexpr = gl.SliceLayout(3, layout)
    plane: gl.constexpr = gl.SliceLayout(2, cube)
    chunk = gl.arange(0, TOKENS // CHUNK, layout=gl.SliceLayout(1, plane)) * CHUNK
    several = gl.arange(0, CHUNK // SOME, layout=gl.SliceLayout(0, plane)) * SOME
    single = gl.arange(0, SOME, layout=gl.SliceLayout(0, gl.SliceLayout(0, cube)))
    d = gl.arange(0, D, layout=gl.SliceLayout(0, gl.SliceLayout(0, gl.SliceLayout(0, layout))))
    several = several.expand_dims(0).expand_dims(2).expand_dims(3)
    single = single.expand_dims(0).expand_dims(0).expand_dims(3)
    d = d.expand_dims(0).expand_dims(0).expand_dims(0)
    place = single * D + d
    within = several + single + d * 0
    count = 0
    job = 0
    mbarrier.wait(told.index(0), 0)
    kv_head = _get(jobs, 0, KV_HEAD)
    while kv_head >= 0:
        table = table_ptr + _get(jobs, job % 2, REQUEST).to(gl.int64) * table_stride
        hi = _get(jobs, job % 2, KEYS)
        gl.thread_barrier()
        mbarrier.arrive(done.index(job % 2))
        kv = kv_ptr + kv_head * (PAGE * D)
        num_tiles = gl.maximum((hi + TOKENS - 1) // TOKENS, 1)
        start = (num_tiles - 1) * TOKENS + chunk
        pages = _pages(table, start, hi, PAGE)
        for _ in range(num_tiles):
            at = kv + pages.to(gl.int64) * BLOCK + (start % PAGE) * D
            at = at.expand_dims(1).expand_dims(2).expand_dims(3) + place
            keys = gl.reshape(at + several * D, [TOKENS, D])
            values = gl.reshape(at + (several * D + VALUES), [TOKENS, D])
            keys = gl.max_contiguous(gl.multiple_of(keys, [16, 16]), [1, 8])
            values = gl.max_contiguous(gl.multiple_of(values, [16, 16]), [1, 8])
            seen = start.expand_dims(1).expand_dims(2).expand_dims(3) + within < hi
            seen = gl.max_constancy(gl.reshape(seen, [TOKENS, D]), [1, 8])
            start -= TOKENS
            pages = _pages(table, start, hi, PAGE)
            slot = count % STAGES
            mbarrier.wait(empty.index(slot), count // STAGES & 1 ^ 1)
            async_copy.async_copy_global_to_shared(ring.index(slot), keys, mask=seen)
            async_copy.mbarrier_arrive(full.index(slot), increment_count=False)
            mbarrier.wait(empty.index(STAGES + slot), count // STAGES & 1 ^ 1)
            async_copy.async_copy_global_to_shared(ring.index(STAGES + slot), values, mask=seen)
            async_copy.mbarrier_arrive(full.index(STAGES + slot), increment_count=False)
            count += 1
        job += 1
        mbarrier.wait(told.index(job % 2), job // 2 & 1)
        kv_head = _get(jobs, job % 2, KV_HEAD)


@gluon.jit
def _softmax(
    scores, start, position, hi, scale, maximum, total, TOKENS: gl.constexpr, CAUSAL: gl.constexpr,
    MASKED: gl.constexpr
):  # fmt: skip
    """Weights of scores [ROWS, TOKENS], the new maximum and sum of weights, and by what the sums until now fade."""
    if MASKED:
        tokens = start + gl.arange(0, TOKENS, layout=gl.SliceLayout(0, scores.type.layout))
        visible = (tokens < hi).expand_dims(0)
        if CAUSAL:
            visible = visible & (tokens.expand_dims(0) <= position.expand_dims(1))
        # HIDDEN is not scaled: of a row that sees nothing yet, it has to be exactly the peak.
        scores = gl.where(visible, scores * scale, HIDDEN)
        peak = gl.maximum(maximum, gl.max(scores, 1))
        weights = gl.exp2(scores - peak.expand_dims(1))
    else:  # one multiply-add for each score
        peak = gl.maximum(maximum, gl.max(scores, 1) * scale)
        weights = gl.exp2(scores * scale - peak.expand_dims(1))
    fade = gl.exp2(maximum - peak)
    return weights, peak, total * fade + gl.sum(weights, 1), fade


@gluon.jit
def _add_tile(
    start, count, q, ring, full, empty, position, hi, scale, weights, acc, maximum, total, TOKENS: gl.constexpr,
    STAGES: gl.constexpr, CAUSAL: gl.constexpr, MASKED: gl.constexpr
):  # fmt: skip
    """Weights of tile `count`, while those of the tile before are multiplied with their values."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 16])
    slot = count % STAGES
    old = (count - 1) % STAGES
    mbarrier.wait(full.index(STAGES + old), (count - 1) // STAGES & 1)
    mbarrier.wait(full.index(slot), count // STAGES & 1)
    fence_async_shared()
    scores = gl.zeros([ROWS, TOKENS], gl.float32, layout=S)
    scores = warpgroup_mma(q, ring.index(slot).permute((1, 0)), scores, use_acc=False, is_async=True)
    acc = warpgroup_mma(weights, ring.index(STAGES + old), acc, is_async=True)
    scores = warpgroup_mma_wait(1, deps=[scores])
    mbarrier.arrive(empty.index(slot))
    new, maximum, total, fade = _softmax(scores, start, position, hi, scale, maximum, total, TOKENS, CAUSAL, MASKED)
    acc, weights = warpgroup_mma_wait(0, deps=[acc, weights])
    mbarrier.arrive(empty.index(STAGES + old))
    acc = acc * gl.convert_layout(fade, gl.SliceLayout(1, acc.type.layout)).expand_dims(1)
    return gl.convert_layout(new.to(weights.dtype), weights.type.layout), acc, maximum, total


@gluon.jit
def _attend(
    out_ptr, scale, queries, ring, full, empty, jobs, ready, done, HALF: gl.constexpr, HQ: gl.constexpr,
    HKV: gl.constexpr, D: gl.constexpr, QUERIES: gl.constexpr, TOKENS: gl.constexpr, STAGES: gl.constexpr,
    CAUSAL: gl.constexpr
):  # fmt: skip
    """Attention of ROWS rows, the first or the second half of each program's."""
    GROUP: gl.constexpr = HQ // HKV
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    LANES: gl.constexpr = D // 8
    wide: gl.constexpr = gl.BlockedLayout([1, 8], [32 // LANES, LANES], [4, 1], [1, 0])
    count = 0
    job = 0
    mbarrier.wait(ready.index(0), 0)
    kv_head = _get(jobs, 0, KV_HEAD)
    while kv_head >= 0:
        first_token = _get(jobs, job % 2, TOKEN)
        num_queries = _get(jobs, job % 2, QUERIES_LEFT)
        first_position = _get(jobs, job % 2, POSITION)
        hi = _get(jobs, job % 2, KEYS)
        q = queries.index(job % 2 * 2 + HALF)
        num_tiles = gl.maximum((hi + TOKENS - 1) // TOKENS, 1)
        full_tiles = (gl.minimum(first_position + 1, hi) if CAUSAL else hi) // TOKENS  # that every query sees whole
        position = first_position + (HALF * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, S))) // GROUP
        slot = count % STAGES
        mbarrier.wait(full.index(slot), count // STAGES & 1)
        fence_async_shared()
        scores = gl.zeros([ROWS, TOKENS], gl.float32, layout=S)
        scores = warpgroup_mma(q, ring.index(slot).permute((1, 0)), scores, use_acc=False, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[scores])
        mbarrier.arrive(empty.index(slot))
        start = (num_tiles - 1) * TOKENS
        maximum = gl.full([ROWS], HIDDEN, gl.float32, layout=gl.SliceLayout(1, S))
        total = gl.zeros([ROWS], gl.float32, layout=gl.SliceLayout(1, S))
        new, maximum, total, _ = _softmax(scores, start, position, hi, scale, maximum, total, TOKENS, CAUSAL, True)
        weights = gl.convert_layout(new.to(out_ptr.dtype.element_ty), gl.DotOperandLayout(0, OUT, 2))
        acc = gl.zeros([ROWS, D], gl.float32, layout=OUT)
        first_full = gl.maximum(num_tiles - full_tiles, 1)
        for i in range(1, first_full):
            weights, acc, maximum, total = _add_tile(
                start - i * TOKENS, count + i, q, ring, full, empty, position, hi, scale, weights, acc, maximum, total,
                TOKENS, STAGES, CAUSAL, True
            )  # fmt: skip
        for i in range(first_full, num_tiles):
            weights, acc, maximum, total = _add_tile(
                start - i * TOKENS, count + i, q, ring, full, empty, position, hi, scale, weights, acc, maximum, total,
                TOKENS, STAGES, CAUSAL, False
            )  # fmt: skip
        count += num_tiles
        last = STAGES + (count - 1) % STAGES
        mbarrier.wait(full.index(last), (count - 1) // STAGES & 1)
        fence_async_shared()
        acc = warpgroup_mma(weights, ring.index(last), acc, is_async=True)
        acc, weights = warpgroup_mma_wait(0, deps=[acc, weights])
        mbarrier.arrive(empty.index(last))
        out = acc / gl.convert_layout(total, gl.SliceLayout(1, OUT)).expand_dims(1)
        q.store(out.to(out_ptr.dtype.element_ty))  # whose place is free: so that a row is written in one piece
        gl.thread_barrier()
        row = HALF * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, wide))
        d = gl.arange(0, D, layout=gl.SliceLayout(0, wide))
        is_real = (row < QUERIES * GROUP) & (row // GROUP < num_queries)
        at = out_ptr + ((first_token + row // GROUP).to(gl.int64) * HQ + kv_head * GROUP + row % GROUP) * D
        gl.store(at.expand_dims(1) + d.expand_dims(0), q.load(wide), mask=is_real.expand_dims(1))
        gl.thread_barrier()
        mbarrier.arrive(done.index(job % 2))
        job += 1
        mbarrier.wait(ready.index(job % 2), job // 2 & 1)
        kv_head = _get(jobs, job % 2, KV_HEAD)


@gluon.jit
def _barriers(N: gl.constexpr, COUNT: gl.constexpr):
    barriers = gl.allocate_shared_memory(gl.int64, [N, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(N):
        mbarrier.init(barriers.index(i), count=COUNT)
    return barriers


@gluon.jit(do_not_specialize=["table_stride", "num_programs"])
def _hopper_prefill_kernel(
    out_ptr, q_ptr, kv_ptr, table_ptr, starts_ptr, lens_ptr, map_ptr, cos_ptr, sin_ptr, norm_ptr, eps, norm_offset,
    scale, table_stride, q_stride, num_programs, HQ: gl.constexpr, HKV: gl.constexpr, D: gl.constexpr,
    PAGE: gl.constexpr, QUERIES: gl.constexpr, TOKENS: gl.constexpr, STAGES: gl.constexpr, CAUSAL: gl.constexpr,
    ROTATE: gl.constexpr, NORM: gl.constexpr
):  # fmt: skip
    """As many programs as there are processors; they share `num_programs`, each a KV head (fastest) and a map's entry.

    Shared memory: queries of this job and the next, a half for each group; a ring, STAGES tiles of keys and STAGES of
    values; jobs. Barriers: a tile is `full` or `empty`; a job was `told`, its queries are `ready`, or it is `done`.
    """
    dtype: gl.constexpr = q_ptr.dtype.element_ty
    queries = gl.allocate_shared_memory(dtype, [4, ROWS, D], gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype))
    tile: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TOKENS, D], dtype)
    ring = gl.allocate_shared_memory(dtype, [2 * STAGES, TOKENS, D], tile)
    jobs = gl.allocate_shared_memory(gl.int32, [2 * JOB, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    full = _barriers(2 * STAGES, 128)  # each thread that copies arrives
    empty = _barriers(2 * STAGES, 2)  # the two groups
    told = _barriers(2, 1)
    ready = _barriers(2, 1)
    done = _barriers(2, 3)  # the two groups, and those that copy
    gl.warp_specialize(
        [
            (_attend, (
                out_ptr, scale, queries, ring, full, empty, jobs, ready, done, 0, HQ, HKV, D, QUERIES, TOKENS, STAGES,
                CAUSAL
            )),
            (_attend, (
                out_ptr, scale, queries, ring, full, empty, jobs, ready, done, 1, HQ, HKV, D, QUERIES, TOKENS, STAGES,
                CAUSAL
            )),
            (_copy, (
                kv_ptr, table_ptr, table_stride, ring, full, empty, jobs, told, done, HKV, D, PAGE, TOKENS, STAGES
            )),
            (_prepare, (
                q_ptr, cos_ptr, sin_ptr, norm_ptr, eps, norm_offset, q_stride, map_ptr, starts_ptr, lens_ptr,
                num_programs, queries, jobs, told, ready, done, HQ, HKV, D, QUERIES, CAUSAL, ROTATE, NORM
            )),
        ],
        [4, 4, 4],
        [ATTEND_REGISTERS, COPY_REGISTERS, PREPARE_REGISTERS],
    )  # fmt: skip


def prefill_attention(
    out: Tensor,
    q: Tensor,
    kv_cache: Tensor,
    batch: PagedBatch,
    scoring: Scoring,
    tile: PrefillTile,
    tile_map: Tensor,
    rotation: Rotation | None = None,
) -> None:
    """`triton_attention_prefill.prefill_attention`, for a tile of 128 rows."""
    assert not scoring.soft_cap
    assert not scoring.sliding_window
    assert tile.rows == 2 * ROWS.value
    assert q.dtype is kv_cache.dtype
    num_heads, head_dim = q.shape[1:]
    num_kv_heads, page = kv_cache.shape[2:4]
    num_programs = num_kv_heads * (tile_map.shape[0] - 1)
    launch(
        _hopper_prefill_kernel,
        (min(gpu_traits(q.device).num_processors, num_programs),),
        *(out, q, kv_cache, *batch.arguments(), tile_map),
        *((q, q) if rotation is None else (rotation.cos, rotation.sin)),
        *(q if rotation is None or rotation.norms is None else rotation.norms[0],),
        *((0.0, 0.0) if rotation is None else (rotation.eps, rotation.norm_offset)),
        *(scoring.arguments()[0], batch.block_table.stride(0), q.stride(0), num_programs),
        CAUSAL=scoring.causal,
        ROTATE=rotation is not None,
        NORM=rotation is not None and rotation.norms is not None,
        HQ=num_heads,
        HKV=num_kv_heads,
        D=head_dim,
        PAGE=page,
        QUERIES=tile_queries(tile, num_heads, num_kv_heads),
        TOKENS=tile.tokens,
        STAGES=tile.stages,
        num_warps=tile.num_warps,
    )
