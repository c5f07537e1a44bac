"""Weights rounded to 8 bits of floating point on the way in, and what is said where nothing multiplies them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from all_kernels import KERNELS

from octavo.errors import ConfigError
from octavo.kernels import torch_fp8, torch_ops
from octavo.layers.base import Slot
from octavo.layers.embedding import Embedding, LMHead
from octavo.layers.linear import Linear
from octavo.quantization.fp8 import Fp8LinearMethod
from octavo.quantization.unquantized import UnquantizedLinearMethod

CPU = torch.device("cpu")
TWIN = SimpleNamespace(**{**vars(torch_ops), "pack_fp8": torch_fp8.RoundedLinear})


def filled(linear: Linear, *, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """The weight in float32, given to `linear` shard by shard."""
    linear.method = Fp8LinearMethod()
    linear.create_weights(dtype, CPU)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(sum(linear.shard_sizes), linear.in_features, generator=generator)
    weight *= torch.logspace(-3, 1, len(weight))[:, None]  # rows of very different size
    start = 0
    for shard, rows in enumerate(linear.shard_sizes):
        linear.load_weight(Slot("weight", shard), weight[start : start + rows])
        start += rows
    return weight


def test_each_row_has_its_scale() -> None:
    linear = Linear(64, (48, 16))
    weight = filled(linear)
    assert linear.weight.dtype is torch.float8_e4m3fn
    widened = linear.weight.float() * linear.weight_scale[:, None]
    # e4m3 has 3 bits behind the first: half of its last place is a sixteenth of the number, at most.
    assert ((widened - weight).abs() <= weight.abs() / 16 + linear.weight_scale[:, None] * 2**-10).all()
    assert torch.equal(linear.weight.float().abs().amax(1), torch.full((64,), 448.0))


def test_rounding_goes_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = Linear(64, (48, 16)), Linear(64, (48, 16))
    filled(whole)
    monkeypatch.setattr("octavo.quantization.fp8._CHUNK_NUMBERS", 5 * 64)
    filled(pieces)
    assert torch.equal(whole.weight.view(torch.uint8), pieces.weight.view(torch.uint8))
    assert torch.equal(whole.weight_scale, pieces.weight_scale)


def test_a_row_of_zeros_stays_zero() -> None:
    rounded, scale = torch_fp8.round_rows(torch.zeros(2, 32))
    assert not rounded.float().any()
    assert (scale > 0).all()


@pytest.mark.parametrize("gate", [None, "silu"])
def test_the_twin_is_near_the_plain_product(gate: str | None) -> None:
    torch.manual_seed(0)
    linear = Linear(256, (32, 32), gate=gate)
    weight = filled(linear)
    linear.attach(TWIN)
    x = torch.randn(10, 256).bfloat16()
    expected = torch_ops.DenseLinear(weight, None, float_output=False, gate=gate)(x.float())
    assert (linear(x).float() - expected).norm() / expected.norm() < 0.06


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
def test_a_cpu_has_no_such_product(kernels: object) -> None:
    linear = Linear(64, 32)
    filled(linear)
    with pytest.raises(
        ConfigError, match=r"needs an NVIDIA GPU of compute capability 8\.9 or more.*leave quantization out"
    ):
        linear.attach(kernels)


def test_the_dtype_of_the_run() -> None:
    with pytest.raises(ConfigError, match=r"for bfloat16 and float16, and the dtype of the run is torch\.float32"):
        filled(Linear(64, 32), dtype=torch.float32)


def test_the_head_is_left_as_it_is() -> None:
    head = LMHead(Embedding(100, 64), tied=True)
    head.method = Fp8LinearMethod.for_head()
    assert isinstance(head.method, UnquantizedLinearMethod)
    assert not isinstance(head.method, Fp8LinearMethod)
