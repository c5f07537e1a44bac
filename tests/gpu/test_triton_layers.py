"""The Triton kernels of the layers against plain torch in float32 and float64, over odd sizes and views."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from triton_device import DEVICE, INTERPRETED, close, every_dtype, poisoned, skip_without_gpu

skip_without_gpu()

from octavo.kernels import torch_ops, triton_layers  # noqa: E402

WIDTHS = (1, 100, 1025) if INTERPRETED else (1, 7, 15, 16, 64, 100, 128, 576, 1024, 1025, 3000, 4096, 16384)
ROWS = (0, 5) if INTERPRETED else (0, 1, 5, 33, 1000)


@pytest.fixture(autouse=True)
def _setup(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    poisoned(monkeypatch)


def rows_apart(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """A matrix whose rows are columns of a wider one, from an odd place on."""
    return torch.randn(rows, width + 9).to(DEVICE, dtype)[:, 3 : 3 + width]


def vector(width: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(width).to(DEVICE, dtype)


def heads_beside_others(rows: int, heads: int, width: int, dtype: torch.dtype) -> Tensor:
    """[rows, heads, width]: the heads from number 1 on of a matrix of two more."""
    wide = torch.randn(rows, (heads + 2) * width + 1).to(DEVICE, dtype)
    return wide[:, width : (heads + 1) * width].view(rows, heads, width)


@every_dtype
@pytest.mark.parametrize("width", WIDTHS)
def test_norms(dtype: torch.dtype, width: int) -> None:
    weight, bias = vector(width, dtype), vector(width, dtype)
    for rows in ROWS:
        inputs = [rows_apart(rows, width, dtype)]
        if width <= 1024:
            inputs += [heads_beside_others(rows, 3, width, dtype), heads_beside_others(rows, 1, width, dtype)]
        for x in inputs:
            wide = x.double()
            rms = wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
            layer = torch.nn.functional.layer_norm(wide, (width,), weight.double(), bias.double(), 1e-5)
            close(triton_layers.rms_norm(x, weight, 1e-5), rms * weight.double(), dtype)
            close(triton_layers.gemma_rms_norm(x, weight, 1e-5), rms * (1 + weight.double()), dtype)
            close(triton_layers.layer_norm(x, weight, bias, 1e-5), layer, dtype)


@every_dtype
@pytest.mark.parametrize("half", [1, 8, 17, 64])
def test_rotary_angles_up_to_long_contexts(dtype: torch.dtype, half: int) -> None:
    positions = torch.tensor([0, 1, 2, 4095, 4096, 65537, 131070, 1048575], device=DEVICE)
    inv_freq = (10000.0 ** -(torch.arange(half) / half)).to(DEVICE)
    # The product is rounded to float32; what follows is exact but for the rounding of the result.
    angles = (positions.float()[:, None] * inv_freq)[:, None, :].double()
    bound = {torch.float32: 4e-7, torch.float16: 1e-3, torch.bfloat16: 2**-7}[dtype]
    cos, sin = triton_layers.rotary_angles(positions, inv_freq, 1.25, dtype)
    for got, exact in ((cos, angles.cos()), (sin, angles.sin())):
        assert got.shape == (8, 1, half)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), 1.25 * exact, rtol=0, atol=bound)


@every_dtype
@pytest.mark.parametrize(("head_dim", "half"), [(2, 1), (16, 8), (24, 7), (64, 32), (80, 20), (96, 48), (256, 128)])
@pytest.mark.parametrize("num_heads", [1, 3] if INTERPRETED else [1, 3, 40])
def test_rotation_of_columns_of_a_wider_tensor(dtype: torch.dtype, head_dim: int, half: int, num_heads: int) -> None:
    x = heads_beside_others(5, num_heads, head_dim, dtype)
    cos, sin = torch_ops.rotary_angles(torch.arange(5) * 100, torch.rand(half), 1.0, dtype)
    cos, sin = cos.to(DEVICE), sin.to(DEVICE)
    first, second = x[..., :half].double(), x[..., half : 2 * half].double()
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    got = triton_layers.rotary_embedding(x, cos, sin)
    close(got[..., : 2 * half], rotated, dtype)
    assert torch.equal(got[..., 2 * half :], x[..., 2 * half :])
    assert triton_layers.rotary_embedding(x[:0], cos[:0], sin[:0]).shape == (0, num_heads, head_dim)


@every_dtype
@pytest.mark.parametrize("name", ["silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul", "relu", "gelu"])
def test_activations(dtype: torch.dtype, name: str) -> None:
    for width in WIDTHS:
        for rows in ROWS:
            x = rows_apart(rows, 2 * width, dtype) * 4
            x[:1, 0], x[1:2, 0] = 200.0, -200.0
            got = getattr(triton_layers, name)(x)
            close(got, getattr(torch_ops, name)(x.double()), dtype)


def test_what_is_not_a_number_stays_so() -> None:
    x = torch.tensor([[1.0, float("nan"), 2.0, 3.0]], device=DEVICE)
    assert triton_layers.relu(x).isnan().tolist() == [[False, True, False, False]]
    assert triton_layers.rms_norm(x, x[0], 1e-5).isnan().all()


@every_dtype
@pytest.mark.parametrize("width", WIDTHS)
def test_add_and_scale(dtype: torch.dtype, width: int) -> None:
    for rows in ROWS:
        x, y = rows_apart(rows, width, dtype), torch.randn(rows, width).to(DEVICE, dtype)
        assert torch.equal(triton_layers.add(x, y), x + y)
        assert torch.equal(triton_layers.add(y, x), x + y)
        close(triton_layers.scale(x, 0.37), x.double() * 0.37, dtype)


@every_dtype
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64])
def test_embedding(dtype: torch.dtype, width: int, ids_dtype: torch.dtype) -> None:
    table = torch.randn(11, width).to(DEVICE, dtype)
    ids = torch.tensor([10, 0, 3, 3, 9, 10, 1], device=DEVICE, dtype=ids_dtype)
    assert torch.equal(triton_layers.embedding(ids, table), table[ids.long()])
    assert torch.equal(triton_layers.embedding(ids, table[1:]), torch.cat([table, table[:1] * 0])[ids.long() + 1])
    assert triton_layers.embedding(ids[:0], table).shape == (0, width)
