"""What TRITON_ATTN declines, asked of a GPU that is not there."""

from __future__ import annotations

import pytest
import torch
from paged_case import Heads

from octavo.attention import head_major
from octavo.attention.triton_attn import TritonAttentionBackend

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(head_major, "find_spec", lambda package: object())


@pytest.mark.parametrize("head_dim", [64, 80, 96, 112, 128, 192, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_serves(head_dim: int, dtype: torch.dtype) -> None:
    heads = Heads(num_heads=32, num_kv_heads=2, head_dim=head_dim, dtype=dtype, sliding_window=9, soft_cap=3.0)
    assert TritonAttentionBackend.declines(heads.spec(), GPU, None) is None


@pytest.mark.parametrize(
    ("heads", "reason"),
    [
        (Heads(head_dim=40), "head_dim must be a multiple of 16 up to 256, and is 40"),
        (Heads(head_dim=512), "and is 512"),
        (Heads(block_size=8), "block_size must be a power of two from 16 on, and is 8"),
        (Heads(block_size=48), "and is 48"),
        (Heads(dtype=torch.float64), "not torch.float64"),
        (Heads(num_heads=71, num_kv_heads=1), "at most 32 query heads may share a KV head, and 71 do"),
    ],
)
def test_declines(heads: Heads, reason: str) -> None:
    assert reason in str(TritonAttentionBackend.declines(heads.spec(), GPU, None))


def test_declines_other_devices_and_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Heads().spec()
    assert "not cpu" in str(TritonAttentionBackend.declines(spec, torch.device("cpu"), None))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "8.0 or more, and this GPU has 7.5" in str(TritonAttentionBackend.declines(spec, GPU, None))
    monkeypatch.setattr(head_major, "find_spec", lambda package: None)
    assert "triton is not installed" in str(TritonAttentionBackend.declines(spec, GPU, None))
