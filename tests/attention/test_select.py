"""The choice of an attention backend, and what is said of those that decline."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from all_kernels import BEST_KERNELS, CPP_KERNELS, needs_cpp_kernels

from octavo.attention.base import AttentionSpec
from octavo.attention.select import BACKENDS, select_backend
from octavo.errors import ConfigError, UnsupportedModelError
from octavo.kernels import torch_ops
from octavo.platforms.cpu import CpuPlatform
from octavo.platforms.cuda import CudaPlatform
from octavo.platforms.rocm import RocmPlatform

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


@needs_cpp_kernels
def test_the_kernels_in_cpp_are_first() -> None:
    assert select_backend(None, ORDER, [SPEC], CPU, BEST_KERNELS).name == "CPU_ATTN"
    for change in ({"head_dim": 24}, {"block_size": 8}, {"dtype": torch.float16}):
        assert select_backend(None, ORDER, [replace(SPEC, **change)], CPU, BEST_KERNELS).name == "TORCH_ATTN"


@needs_cpp_kernels
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
    assert "FLASHINFER declined: serves NVIDIA GPUs, not meta" in caplog.text
    assert "CPU_ATTN declined: serves the cpu only, not meta" in caplog.text


ON_A_CPU = ["TORCH_ATTN", "TORCH_SDPA", *(["CPU_ATTN"] if CPP_KERNELS else [])]


@pytest.mark.parametrize("name", ON_A_CPU)
def test_named(name: str) -> None:
    assert select_backend(name, ORDER, [SPEC], CPU, BEST_KERNELS).name == name
    assert select_backend(name.lower(), ORDER, [SPEC], CPU, BEST_KERNELS).name == name


OF_GPUS = {
    "TRITON_ATTN": "serves NVIDIA and AMD GPUs, not cpu",
    "FLASH_ATTN": "serves NVIDIA GPUs, not cpu",
    "FLASHINFER": "serves NVIDIA GPUs, not cpu",
    "ROCM_ATTN": "serves NVIDIA and AMD GPUs, not cpu",
    "ROCM_AITER_FA": "serves AMD GPUs, not cpu",
    "ROCM_AITER_UNIFIED_ATTN": "serves AMD GPUs, not cpu",
}


@pytest.mark.parametrize(("name", "reason"), OF_GPUS.items())
def test_named_but_of_another_platform(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' can't serve this model: {reason}; leave it out"):
        select_backend(name, ORDER, [SPEC], CPU, torch_ops)


def test_every_backend_of_every_platform_exists() -> None:
    for platform in (CpuPlatform, CudaPlatform, RocmPlatform):
        assert set(platform.attention_backends) <= set(BACKENDS)
        assert platform.attention_backends[-1] == "TORCH_SDPA"  # the twin serves what no other does


def test_a_package_that_is_broken_declines(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, specs: object, kernels: object) -> None:
        raise ModuleNotFoundError("No module named 'cutlass'")

    monkeypatch.setattr(BACKENDS["TORCH_ATTN"], "__init__", broken)
    with pytest.raises(ConfigError, match=r"can't be imported \(No module named 'cutlass'\).*order on cpu"):
        select_backend("TORCH_ATTN", ORDER, [SPEC], CPU, torch_ops)
    assert select_backend(None, ORDER[1:], [SPEC], CPU, torch_ops).name == "TORCH_SDPA"


GPU = torch.device("cuda")
HALF = replace(SPEC, dtype=torch.bfloat16, kv_cache_dtype=torch.bfloat16, head_dim=128)
FP8 = {"kv_cache_dtype": torch.float8_e4m3fn}
FA2, FA3, FA4 = "flash_attn", "flash_attn_interface", "flash_attn.cute"


def on_nvidia(patch: pytest.MonkeyPatch, capability: tuple[int, int], packages: tuple[str, ...]) -> None:
    """A GPU that is not there, and packages that may be: what the backends ask of torch and of Python."""
    patch.setattr(torch.version, "hip", None)
    patch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    for module in ("head_major", "flash_attn", "flashinfer"):
        patch.setattr(f"octavo.attention.{module}.find_spec", lambda name: name if name in packages else None)
    patch.setattr("octavo.attention.flashinfer._finds_compiler", lambda: True)


@pytest.mark.parametrize(
    ("name", "capability", "packages", "change", "reason"),
    [
        ("TRITON_ATTN", (9, 0), (), {}, "the package triton is not installed"),
        ("TRITON_ATTN", (7, 5), ("triton",), {}, "needs compute capability 8.0 or more, and this GPU has 7.5"),
        ("TRITON_ATTN", (8, 6), ("triton",), FP8, "8.9 or more for a KV cache of fp8"),
        ("FLASHINFER", (9, 0), ("triton",), {}, "the package flashinfer-python is not installed"),
        ("FLASHINFER", (9, 0), ("triton", "flashinfer"), {"head_dim": 80}, "head_dim must be one of 64, 128, 256"),
        ("FLASHINFER", (9, 0), ("triton", "flashinfer"), {"dtype": torch.float32}, "not torch.float32"),
        ("FLASHINFER", (9, 0), ("triton", "flashinfer"), FP8, "the dtype of the run"),
        ("FLASH_ATTN", (9, 0), ("triton",), {}, "none of the packages .* is installed"),
        ("FLASH_ATTN", (9, 0), ("triton", FA2), {}, "blocks of a multiple of 256 tokens, not 16"),
        ("FLASH_ATTN", (8, 0), ("triton", FA3, FA4), {}, "flash-attn 3 has no .* capability 8; flash-attn 4 has no"),
        ("FLASH_ATTN", (9, 0), ("triton", FA4), {"head_dim": 260}, "multiple of 8 up to"),
        ("ROCM_ATTN", (9, 0), ("triton",), {}, "serves AMD GPUs"),
        ("ROCM_AITER_FA", (9, 0), ("triton",), {}, "serves AMD GPUs, not NVIDIA"),
    ],
)
def test_why_a_gpu_is_declined(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    capability: tuple[int, int],
    packages: tuple[str, ...],
    change: dict[str, object],
    reason: str,
) -> None:
    on_nvidia(monkeypatch, capability, packages)
    said = BACKENDS[name].declines(replace(HALF, **change), GPU, None)
    assert said is not None
    assert re.search(reason, said), said


@pytest.mark.parametrize(
    ("name", "packages", "change"),
    [
        ("TRITON_ATTN", ("triton",), FP8),
        ("FLASHINFER", ("triton", "flashinfer"), {}),
        ("FLASH_ATTN", ("triton", FA2), {"block_size": 256}),
        ("FLASH_ATTN", ("triton", FA3), {}),
        ("FLASH_ATTN", ("triton", FA2, FA4), {}),
    ],
)
def test_who_serves_a_hopper(
    monkeypatch: pytest.MonkeyPatch, name: str, packages: tuple[str, ...], change: dict[str, object]
) -> None:
    on_nvidia(monkeypatch, (9, 0), packages)
    assert BACKENDS[name].declines(replace(HALF, **change), GPU, None) is None


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="unknown attention_backend 'FLASHATTN'; did you mean 'FLASH_ATTN'"):
        select_backend("FLASHATTN", ORDER, [SPEC], CPU, torch_ops)


def test_none_serves() -> None:
    specs = [SPEC, replace(SPEC, head_dim=32)]
    with pytest.raises(UnsupportedModelError, match="CPU_ATTN declined: its layers have keys of several shapes"):
        select_backend(None, ORDER, specs, CPU, torch_ops)
