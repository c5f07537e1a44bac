"""The C++ products with quantized weights against torch's dequantization in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gguf_blocks import random_blocks
from torch import Tensor

from octavo.kernels.gguf import BLOCK_FORMATS, dequantize

_cpu = pytest.importorskip("octavo._cpu")

GGUF_TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K"]
TYPES = ["int8", *GGUF_TYPES]
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
ISAS = _cpu.usable_isas()
TEAMS = {isa: _cpu.Team(2, isa) for isa in ISAS}


def packed(type_name: str, n: int, k: int, seed: int = 0) -> tuple[Any, Tensor]:
    """A packed matrix, and what it stands for in float64."""
    matrix = _cpu.QuantPacked(type_name, n, k)
    if type_name == "int8":
        weight = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
        matrix.fill_floats(0, weight.data_ptr(), k, 0, n)
        scale = weight.abs().amax(1, keepdim=True).double() / 127
        return matrix, (weight.double() / scale).round() * scale
    raw = random_blocks(type_name, n, k, seed)
    matrix.fill_blocks(raw.data_ptr(), raw.shape[1], 0, n)
    return matrix, dequantize(raw, type_name, k).double()


def run(isa: str, matrix: Any, x: Tensor, bias: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    y = torch.full((x.shape[0], matrix.n), float("nan"), dtype=dtype)
    address = 0 if bias is None else bias.data_ptr()
    TEAMS[isa].quant_linear(
        matrix,
        DTYPES[x.dtype],
        x.data_ptr(),
        x.stride(0),
        address,
        DTYPES[dtype],
        y.data_ptr(),
        matrix.n,
        False,
        4,
        0,
        x.shape[0],
    )
    return y


def bound(isa: str, type_name: str) -> float:
    """Of the relative error. avx512 rounds activations to int8; all round the K types' scales to fp16."""
    if isa == "avx512":
        return 0.012
    return 1e-3 if type_name.endswith("_K") else 1e-6


def relative_error(got: Tensor, x: Tensor, weight: Tensor) -> float:
    """Of got against x @ weight^T: relative to the norm that results of independent terms have, not cancelled sums."""
    x = x.double()
    return float((got.double() - x @ weight.T).norm() / (x.square() @ weight.T.square()).sum().sqrt())


def size_of(type_name: str, n: int, k: int) -> tuple[int, int]:
    """[n, k], with k rounded up to what the type can have."""
    step = BLOCK_FORMATS[type_name][0] if type_name != "int8" else 1
    return n, -(-k // step) * step


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize(("n", "k"), [(48, 64), (7, 32), (50, 96), (161, 576), (33, 1536)])
def test_against_dequantization(isa: str, type_name: str, n: int, k: int) -> None:
    matrix, weight = packed(type_name, *size_of(type_name, n, k))
    torch.manual_seed(1)
    for rows in (1, 2, 3, 5, 8, 13, 64):
        x, bias = torch.randn(rows, matrix.k), torch.randn(n)
        assert relative_error(run(isa, matrix, x), x, weight) < bound(isa, type_name)
        assert relative_error(run(isa, matrix, x, bias) - bias, x, weight) < bound(isa, type_name)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_name", ["int8", "Q8_0", "Q4_1", "Q6_K"])
def test_bf16_activations_and_results(isa: str, type_name: str) -> None:
    matrix, _ = packed(type_name, *size_of(type_name, 50, 96))
    x = torch.randn(9, matrix.k).bfloat16()
    exact = run(isa, matrix, x.float())
    assert torch.equal(run(isa, matrix, x), exact)
    assert torch.equal(run(isa, matrix, x, dtype=torch.bfloat16), exact.bfloat16())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_name", TYPES)
def test_outliers_and_zeros_in_activations(isa: str, type_name: str) -> None:
    matrix, weight = packed(type_name, 48, 512)
    x = torch.zeros(3, 512)
    x[1, 5] = 1e4
    x[2, 300] = -1e-4
    y = run(isa, matrix, x)
    assert torch.equal(y[0], torch.zeros(48))
    assert relative_error(y, x, weight) < 6e-4
    assert relative_error(y[2], x[2], weight) < 6e-4


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 4, 9])
def test_an_outlier_makes_only_its_own_group_coarse(isa: str, rows: int) -> None:
    """int8 has a scale for 64 activations: what lies in other groups keeps its precision."""
    matrix, weight = packed("int8", 100, 320)
    rest, outlier = torch.zeros(rows, 320), torch.zeros(rows, 320)
    rest[:, 66:] = torch.randn(rows, 254)
    outlier[:, 5] = 1e3
    beside = run(isa, matrix, rest + outlier) - run(isa, matrix, outlier)
    assert relative_error(beside, rest, weight) < 0.012


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_name", TYPES)
def test_a_row_does_not_depend_on_its_batch(isa: str, type_name: str) -> None:
    matrix, _ = packed(type_name, 109, 512)
    x = torch.randn(300, 512) * torch.rand(300, 1).exp2()
    whole = run(isa, matrix, x)
    for start, rows in [
        (0, 1),
        (299, 1),
        (17, 2),
        (17, 3),
        (20, 4),
        (1, 5),
        (3, 6),
        (2, 7),
        (100, 8),
        (9, 9),
        (250, 50),
        (1, 299),
    ]:
        assert torch.equal(run(isa, matrix, x[start : start + rows]), whole[start : start + rows]), (start, rows)
    alone = _cpu.Team(1, isa)
    y = torch.empty(300, 109)
    alone.quant_linear(matrix, 0, x.data_ptr(), 512, 0, 0, y.data_ptr(), 109, False, 4, 0, 300)
    assert torch.equal(y, whole)


@pytest.mark.parametrize("isa", ISAS)
def test_strides_and_what_lies_between_rows(isa: str) -> None:
    matrix, _ = packed("Q8_0", 50, 96)
    wide_x = torch.randn(5, 200)
    x = wide_x[:, 30:126]
    expected = run(isa, matrix, x.contiguous())
    y = torch.full((5, 64), 7.0)
    TEAMS[isa].quant_linear(matrix, 0, x.data_ptr(), 200, 0, 0, y.data_ptr(), 64, False, 4, 0, 5)
    assert torch.equal(y[:, :50], expected)
    assert torch.equal(y[:, 50:], torch.full((5, 14), 7.0))


@pytest.mark.parametrize("type_name", GGUF_TYPES)
def test_shards_stack_into_one_matrix(type_name: str) -> None:
    raw = random_blocks(type_name, 70, 512)
    whole, parts = _cpu.QuantPacked(type_name, 70, 512), _cpu.QuantPacked(type_name, 70, 512)
    whole.fill_blocks(raw.data_ptr(), raw.shape[1], 0, 70)
    padded = torch.zeros(70, raw.shape[1] + 6, dtype=torch.uint8)
    padded[:, : raw.shape[1]] = raw
    for first, count in ((50, 20), (0, 5), (5, 45)):
        parts.fill_blocks(padded[first].data_ptr(), padded.shape[1], first, count)
    x = torch.randn(4, 512)
    assert torch.equal(run(ISAS[0], whole, x), run(ISAS[0], parts, x))


def test_int8_from_bf16_is_int8_from_the_same_floats() -> None:
    weight = torch.randn(50, 100).bfloat16()
    floats = weight.float()
    a, b = _cpu.QuantPacked("int8", 50, 100), _cpu.QuantPacked("int8", 50, 100)
    a.fill_floats(1, weight.data_ptr(), 100, 0, 50)
    b.fill_floats(0, floats.data_ptr(), 100, 0, 50)
    x = torch.randn(4, 100)
    assert torch.equal(run(ISAS[0], a, x), run(ISAS[0], b, x))
    assert relative_error(run(ISAS[0], a, x), x, floats.double()) < 0.02


@pytest.mark.parametrize("isa", ISAS)
def test_replay_with_other_rows(isa: str) -> None:
    first, _ = packed("Q4_1", 96, 64)
    second, _ = packed("int8", 40, 96)
    team = _cpu.Team(2, isa)
    x, h, y = torch.zeros(20, 64), torch.zeros(20, 96), torch.zeros(20, 40)
    team.start_recording(20)
    team.quant_linear(first, 0, x.data_ptr(), 64, 0, 0, h.data_ptr(), 96, False, 4, 0, 20)
    team.quant_linear(second, 0, h.data_ptr(), 96, 0, 0, y.data_ptr(), 40, False, 4, 0, 20)
    recording = team.finish_recording()
    assert recording.num_calls == 2
    for rows in (20, 1, 7):
        x.copy_(torch.randn(20, 64))
        y.fill_(3.0)
        team.replay(recording, rows, rows)
        assert torch.equal(y[:rows], run(isa, second, run(isa, first, x[:rows])))
        assert torch.equal(y[rows:], torch.full((20 - rows, 40), 3.0))
    with pytest.raises(ValueError, match="at most"):
        team.replay(recording, 21, 21)


def test_no_rows() -> None:
    matrix, _ = packed("Q8_0", 48, 64)
    assert run(ISAS[0], matrix, torch.empty(0, 64)).shape == (0, 48)


def test_wrong_sizes_are_refused() -> None:
    for type_name, n, k in (("Q8_0", 4, 33), ("Q4_K", 4, 128), ("Q2_K", 4, 256), ("int8", 0, 4), ("int8", 4, -1)):
        with pytest.raises(ValueError):
            _cpu.QuantPacked(type_name, n, k)
    matrix = _cpu.QuantPacked("Q8_0", 48, 64)
    raw = torch.zeros(48, 68, dtype=torch.uint8)
    for row_bytes, first, count in ((67, 0, 48), (68, 1, 48), (68, -1, 2), (68, 0, -1), (68, 2, 2**31 - 1)):
        with pytest.raises(ValueError):
            matrix.fill_blocks(raw.data_ptr(), row_bytes, first, count)
    with pytest.raises(ValueError):
        matrix.fill_floats(0, raw.data_ptr(), 64, 0, 1)
    with pytest.raises(ValueError):
        _cpu.QuantPacked("int8", 4, 64).fill_blocks(raw.data_ptr(), 68, 0, 4)
    x, y = torch.zeros(2, 64), torch.zeros(2, 48)
    team = TEAMS[ISAS[0]]
    for x_dtype, x_stride, y_dtype, y_stride, rows in (
        (2, 64, 0, 48, 2),
        (0, 63, 0, 48, 2),
        (0, 64, -1, 48, 2),
        (0, 64, 0, 47, 2),
        (0, 64, 0, 48, -1),
    ):
        with pytest.raises(ValueError):
            team.quant_linear(
                matrix, x_dtype, x.data_ptr(), x_stride, 0, y_dtype, y.data_ptr(), y_stride, False, 4, 0, rows
            )
    for gate, gated in ((-1, 0), (5, 0), (0, -1), (0, 24), (0, 48)):
        with pytest.raises(ValueError):
            team.quant_linear(matrix, 0, x.data_ptr(), 64, 0, 0, y.data_ptr(), 48, False, gate, gated, 2)
