"""The choice of an attention backend, and what is said of those that decline."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from all_kernels import BEST_KERNELS, CPP_KERNELS

from octavo.attention.base import AttentionSpec
from octavo.attention.select import UNAVAILABLE, select_backend
from octavo.errors import ConfigError, UnsupportedModelError
from octavo.kernels import torch_ops

CPU, ORDER = torch.device("cpu"), ("CPU_ATTN", "TORCH_ATTN", "TORCH_SDPA")
SPEC = AttentionSpec(
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    dtype=torch.float32,
    kv_cache_dtype=torch.float32,
    sliding_window=None,
    logits_soft_cap=None,
    block_size=16,
)


def test_first_of_the_order() -> None:
    assert select_backend(None, ORDER[1:], [SPEC], CPU, torch_ops).name == "TORCH_ATTN"
    assert select_backend(None, ORDER[::-1], [SPEC], CPU, torch_ops).name == "TORCH_SDPA"


@pytest.mark.skipif(not CPP_KERNELS, reason="the C++ kernels are not built")
def test_the_kernels_in_cpp_are_first() -> None:
    assert select_backend(None, ORDER, [SPEC], CPU, BEST_KERNELS).name == "CPU_ATTN"
    for change in ({"head_dim": 24}, {"block_size": 8}, {"dtype": torch.float16}):
        assert select_backend(None, ORDER, [replace(SPEC, **change)], CPU, BEST_KERNELS).name == "TORCH_ATTN"


@pytest.mark.skipif(not CPP_KERNELS, reason="the C++ kernels are not built")
def test_a_cache_of_int8_is_for_the_kernels_in_cpp() -> None:
    spec = replace(SPEC, kv_cache_dtype=torch.int8)
    assert select_backend(None, ORDER, [spec], CPU, BEST_KERNELS).name == "CPU_ATTN"
    assert (
        select_backend(None, ORDER, [replace(SPEC, kv_cache_dtype=torch.float16)], CPU, BEST_KERNELS).name
        == "TORCH_ATTN"
    )
    for name in ("TORCH_ATTN", "TORCH_SDPA"):
        with pytest.raises(ConfigError, match="its KV cache is of floating point, not"):
            select_backend(name, ORDER, [spec], CPU, BEST_KERNELS)


def test_without_the_kernels_in_cpp() -> None:
    with pytest.raises(ConfigError, match="the C\\+\\+ kernels are not built"):
        select_backend("CPU_ATTN", ORDER, [SPEC], CPU, torch_ops)


def test_next_when_the_first_declines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.attention.select.logger.propagate", True)
    monkeypatch.setattr("octavo.attention.select.logger.parent.propagate", True)
    with caplog.at_level("INFO", logger="octavo"):
        taken = select_backend(None, ("FLASHINFER", *ORDER), [SPEC], torch.device("meta"), torch_ops)
    assert taken.name == "TORCH_SDPA"
    assert "FLASHINFER declined: it belongs to cuda, and this is meta" in caplog.text
    assert "CPU_ATTN declined: serves the cpu only, not meta" in caplog.text


ON_A_CPU = ["TORCH_ATTN", "TORCH_SDPA", *(["CPU_ATTN"] if CPP_KERNELS else [])]


@pytest.mark.parametrize("name", ON_A_CPU)
def test_named(name: str) -> None:
    assert select_backend(name, ORDER, [SPEC], CPU, BEST_KERNELS).name == name
    assert select_backend(name.lower(), ORDER, [SPEC], CPU, BEST_KERNELS).name == name


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_named_but_of_another_platform(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' can't serve this model: it belongs to .*this is cpu; leave"):
        select_backend(name, ORDER, [SPEC], CPU, torch_ops)


def test_triton_has_no_kernels_for_a_cpu() -> None:
    with pytest.raises(ConfigError, match="'TRITON_ATTN' can't serve this model: serves NVIDIA and AMD GPUs, not cpu"):
        select_backend("TRITON_ATTN", ORDER, [SPEC], CPU, torch_ops)


def test_named_but_not_built() -> None:
    with pytest.raises(ConfigError, match="not built into this version"):
        select_backend("FLASH_ATTN", ORDER, [SPEC], torch.device("cuda"), torch_ops)


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="unknown attention_backend 'FLASHATTN'; did you mean 'FLASH_ATTN'"):
        select_backend("FLASHATTN", ORDER, [SPEC], CPU, torch_ops)


def test_none_serves() -> None:
    specs = [SPEC, replace(SPEC, head_dim=32)]
    with pytest.raises(UnsupportedModelError, match="CPU_ATTN declined: its layers have keys of several shapes"):
        select_backend(None, ORDER, specs, CPU, torch_ops)
