"""kernels.gguf against the `gguf` package's numpy dequantization."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from octavo.kernels.gguf import BLOCK_FORMATS, FLOAT_FORMATS, dequantize
from octavo.quantization.gguf_tensor import GGUFTensor

QUANTIZED = sorted(set(BLOCK_FORMATS) - set(FLOAT_FORMATS))
HALVES = {  # where a block holds float16 numbers, which must be finite
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}


def random_rows(type_name: str, num_rows: int, num_columns: int, seed: int = 0) -> np.ndarray:
    """Rows of random blocks: every bit pattern but for the scales, which are ordinary numbers."""
    rng = np.random.default_rng(seed)
    columns, size = BLOCK_FORMATS[type_name]
    blocks = rng.integers(0, 256, (num_rows * num_columns // columns, size), dtype=np.uint8)
    for start in HALVES[type_name]:
        blocks[:, start : start + 2] = rng.normal(0, 0.05, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    return blocks.reshape(num_rows, -1)


@pytest.mark.parametrize("type_name", sorted(BLOCK_FORMATS))
def test_block_sizes_are_those_of_the_format(type_name: str) -> None:
    assert BLOCK_FORMATS[type_name] == GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]


@pytest.mark.parametrize("type_name", QUANTIZED)
def test_random_blocks(type_name: str) -> None:
    raw = random_rows(type_name, 5, 1024)
    expected = quants.dequantize(raw, GGMLQuantizationType[type_name])
    got = dequantize(torch.from_numpy(raw), type_name, 1024)
    assert got.shape == (5, 1024)
    np.testing.assert_allclose(got.numpy(), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_was_quantized_comes_back(type_name: str) -> None:
    numbers = np.random.default_rng(1).normal(0, 1, (4, 256)).astype(np.float32)
    raw = quants.quantize(numbers, GGMLQuantizationType[type_name])
    got = dequantize(torch.from_numpy(raw), type_name, 256).numpy()
    np.testing.assert_allclose(got, quants.dequantize(raw, GGMLQuantizationType[type_name]), rtol=0, atol=1e-6)
    assert np.abs(got - numbers).max() < 0.5


@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0", "Q6_K"])
def test_more_than_one_chunk(type_name: str) -> None:
    raw = random_rows(type_name, 1400, 768)
    expected = quants.dequantize(raw, GGMLQuantizationType[type_name])
    np.testing.assert_allclose(
        dequantize(torch.from_numpy(raw), type_name, 768).numpy(), expected, atol=1e-6, rtol=2e-6
    )


def test_half_precision_is_rounded_once() -> None:
    raw = torch.from_numpy(random_rows("Q4_K", 3, 512))
    exact = dequantize(raw, "Q4_K", 512)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(dequantize(raw, "Q4_K", 512, dtype), exact.to(dtype))


@pytest.mark.parametrize("type_name", sorted(FLOAT_FORMATS))
def test_plain_numbers(type_name: str) -> None:
    numbers = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).to(FLOAT_FORMATS[type_name])
    assert torch.equal(dequantize(numbers.view(torch.uint8), type_name, 8), numbers.float())


def test_rows_of_a_quantized_tensor_stay_quantized() -> None:
    raw = torch.from_numpy(random_rows("Q5_0", 6, 64))
    tensor = GGUFTensor(raw, "Q5_0", (6, 64))
    picked = tensor.rows(torch.tensor([4, 0, 4]))
    assert picked.shape == (3, 64)
    assert picked.nbytes == 3 * 2 * 22
    assert torch.equal(picked.dequantize(), tensor.dequantize()[[4, 0, 4]])
    assert torch.equal(tensor.rows(slice(2, 5)).dequantize(), tensor.dequantize()[2:5])


def test_leading_dimensions_are_rows() -> None:
    tensor = GGUFTensor(torch.from_numpy(random_rows("Q8_0", 6, 32)), "Q8_0", (2, 3, 32))
    assert tensor.dequantize(torch.bfloat16).shape == (2, 3, 32)
