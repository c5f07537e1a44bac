"""FP8 on a real GPU: products with rounded weights, and a rounded KV cache, against plain torch in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_case import Answers, make_llama
from paged_case import Heads, PagedCase, through_backend
from torch import Tensor

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
if torch.cuda.get_device_capability() < (8, 9):
    pytest.skip("this GPU has no FP8", allow_module_level=True)

from octavo.attention.triton_attn import TritonAttentionBackend  # noqa: E402
from octavo.kernels import torch_fp8, triton_fp8  # noqa: E402
from octavo.kernels.gpu import GPUKernels  # noqa: E402
from octavo.kernels.triton_attention import paged_attention, plan_attention  # noqa: E402
from octavo.kernels.triton_cache import rotary_and_cache_write  # noqa: E402
from octavo.kernels.triton_linear import Gate, Norm, linear  # noqa: E402
from octavo.kernels.triton_tiles import FmaTile, MmaTile, Tile, WideTile  # noqa: E402

DEVICE = torch.device("cuda")
FP8 = torch.float8_e4m3fn


class Case:
    """A layer whose weight is rounded, so that its float32 product is what a kernel should give."""

    def __init__(self, tokens: int, size: int, k: int, *, gated: bool = False) -> None:
        torch.manual_seed(tokens + size + k)
        rows = 2 * size if gated else size
        self.x = torch.randn(tokens, k + 16, device=DEVICE).bfloat16()[:, 8 : 8 + k]
        spread = torch.rand(rows, 1, device=DEVICE) + 0.1
        self.weight, self.scale = torch_fp8.round_rows(torch.randn(rows, k, device=DEVICE) * spread * k**-0.5)
        self.bias = torch.randn(rows, device=DEVICE).bfloat16()
        self.factors = torch.randn(k, device=DEVICE).bfloat16()
        self.residual = torch.randn(tokens, size, device=DEVICE).bfloat16()
        self.gated = gated

    def expected(self, *, norm: bool, bias: bool, residual: bool) -> Tensor:
        x = self.x.double()
        if norm:
            x = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * self.factors.double()
        y = x @ (self.weight.double() * self.scale.double()[:, None]).T
        if bias:
            y = y + self.bias.double()
        if self.gated:
            gate, up = y.chunk(2, -1)
            y = torch.nn.functional.silu(gate) * up
        return y + self.residual.double() if residual else y

    def error(self, tile: Tile | None, *, norm: bool = False, bias: bool = False, residual: bool = False) -> float:
        """Of the result, relative to its size."""
        y = linear(
            self.x,
            self.weight,
            self.bias if bias else None,
            scale=self.scale,
            norm=Norm(self.factors, 1e-5) if norm else None,
            gate=Gate("silu") if self.gated else None,
            residual=self.residual.clone() if residual else None,
            tile=tile,
        )
        assert y.dtype is torch.bfloat16
        expected = self.expected(norm=norm, bias=bias, residual=residual)
        return ((y.double() - expected).norm() / expected.norm()).item()


TILES = [FmaTile(4, 1024, 2, 0, 4), FmaTile(2, 512, 1, 3, 2), FmaTile(8, 128, 0, 0, 4)]


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "k"), [(64, 4096), (33, 1536), (7, 648)])
def test_few_tokens(tile: FmaTile, tokens: int, size: int, k: int) -> None:
    """Nothing but the weight is rounded to 8 bits."""
    case, gated = Case(tokens, size, k), Case(tokens, size, k, gated=True)
    assert case.error(tile) < 6e-3
    assert case.error(tile, norm=True, bias=True, residual=True) < 6e-3
    assert gated.error(tile) < 6e-3
    assert gated.error(tile, norm=True, bias=True) < 6e-3


@pytest.mark.parametrize("tile", [MmaTile(8, 128, 4, 4, 4), WideTile(64, 128, 3, 4), WideTile(128, 256, 3, 8)], ids=str)
@pytest.mark.parametrize("tokens", [1, 5, 16])
def test_tensor_cores_with_widened_weights(tile: Tile, tokens: int) -> None:
    case, gated = Case(tokens, 130, 1024), Case(tokens, 130, 1024, gated=True)
    assert case.error(tile, bias=True) < 6e-3
    assert case.error(tile, norm=True, residual=True) < 6e-3
    assert gated.error(tile) < 6e-3


@pytest.mark.parametrize("tokens", [1, 7, 16, 300])
@pytest.mark.parametrize(("size", "k"), [(256, 1024), (4096, 14336), (33, 100)])
def test_many_tokens(tokens: int, size: int, k: int) -> None:
    """Activations are rounded too: 4 significant bits, so about 2.5 percent of a sum of independent terms."""
    case = Case(tokens, size, k)
    for norm in (None, (case.factors, 1e-5)):
        y = triton_fp8.scaled_linear(case.x, case.weight, case.scale, case.bias, norm)
        expected = case.expected(norm=norm is not None, bias=True, residual=False)
        assert ((y.double() - expected).norm() / expected.norm()).item() < 4e-2


def test_the_product_is_that_of_the_rounded_numbers() -> None:
    """Against the same roundings in plain torch: what is left is the order of the sums."""
    case = Case(40, 512, 2048)
    rounded, scale = torch_fp8.round_rows(case.x)
    expected = (rounded.double() * scale.double()[:, None]) @ (case.weight.double() * case.scale.double()[:, None]).T
    y = triton_fp8.scaled_linear(case.x, case.weight, case.scale, None)
    assert ((y.double() - expected).norm() / expected.norm()).item() < 4e-3


@pytest.mark.parametrize("channels", [16, 100, 4096, 14336])
def test_rows_are_rounded_as_in_plain_torch(channels: int) -> None:
    x = torch.randn(9, channels + 8, device=DEVICE).bfloat16()[:, :channels] * 50
    x[3] = 0
    rounded, scale = triton_fp8.round_rows(x)
    expected, expected_scale = torch_fp8.round_rows(x)
    torch.testing.assert_close(scale[:, 0], expected_scale)
    steps = (rounded.view(torch.int8).int() - expected.view(torch.int8).int()).abs()
    assert steps.max() <= 1  # a division by a hair's breadth
    assert (steps > 0).float().mean() < 1e-3


@pytest.mark.parametrize("tokens", [0, 1, 2, 4, 5, 40, 100])
def test_whatever_is_chosen(tokens: int) -> None:
    for size, k in ((48, 96), (4096, 1024), (1024, 3072), (33, 100)):
        case = Case(tokens, size, k)
        multiply = GPUKernels(DEVICE).pack_fp8(case.weight, case.scale, case.bias)
        assert multiply is not None
        y = multiply(case.x, norm=(case.factors, 1e-5), residual=case.residual.clone())
        expected = case.expected(norm=True, bias=True, residual=True)
        assert y.shape == expected.shape
        assert tokens == 0 or ((y.double() - expected).norm() / expected.norm()).item() < 4e-2


# ---- the KV cache ----

HEADS = Heads(8, 2, 128, dtype=torch.bfloat16, scale=0.09, kv_cache_dtype=FP8)
MIXED = [(6, 1), (0, 190), (120, 50), (333, 1), (16, 16), (0, 1), (512, 129), (5, 2)]
DECODE = [(0, 1), (15, 1), (16, 1), (700, 1), (63, 1), (64, 1), (129, 1)]


@pytest.mark.parametrize("lengths", [MIXED, DECODE, [(1999, 1)], [(0, 700)]], ids=["mixed", "decode", "one", "prompt"])
@pytest.mark.parametrize(
    "heads",
    [
        HEADS,
        replace(HEADS, head_dim=64),
        replace(HEADS, sliding_window=100),
        replace(HEADS, dtype=torch.float16),
        replace(HEADS, head_dim=256),
    ],
    ids=["128", "64", "window", "float16", "256"],
)
def test_attention_over_a_rounded_cache(heads: Heads, lengths: list[tuple[int, int]]) -> None:
    """The case's keys are rounded before, so that nothing is lost here."""
    case = PagedCase(heads, lengths, "cuda")
    plan = plan_attention(case.batch["query_start_loc"], **case.plan_arguments())
    out = paged_attention(case.q, case.kv_cache, plan, **case.batch, **case.scoring())
    assert out.dtype is heads.dtype
    assert (out.float() - case.expected()).abs().max() < 3e-2


def test_the_backend_rounds_what_it_writes() -> None:
    assert TritonAttentionBackend.declines(HEADS.spec(), DEVICE, None) is None
    case = PagedCase(HEADS, [(0, 40), (0, 1), (0, 23)], "cuda")
    assert (through_backend(case, TritonAttentionBackend).float() - case.expected()).abs().max() < 3e-2


def test_rotation_and_write_round_once_more() -> None:
    """The rounded cache holds the rounded numbers of the plain one; what is too large is cut off."""
    torch.manual_seed(0)
    qkv = torch.randn(20, 12 * 128, device=DEVICE).bfloat16()
    qkv[3, 8 * 128 :] *= 1000
    cos, sin = torch.rand(2, 20, 1, 64, device=DEVICE).bfloat16().unbind(0)
    slots = torch.randperm(64, device=DEVICE)[:20]
    plain = torch.zeros(4, 2, 2, 16, 128, device=DEVICE, dtype=torch.bfloat16)
    rounded = plain.to(FP8)
    q = rotary_and_cache_write(qkv, plain, cos, sin, slots, num_heads=8)
    assert torch.equal(q, rotary_and_cache_write(qkv, rounded, cos, sin, slots, num_heads=8))
    assert torch.equal(rounded.float(), plain.float().clamp(-448, 448).to(FP8).float())


# ---- the engine ----


def test_the_engine_rounds_as_the_plain_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain twin multiplies the rounded numbers in float32; fp8 costs far more than lies between them."""
    model = make_llama(tmp_path)
    options = {"gpu_memory_utilization": 0.2, "num_output": 8}
    plain, rounded = Answers(model, **options), Answers(model, quantization="fp8", **options)
    rounded_cache = Answers(model, quantization="fp8", kv_cache_dtype="fp8", **options)
    monkeypatch.setattr(GPUKernels, "pack_fp8", lambda _, *weights, **o: torch_fp8.RoundedLinear(*weights, **o))
    twin = Answers(model, quantization="fp8", **options)
    found = {
        "fp8 and its twin": rounded.differences(twin).mean().item(),
        "fp8 and bfloat16": rounded.differences(plain).mean().item(),
        "fp8 with a rounded cache and bfloat16": rounded_cache.differences(plain).mean().item(),
    }
    print(found)
    assert found["fp8 and its twin"] < 0.12
    assert found["fp8 and its twin"] < found["fp8 and bfloat16"] / 2
    assert found["fp8 with a rounded cache and bfloat16"] < 0.8
