"""Rows looked up in packed matrices, against plain indexing of what was packed."""

from __future__ import annotations

import pytest
import torch
from all_kernels import CPP_KERNELS, needs_cpp_kernels
from gguf_blocks import random_blocks
from torch import Tensor

from octavo.kernels import torch_ops
from octavo.kernels.cpu import CPUKernels
from octavo.kernels.gguf import dequantize

pytestmark = needs_cpp_kernels
every_isa = pytest.mark.parametrize("kernels", CPP_KERNELS.values(), ids=CPP_KERNELS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
NUM_ROWS = 101  # two panels and a part of one, no multiple of 16
IDS = torch.tensor([0, 100, 47, 48, 15, 16, 63, 64, 96, 3, 3])


def halves(x: Tensor) -> Tensor:
    return x.half().float()


def with_half_scales(raw: Tensor, type_name: str, num_columns: int) -> Tensor:
    """What the packed form of a K type stands for: scales and minimums of the blocks are rounded to float16."""
    plain = dequantize(raw, type_name, num_columns).view(len(raw), -1, 16)  # each group has one scale
    flat = raw.reshape(-1, {"Q4_K": 144, "Q5_K": 176, "Q6_K": 210}[type_name])
    if type_name == "Q6_K":
        d = flat[:, 208:210].contiguous().view(torch.float16).float()
        scale = (flat[:, 192:208].view(torch.int8).float() * d).view(len(raw), -1, 1)
        codes = (plain / scale.where(scale != 0, 1)).round()
        return (codes * halves(scale)).view(len(raw), -1)
    low, high = flat[:, 4:12] & 63, flat[:, 12:16]
    top = flat[:, 4:12] >> 6
    scales = torch.cat((low[:, :4], (high & 15) | (top[:, :4] << 4)), dim=1)
    mins = torch.cat((low[:, 4:], (high >> 4) | (top[:, 4:] << 4)), dim=1)
    d, dmin = (flat[:, i : i + 2].contiguous().view(torch.float16).float() for i in (0, 2))
    scale = (scales * d).repeat_interleave(2, 1).view(len(raw), -1, 1)
    minimum = (mins * dmin).repeat_interleave(2, 1).view(len(raw), -1, 1)
    codes = ((plain + minimum) / scale.where(scale != 0, 1)).round()
    return (codes * halves(scale) - halves(minimum)).view(len(raw), -1)


@every_isa
@every_dtype
@pytest.mark.parametrize("width", [1, 2, 31, 64, 97])
def test_plain_numbers(kernels: CPUKernels, dtype: torch.dtype, width: int) -> None:
    weight = torch.randn(NUM_ROWS, width).to(dtype)
    linear = kernels.pack_linear(weight, None, float_output=True)
    assert torch.equal(linear.rows(IDS, dtype), torch_ops.pack_linear(weight, None).rows(IDS, dtype))
    assert linear.rows(IDS[:0], dtype).shape == (0, width)


@every_isa
@every_dtype
@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks(kernels: CPUKernels, dtype: torch.dtype, type_name: str) -> None:
    width = 512 if type_name.endswith("_K") else 96
    raw = random_blocks(type_name, NUM_ROWS, width)
    linear = kernels.pack_blocks([(raw, type_name)], width, None)
    assert linear is not None
    expand = with_half_scales if type_name.endswith("_K") else dequantize
    assert torch.equal(linear.rows(IDS, dtype), expand(raw, type_name, width)[IDS].to(dtype))


@every_isa
@every_dtype
def test_a_scale_for_each_row(kernels: CPUKernels, dtype: torch.dtype) -> None:
    weight = torch.randn(NUM_ROWS, 100)
    weight[47] = 0
    scale = weight.abs().amax(1, keepdim=True) / 127
    rounded = (weight * (1 / scale.clamp(min=1e-30))).round() * scale
    assert torch.equal(kernels.pack_int8(weight, None).rows(IDS, dtype), rounded[IDS].to(dtype))


@every_isa
def test_recorded(kernels: CPUKernels) -> None:
    weight = torch.randn(NUM_ROWS, 8)
    linear, ids = kernels.pack_linear(weight, None), torch.zeros(len(IDS), dtype=torch.int64)
    recording = kernels.record(lambda: linear.rows(ids, torch.float32), num_rows=len(ids))
    ids.copy_(IDS)
    recording.replay(4, 1)
    assert torch.equal(recording.result[:4], weight[IDS[:4]])
    assert not recording.result[4:].any()
