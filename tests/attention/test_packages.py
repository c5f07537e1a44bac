"""What backends hand to other people's packages, which are not here: plain functions with their arguments stand in.

The packages that run on the H100 are tested there (tests/gpu/test_backends.py); this is all there is for the others.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from paged_case import Heads, PagedCase
from torch import Tensor

from octavo.attention import flash_attn
from octavo.attention.aiter import AiterFlashBackend, AiterUnifiedBackend
from octavo.attention.base import AttentionBackend, AttentionMetadata
from octavo.attention.flash_attn import FlashAttention2, FlashAttention3, FlashAttention4, FlashAttentionBackend

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

MIXED = [(6, 1), (0, 40), (120, 50), (333, 1), (16, 16), (5, 2)]
BASE = Heads(8, 2, 32, scale=0.2)
LAYERS = {
    "plain": BASE,
    "window": replace(BASE, sliding_window=30),
    "soft-cap": replace(BASE, soft_cap=3.0),
    "not-causal": replace(BASE, causal=False),
    "blocks-of-256": replace(BASE, block_size=256),
}


def reference(
    q: Tensor, rows: list[tuple[Tensor, Tensor]], starts: Tensor, scale: float, causal: bool, left: int, cap: float
) -> Tensor:
    """Attention of each request's queries over its keys and values [length, Hkv, D]; it sees `left` tokens back."""
    out = torch.empty(q.shape)
    for row, (k, v) in enumerate(rows):
        mine = q[starts[row] : starts[row + 1]]
        group = q.shape[1] // k.shape[1]
        scores = torch.einsum("qhd,khd->hqk", mine, k.repeat_interleave(group, 1)) * scale
        if cap:
            scores = cap * torch.tanh(scores / cap)
        distance = torch.arange(len(k) - len(mine), len(k))[:, None] - torch.arange(len(k))
        hidden = distance < 0 if causal else torch.zeros_like(distance, dtype=torch.bool)
        if left >= 0:
            hidden = hidden | (distance > left)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        out[starts[row] : starts[row + 1]] = torch.einsum("hqk,khd->qhd", weights, v.repeat_interleave(group, 1))
    return out


def paged(pages: Tensor, table: Tensor, length: int) -> Tensor:
    """A request's keys, or values, of pages [N, page, Hkv, D] that its row of the table names."""
    assert table.dtype is torch.int32
    assert pages.stride(-1) == 1
    mine = table[: -(-length // pages.shape[1])]
    assert mine.min() >= 0  # a package may read what a window has left behind
    return pages[mine.long()].flatten(0, 1)[:length]


def pages_of_all(keys: Tensor, values: Tensor, lens: Tensor, table: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [
        (paged(keys, table[row], length), paged(values, table[row], length)) for row, length in enumerate(lens.tolist())
    ]


def by_flash_attn_2(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, block_table: Tensor | None = None,
) -> Tensor:  # fmt: skip
    assert softmax_scale is not None
    assert block_table is not None
    assert cu_seqlens_k.dtype is torch.int32
    lens = cu_seqlens_k.diff()
    assert max_seqlen_k >= lens.max()
    assert max_seqlen_q >= cu_seqlens_q.diff().max()
    rows = pages_of_all(k, v, lens, block_table)
    return reference(q, rows, cu_seqlens_q, softmax_scale, causal, window_size[0], softcap)


def by_flash_attn_3(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, cache_seqlens: Tensor, page_table: Tensor, cu_seqlens_q: Tensor,
    max_seqlen_q: int, softmax_scale: float, causal: bool = False, window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> Tensor:  # fmt: skip
    assert max_seqlen_q >= cu_seqlens_q.diff().max()
    rows = pages_of_all(k_cache, v_cache, cache_seqlens, page_table)
    return reference(q, rows, cu_seqlens_q, softmax_scale, causal, window_size[0], softcap)


def by_flash_attn_4(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, seqused_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    page_table: Tensor, softmax_scale: float, causal: bool = False,
    window_size: tuple[int | None, int | None] = (None, None), softcap: float = 0.0,
) -> tuple[Tensor, None]:  # fmt: skip
    rows = pages_of_all(k, v, seqused_k, page_table)
    left = -1 if window_size[0] is None else window_size[0]
    return reference(q, rows, cu_seqlens_q, softmax_scale, causal, left, softcap), None


def by_aiter(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    softmax_scale: float | None = None, causal: bool = False, window_size: tuple[int, int] = (-1, -1),
) -> Tensor:  # fmt: skip
    assert softmax_scale is not None
    assert max_seqlen_k == cu_seqlens_k.diff().max()
    ends = cu_seqlens_k.tolist()
    rows = [(k[a:b], v[a:b]) for a, b in pairwise(ends)]
    return reference(q, rows, cu_seqlens_q, softmax_scale, causal, window_size[0], 0.0)


def by_aiter_unified(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, cu_seqlens_q: Tensor, max_seqlen_q: int, seqused_k: Tensor,
    max_seqlen_k: int, softmax_scale: float, causal: bool, window_size: tuple[int, int], block_table: Tensor,
    softcap: float, q_descale: None, k_descale: None, v_descale: None,
) -> None:  # fmt: skip
    rows = pages_of_all(k, v, seqused_k, block_table)
    out.copy_(reference(q, rows, cu_seqlens_q, softmax_scale, causal, window_size[0], softcap))


def module(patch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    """`name` can be imported, and the packages that it is part of."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        found = ModuleType(".".join(parts[:end]))
        found.__spec__ = SimpleNamespace(name=found.__name__)  # type: ignore[assignment]
        found.__path__ = []
        patch.setitem(sys.modules, found.__name__, found)
    vars(sys.modules[name]).update(functions)


def through(kind: type[AttentionBackend], case: PagedCase) -> Tensor:
    heads = case.heads
    metadata = AttentionMetadata(
        **case.batch,
        slot_mapping=torch.full((len(case.q),), -1),
        num_reqs=len(case.lengths),
        num_tokens=len(case.q),
        max_query_len=max(new for _, new in case.lengths),
        max_seq_len=max(map(sum, case.lengths)),
        causal=heads.causal,
    )
    layer: Any = SimpleNamespace(
        num_heads=heads.num_heads,
        num_kv_heads=heads.num_kv_heads,
        head_dim=heads.head_dim,
        scale=heads.scale,
        sliding_window=heads.sliding_window or None,
        logits_soft_cap=heads.logits_soft_cap,
    )
    backend: Any = kind([heads.spec()], None)
    metadata = backend.build(metadata, heads.sliding_window or None)
    attended: Tensor = backend.attend(layer, case.q, case.kv_cache.nan_to_num(0.0), metadata)
    return attended


@pytest.mark.parametrize("heads", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(
    ("package", "function"),
    [(FlashAttention2, by_flash_attn_2), (FlashAttention3, by_flash_attn_3), (FlashAttention4, by_flash_attn_4)],
    ids=["2", "3", "4"],
)
def test_flash_attention(monkeypatch: pytest.MonkeyPatch, package: Any, function: Any, heads: Heads) -> None:
    module(monkeypatch, package.module, **{package.function: function})
    monkeypatch.setattr(flash_attn, "PACKAGES", (package,))
    monkeypatch.setattr(package, "pages_of", 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    case = PagedCase(heads, MIXED)
    torch.testing.assert_close(through(FlashAttentionBackend, case), case.expected(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", LAYERS.values(), ids=LAYERS)
def test_aiter(monkeypatch: pytest.MonkeyPatch, heads: Heads) -> None:
    module(monkeypatch, "aiter.ops.triton.unified_attention", unified_attention=by_aiter_unified)
    vars(sys.modules["aiter"])["flash_attn_varlen_func"] = by_aiter
    case = PagedCase(heads, MIXED)
    kinds = [AiterUnifiedBackend] if heads.soft_cap else [AiterUnifiedBackend, AiterFlashBackend]
    for kind in kinds:
        torch.testing.assert_close(through(kind, case), case.expected(), rtol=1e-4, atol=1e-5)


def test_aiter_declines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    gpu, spec = torch.device("cuda"), replace(BASE, dtype=torch.bfloat16).spec()
    assert AiterFlashBackend.declines(spec, gpu, None) == "the package aiter is not installed"
    module(monkeypatch, "aiter", flash_attn_varlen_func=by_aiter)
    assert AiterFlashBackend.declines(spec, gpu, None) is None
    assert AiterUnifiedBackend.declines(spec, gpu, None) is None
    capped = replace(spec, logits_soft_cap=3.0)
    assert "soft cap" in str(AiterFlashBackend.declines(capped, gpu, None))
    assert AiterUnifiedBackend.declines(capped, gpu, None) is None
    assert "not torch.float32" in str(AiterUnifiedBackend.declines(BASE.spec(), gpu, None))
