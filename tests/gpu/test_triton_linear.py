"""The Triton kernels of linear layers against plain torch in float32: odd sizes, and what is fused."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from torch import Tensor
from triton_device import DEVICE, INTERPRETED, loops_with_numpy_2_4, poisoned, skip_without_gpu

skip_without_gpu()

from octavo.kernels import triton_layers, triton_linear, triton_tiles  # noqa: E402
from octavo.kernels.gpu import GPUKernels  # noqa: E402
from octavo.kernels.torch_fp8 import round_rows  # noqa: E402
from octavo.kernels.triton_gated import gated_linear, takes  # noqa: E402
from octavo.kernels.triton_launch import gpu_family  # noqa: E402
from octavo.kernels.triton_linear import Gate, Norm, linear  # noqa: E402
from octavo.kernels.triton_tiles import (  # noqa: E402
    FmaTile,
    GatedTile,
    MmaTile,
    Size,
    Tile,
    WideTile,
    choose_fp8_tile,
    choose_tile,
)
from octavo.layers.base import Kernels  # noqa: E402
from octavo.quantization.base import LinearKernels  # noqa: E402

DTYPE = torch.float16 if INTERPRETED else torch.bfloat16
ACTIVATIONS = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


@pytest.fixture(autouse=True)
def _setup(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    poisoned(monkeypatch)
    loops_with_numpy_2_4(monkeypatch)


class Case:
    """A layer of random numbers, and what it should give."""

    def __init__(self, tokens: int, size: int, k: int, *, dtype: torch.dtype = DTYPE, gated: bool = False) -> None:
        self.gated, self.size = gated, size
        rows = 2 * size if gated else size
        self.x = torch.randn(tokens, k + 16).to(DEVICE, dtype)[:, 8 : 8 + k]
        self.weight = (torch.randn(rows, k + 8) * k**-0.5).to(DEVICE, dtype)[:, :k]
        self.bias = torch.randn(rows).to(DEVICE, dtype)
        self.factors = torch.randn(k).to(DEVICE, dtype)
        self.residual = torch.randn(tokens, size + 8).to(DEVICE, dtype)[:, :size]

    def check(
        self,
        tile: Tile | None,
        *,
        bias: bool = False,
        norm: bool = False,
        gemma: bool = False,
        gate: Gate | None = None,
        residual: bool = False,
        out_dtype: torch.dtype | None = None,
    ) -> Tensor:
        factors = Norm(self.factors, 1e-5, gemma) if norm else None
        given, expected = self.residual.clone(), self._expected(bias, norm, gemma, gate, residual)
        y = linear(
            self.x,
            self.weight,
            self.bias if bias else None,
            norm=factors,
            gate=gate,
            residual=given if residual else None,
            out_dtype=out_dtype,
            tile=tile,
        )
        assert y.dtype == (out_dtype or self.x.dtype)
        assert not residual or y is given
        scale = expected.abs().max().item()
        torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=1e-2 * max(scale, 1.0))
        error = (y.float() - expected).norm() / expected.norm()
        assert error < 6e-3
        return y

    def _expected(self, bias: bool, norm: bool, gemma: bool, gate: Gate | None, residual: bool) -> Tensor:
        x, weight = self.x.float(), self.weight.float()
        if norm:
            factors = self.factors.float() + (1 if gemma else 0)
            x = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * factors
        y = (x.cpu() @ weight.cpu().T).to(DEVICE)  # a GPU might multiply in TF32
        if bias:
            y += self.bias.float()
        if gate is not None:
            first, second = (y[:, ::2], y[:, 1::2]) if gate.interleaved else y.chunk(2, -1)
            y = ACTIVATIONS[gate.activation](first) * second
        return y + self.residual.float() if residual else y


FMA_TILES = [FmaTile(4, 128, 2, 0, 2), FmaTile(2, 64, 1, 3, 2), FmaTile(8, 256, 0, 0, 4), FmaTile(1, 512, 4, 0, 1)]


@pytest.mark.parametrize("tile", FMA_TILES, ids=str)
@pytest.mark.parametrize("tokens", [1, 3] if INTERPRETED else [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "k"), [(7, 648)] if INTERPRETED else [(32, 256), (33, 512), (7, 648), (1, 100)])
def test_fma(tile: FmaTile, tokens: int, size: int, k: int) -> None:
    case = Case(tokens, size, k)
    case.check(tile)
    case.check(tile, norm=True, bias=True)
    case.check(tile, norm=True, gemma=True, out_dtype=torch.float32)
    case.check(tile, residual=True)
    case.check(tile, residual=True, bias=True, norm=True)


EVERY_GATE = [Gate(name, interleaved) for name, interleaved in itertools.product(ACTIVATIONS, (False, True))]


@pytest.mark.parametrize("gate", EVERY_GATE, ids=str)
@pytest.mark.parametrize("tile", [FmaTile(2, 128, 2, 0, 2), FmaTile(4, 64, 1, 3, 2)], ids=str)
@pytest.mark.parametrize(("tokens", "size", "k"), [(3, 19, 328)] if INTERPRETED else [(1, 32, 256), (3, 19, 328)])
def test_fma_with_a_gate(gate: Gate, tile: FmaTile, tokens: int, size: int, k: int) -> None:
    case = Case(tokens, size, k, gated=True)
    case.check(tile, gate=gate)
    case.check(tile, gate=gate, norm=True, bias=True)
    case.check(tile, gate=gate, norm=True, gemma=True, residual=True)


TENSOR_CORE_TILES = [MmaTile(8, 64, 4, 3, 4), MmaTile(16, 64, 1, 2, 2), WideTile(64, 64, 3, 4), WideTile(64, 128, 2, 4)]
if not INTERPRETED:
    TENSOR_CORE_TILES += [MmaTile(8, 128, 4, 4, 4), WideTile(128, 128, 3, 4), WideTile(64, 256, 5, 4)]


@pytest.mark.parametrize("tile", TENSOR_CORE_TILES, ids=str)
@pytest.mark.parametrize("tokens", [5, 17] if INTERPRETED else [1, 2, 5, 15, 16, 17, 64])
@pytest.mark.parametrize(("size", "k"), [(33, 512)] if INTERPRETED else [(64, 512), (33, 1024), (130, 512)])
def test_tensor_cores(tile: Tile, tokens: int, size: int, k: int) -> None:
    if isinstance(tile, MmaTile) and tokens > 16:
        pytest.skip("these tiles take 16 tokens")
    deep = isinstance(tile, WideTile) and tile.stages == 5  # for a head: no gate, and no room for more than 16 tokens
    if deep and tokens > 16:
        pytest.skip("this tile takes 16 tokens")
    case = Case(tokens, size, k)
    case.check(tile)
    case.check(tile, bias=True, out_dtype=torch.float32)
    case.check(tile, norm=True, residual=True)
    if deep:
        return
    gated = Case(tokens, size, k, gated=True)
    gated.check(tile, gate=Gate("silu"))
    gated.check(tile, gate=Gate("gelu_tanh", interleaved=True), bias=True, norm=True)


GATED_TILES = [GatedTile(128, 128, 64, 8, 3, 8), GatedTile(64, 32, 64, 2, 2, 4)]


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("tile", GATED_TILES[1:] if INTERPRETED else GATED_TILES, ids=str)
@pytest.mark.parametrize(
    ("tokens", "size", "k"), [(130, 40, 72)] if INTERPRETED else [(1, 8, 64), (300, 200, 328), (2057, 3072, 1024)]
)
def test_gates_of_many_tokens(name: str, tile: GatedTile, tokens: int, size: int, k: int) -> None:
    """A few tiles and many, with edges in each direction."""
    case = Case(tokens, size, k, gated=True)
    assert takes(case.x, case.weight)
    y = gated_linear(case.x, case.weight, getattr(triton_layers, name.upper()), tile)
    expected = case._expected(False, False, False, Gate(name), False)
    assert y.dtype is case.x.dtype
    assert (y.float() - expected).norm() / expected.norm() < 6e-3
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=1e-2 * expected.abs().max().item())


@pytest.mark.skipif(INTERPRETED or gpu_family(DEVICE) != "sm_90", reason="needs the copy engine of Hopper")
@pytest.mark.parametrize("gate", EVERY_GATE, ids=str)
def test_layers_with_gates_are_the_same_with_many_tokens(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is chosen where it serves, and what it does not serve is left to the library."""
    served = not gate.interleaved
    used: list[int] = []
    monkeypatch.setattr(triton_linear, "gated_linear", lambda x, *rest: used.append(len(x)) or gated_linear(x, *rest))
    case = Case(1500, 4096, 264, gated=True)
    case.check(None, gate=gate, norm=True)
    case.check(None, gate=gate, norm=True, residual=True)
    assert used == [1500, 1500] * served
    case.check(None, gate=gate, bias=True)
    Case(1500, 4100, 264, gated=True).check(None, gate=gate)  # rows of the result begin anywhere
    Case(1000, 4096, 264, gated=True).check(None, gate=gate)
    assert used == [1500, 1500] * served


FP8_LAYERS = [(1, 33, 512, False), (1, 16, 1024, True), (2, 12, 4096, True), (3, 16, 1536, False), (8, 16, 512, True)]


@pytest.mark.skipif(not INTERPRETED and torch.cuda.get_device_capability() < (8, 9), reason="this GPU has no FP8")
@pytest.mark.parametrize(("tokens", "size", "k", "gated"), FP8_LAYERS)
def test_weights_of_8_bits(tokens: int, size: int, k: int, gated: bool) -> None:
    """By the tiles that are chosen: nothing but the weight is rounded."""
    case = Case(tokens, size, k, gated=gated)
    rounded, scale = round_rows(case.weight)
    case.weight = rounded.float() * scale[:, None]  # what is expected of
    tile = choose_fp8_tile("sm_90", DTYPE, tokens, size, k, gated=gated)
    assert tile is not None
    gate = Gate("silu") if gated else None
    y = linear(
        case.x,
        rounded,
        scale=scale,
        norm=Norm(case.factors, 1e-5),
        gate=gate,
        residual=case.residual.clone(),
        tile=tile,
    )
    expected = case._expected(False, True, False, gate, True)
    assert (y.float() - expected).norm() / expected.norm() < 6e-3


@pytest.mark.parametrize("tokens", [0, 1, 4, 9] if INTERPRETED else [0, 1, 2, 4, 9, 40, 65])
def test_whatever_is_chosen(tokens: int) -> None:
    for size, k in ((57, 96),) if INTERPRETED else ((48, 96), (257, 576), (4096, 1024), (1024, 3072)):
        case = Case(tokens, size, k)
        if tokens == 0:
            assert linear(case.x, case.weight).shape == (0, size)
            continue
        case.check(None, bias=True)
        case.check(None, norm=True, gemma=True)
        case.check(None, residual=True)
        gated = Case(tokens, size, k, gated=True)
        gated.check(None, gate=Gate("silu"), norm=True)
        gated.check(None, gate=Gate("gelu", interleaved=True), residual=True)


def test_float32_is_multiplied_by_the_library() -> None:
    assert choose_tile("sm_90", torch.float32, 1, 64, 64, gated=False) is None
    case = Case(1, 48, 96, dtype=torch.float32)
    torch.testing.assert_close(case.check(None, norm=True), case._expected(False, True, False, None, False))


def test_a_measured_tile_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = FmaTile(1, 64, 1, 0, 1)
    monkeypatch.setitem(triton_tiles.MEASURED, Size(gpu_family(DEVICE), 1, 41, 128, False), chosen)
    assert choose_tile(gpu_family(DEVICE), DTYPE, 1, 41, 128, gated=False) is chosen
    Case(1, 41, 128).check(None)


def test_the_same_call_gives_the_same_bits() -> None:
    for tokens, tile in ((1, None), (2, None), (16, MmaTile(8, 64, 4, 3, 4)), (16, WideTile(64, 128, 3, 4))):
        case = Case(tokens, 40 if INTERPRETED else 3000, 1024)
        first = case.check(tile, norm=True)
        assert torch.equal(case.check(tile, norm=True), first)


@pytest.mark.parametrize("family", ["sm_90", "sm_80", "gfx942"])
def test_tiles_fit_their_layers(family: str) -> None:
    sizes = itertools.product(
        (1, 2, 3, 4, 5, 16, 17, 64), (1, 64, 1024, 4096, 28672, 151936), (1, 64, 576, 896, 4096, 18944)
    )
    for tokens, outputs, k in sizes:
        for gated in (False, True):
            tile = choose_tile(family, torch.bfloat16, tokens, outputs, k, gated=gated)
            match tile:
                case FmaTile():
                    assert tokens <= 4
                    assert tile.early <= k // tile.columns
                case MmaTile():
                    assert tokens <= 16
                    assert k % (tile.parts * tile.columns) == 0
                case WideTile():
                    assert k % tile.columns == 0
                case None:
                    assert tokens > 2


def test_the_kernels_of_a_gpu_are_all_that_layers_call() -> None:
    kernels = GPUKernels(DEVICE)
    for owner in (Kernels, LinearKernels):
        for name, method in vars(owner).items():
            if not name.startswith("_"):
                ours = inspect.signature(getattr(kernels, name)).parameters
                assert list(ours) == [each for each in inspect.signature(method).parameters if each != "self"], name
    assert gpu_family(DEVICE) in kernels.describe()


def test_packed_linear() -> None:
    case = Case(3, 40, 128)
    expected = case.x.float() @ case.weight.float().T + case.bias.float()
    for float_output, dtype in ((False, DTYPE), (True, torch.float32)):
        multiply = GPUKernels(DEVICE).pack_linear(case.weight, case.bias, float_output=float_output)
        y = multiply(case.x)
        assert y.dtype is dtype
        torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)
    assert multiply.nbytes == 0


@pytest.mark.skipif(INTERPRETED, reason="only a GPU has graphs")
@pytest.mark.parametrize("tokens", [1, 2, 4, 16])
def test_a_chain_of_layers_in_a_graph(tokens: int) -> None:
    """Kernels that start before their predecessors end must still see all that these wrote."""
    k, inner, depth = 1024, 3072, 24
    factors = Norm(torch.rand(k, device=DEVICE).to(DTYPE), 1e-6)
    up = (torch.randn(depth, 2 * inner, k, device=DEVICE) * k**-0.5).to(DTYPE)
    down = (torch.randn(depth, k, inner, device=DEVICE) * inner**-0.5).to(DTYPE)
    first = torch.randn(tokens, k, device=DEVICE).to(DTYPE)
    h = first.clone()

    def layer(i: int) -> None:
        linear(linear(h, up[i], norm=factors, gate=Gate("silu")), down[i], residual=h)

    for i in range(depth):
        layer(i)
        torch.cuda.synchronize()  # one after the other
    expected = h.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        h.copy_(first)
        for i in range(depth):
            layer(i)
    for _ in range(20):
        h.fill_(float("nan"))
        graph.replay()
        assert torch.equal(h, expected)
