"""Dequantization of the GGML block formats that GGUF files hold, in plain torch.

A row of a quantized tensor is a sequence of blocks; a block holds a fixed number of columns in a fixed number of bytes.
The layouts are those of ggml's `block_*` structures (ggml-common.h); each function below describes its own. All
numbers are little-endian. This module knows no files and no names of tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK_FORMATS: dict[str, tuple[int, int]] = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
"""Name of the format -> (columns of a block, bytes of a block)."""

FLOAT_FORMATS: dict[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The formats that are no blocks at all: plain numbers."""

_CHUNK_ELEMENTS = 1 << 20  # worked on at once: bounds the memory of the intermediate tensors


def dequantize(raw: Tensor, type_name: str, num_columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers of quantized rows.

    Args:
        raw: uint8 [rows, row_bytes], row_bytes being num_columns / columns of a block * bytes of a block.
        type_name: a key of BLOCK_FORMATS.
        num_columns: columns of the result.
        dtype: of the result; the arithmetic is in float32.

    Returns:
        [rows, num_columns] of `dtype`, on raw's device.
    """
    if type_name in FLOAT_FORMATS:
        return raw.contiguous().view(FLOAT_FORMATS[type_name]).to(dtype)
    block_columns, block_bytes = BLOCK_FORMATS[type_name]
    num_rows = raw.shape[0]
    blocks = raw.reshape(-1, block_bytes)
    out = torch.empty(num_rows * num_columns // block_columns, block_columns, dtype=dtype, device=raw.device)
    step = _CHUNK_ELEMENTS // block_columns
    unpack = _UNPACK[type_name]
    for start in range(0, blocks.shape[0], step):
        part = blocks[start : start + step]
        out[start : start + step] = unpack(part).view(part.shape[0], block_columns)
    return out.view(num_rows, num_columns)


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 at byte `start` of each block, as float32 [blocks, 1]."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """[..., n] bytes -> [..., 2, n]: the low halves, then the high halves."""
    return torch.stack((packed & 15, packed >> 4), dim=-2)


def _pairs(packed: Tensor) -> Tensor:
    """[..., n] bytes -> [..., 4, n]: the bits 0-1, then 2-3, 4-5 and 6-7."""
    return torch.stack((packed & 3, (packed >> 2) & 3, (packed >> 4) & 3, packed >> 6), dim=-2)


def _bits(packed: Tensor) -> Tensor:
    """[..., n] bytes -> [..., 8, n]: bit 0, then bit 1, ... bit 7."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device).unsqueeze(-1)
    return (packed.unsqueeze(-2) >> shifts) & 1


def _q4_0(blocks: Tensor) -> Tensor:
    """d: f16, qs: 16 bytes (columns 0-15 low, 16-31 high); x = d * (q - 8)."""
    return (_nibbles(blocks[:, 2:]).flatten(1).float() - 8).mul_(_half(blocks, 0))


def _q4_1(blocks: Tensor) -> Tensor:
    """d: f16, m: f16, qs: 16 bytes as in Q4_0; x = d * q + m."""
    return _nibbles(blocks[:, 4:]).flatten(1).float().mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _with_fifth_bit(high: Tensor, packed: Tensor) -> Tensor:
    """4 bytes with one bit per column and 16 bytes of nibbles -> [blocks, 32], values 0 to 31."""
    bits = _bits(high).transpose(1, 2).flatten(1)
    return (_nibbles(packed).flatten(1) | (bits << 4)).float()


def _q5_0(blocks: Tensor) -> Tensor:
    """d: f16, qh: 32 bits, qs: 16 bytes; x = d * (q - 16)."""
    return (_with_fifth_bit(blocks[:, 2:6], blocks[:, 6:]) - 16).mul_(_half(blocks, 0))


def _q5_1(blocks: Tensor) -> Tensor:
    """d: f16, m: f16, qh: 32 bits, qs: 16 bytes; x = d * q + m."""
    return _with_fifth_bit(blocks[:, 4:8], blocks[:, 8:]).mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q8_0(blocks: Tensor) -> Tensor:
    """d: f16, qs: 32 int8; x = d * q."""
    return blocks[:, 2:].view(torch.int8).float().mul_(_half(blocks, 0))


def _q2_k(blocks: Tensor) -> Tensor:
    """scales: 16 bytes (low: scale, high: minimum, each for 16 columns), qs: 64 bytes, d: f16, dmin: f16.

    Each half of qs holds 128 columns: 32 in the bits 0-1 of its bytes, then 32 in the bits 2-3, and so on.
    """
    scales = blocks[:, :16]
    scale = (_half(blocks, 80) * (scales & 15)).unsqueeze(-1)
    minimum = (_half(blocks, 82) * (scales >> 4)).unsqueeze(-1)
    q = _pairs(blocks[:, 16:80].reshape(-1, 2, 32)).reshape(-1, 16, 16)
    return q.float().mul_(scale).sub_(minimum)


def _q3_k(blocks: Tensor) -> Tensor:
    """hmask: 32 bytes, qs: 64 bytes as in Q2_K, scales: 16 numbers of 6 bits in 12 bytes, d: f16.

    x = d * (scale - 32) * (q - 4), where bit i of hmask's bytes is the third bit of the columns 32 i to 32 i + 31.
    The scales' low 4 bits lie in bytes 0-7 (low halves first), their high 2 bits in bytes 8-11.
    """
    packed = blocks[:, 96:108]
    low = _nibbles(packed[:, :8]).flatten(1)
    high = _pairs(packed[:, 8:]).flatten(1)
    scale = (low | (high << 4)).float().sub_(32).mul_(_half(blocks, 108)).unsqueeze(-1)
    third = _bits(blocks[:, :32]).flatten(1)
    q = _pairs(blocks[:, 32:96].reshape(-1, 2, 32)).flatten(1) | (third << 2)
    return q.float().sub_(4).view(-1, 16, 16).mul_(scale)


def _scales_and_minimums(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 8 scales and 8 minimums of 6 bits each in the 12 bytes of Q4_K and Q5_K, as [blocks, 8] each.

    Bytes 0-3 and 4-7 hold the first four of each in their low 6 bits; bytes 8-11 the low halves of the last four,
    whose high 2 bits are the bits 6-7 of bytes 0-3 and 4-7.
    """
    a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scale = torch.cat((a & 63, (c & 15) | ((a >> 6) << 4)), dim=1)
    minimum = torch.cat((b & 63, (c >> 4) | ((b >> 6) << 4)), dim=1)
    return scale, minimum


def _q4_k(blocks: Tensor) -> Tensor:
    """d: f16, dmin: f16, scales: 12 bytes, qs: 128 bytes; x = d * scale * q - dmin * minimum.

    Each 32 bytes of qs hold 64 columns: 32 in the low halves, then 32 in the high halves.
    """
    scale, minimum = _scales_and_minimums(blocks[:, 4:16])
    q = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    scale, minimum = _half(blocks, 0) * scale, _half(blocks, 2) * minimum
    return q.float().mul_(scale.unsqueeze(-1)).sub_(minimum.unsqueeze(-1))


def _q5_k(blocks: Tensor) -> Tensor:
    """As Q4_K, with qh (32 bytes) before qs: bit i of its bytes is the fifth bit of the columns 32 i to 32 i + 31."""
    scale, minimum = _scales_and_minimums(blocks[:, 4:16])
    q = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32) | (_bits(blocks[:, 16:48]) << 4)
    scale, minimum = _half(blocks, 0) * scale, _half(blocks, 2) * minimum
    return q.float().mul_(scale.unsqueeze(-1)).sub_(minimum.unsqueeze(-1))


def _q6_k(blocks: Tensor) -> Tensor:
    """ql: 128 bytes, qh: 64 bytes, scales: 16 int8, d: f16; x = d * scale * (q - 32).

    Each half (64 bytes of ql, 32 of qh) holds 128 columns: the low 4 bits are the low halves of ql, then its high
    halves; the high 2 bits are the bits 0-1 of qh, then 2-3, 4-5 and 6-7.
    """
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).flatten(1)
    high = _pairs(blocks[:, 128:192].reshape(-1, 2, 32)).flatten(1)
    scale = blocks[:, 192:208].view(torch.int8).float().mul_(_half(blocks, 208)).unsqueeze(-1)
    return (low | (high << 4)).float().sub_(32).view(-1, 16, 16).mul_(scale)


_UNPACK: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
