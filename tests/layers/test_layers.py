"""Linear, embedding, norm and activation layers against torch's own modules in float64."""

from __future__ import annotations

import pytest
import torch
from all_kernels import KERNELS
from torch import Tensor, nn
from transformers.activations import ACT2FN

from octavo.layers.activation import ACTIVATIONS, GATED_ACTIVATIONS, Activation
from octavo.layers.base import Layer, Slot
from octavo.layers.embedding import Embedding, LMHead
from octavo.layers.linear import Linear
from octavo.layers.norm import GemmaRMSNorm, LayerNorm, RMSNorm
from octavo.quantization.unquantized import UnquantizedLinearMethod

CPU, TOKENS = torch.device("cpu"), 5


def filled(layer: Layer, dtype: torch.dtype = torch.float32) -> dict[Slot, Tensor]:
    """Gives `layer` random weights, and returns them."""
    if isinstance(layer, Linear):
        layer.method = UnquantizedLinearMethod()
    layer.create_weights(dtype, CPU)
    weights = {slot: torch.randn(shape) for slot, shape in layer.slots().items()}
    with torch.no_grad():
        for slot, tensor in weights.items():
            layer.load_weight(slot, tensor)
    layer.finish_loading()
    layer.attach(Layer.kernels)
    return weights


@pytest.fixture(autouse=True, params=KERNELS)
def each_kind_of_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with plain torch, and with the C++ kernels of every instruction set."""
    monkeypatch.setattr(Layer, "kernels", KERNELS[request.param])


@pytest.mark.parametrize("bias", [False, True])
def test_stacked_linear_is_its_shards_side_by_side(bias: bool) -> None:
    layer = Linear(6, (4, 2, 3), bias=bias)
    weights, x = filled(layer), torch.randn(TOKENS, 6)
    parts: list[Tensor] = []
    for shard in range(3):
        part = x @ weights[Slot("weight", shard)].T
        parts.append(part + weights[Slot("bias", shard)] if bias else part)
    torch.testing.assert_close(layer(x), torch.cat(parts, dim=-1))
    assert all(not parameter.requires_grad for parameter in layer.parameters())


def test_tied_head_has_no_weight_of_its_own() -> None:
    embedding = Embedding(7, 4)
    weight = filled(embedding)[Slot("weight", 0)]
    head, x = LMHead(embedding, tied=True), torch.randn(TOKENS, 4)
    assert filled(head) == {}
    assert sum(p.numel() for p in head.parameters() if p is not embedding.weight) == 0
    torch.testing.assert_close(head(x), x @ weight.T)
    ids = torch.tensor([6, 0, 6])
    assert torch.equal(embedding(ids), weight[ids])


def test_untied_head() -> None:
    head, x = LMHead(Embedding(7, 4), tied=False), torch.randn(TOKENS, 4)
    weight = filled(head)[Slot("weight", 0)]
    torch.testing.assert_close(head(x), x @ weight.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms(dtype: torch.dtype) -> None:
    size, eps = 16, 1e-3
    x = (torch.randn(TOKENS, size) * 0.1).to(dtype)
    wide = x.double()
    normed = wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt()
    rms, gemma, layer = RMSNorm(size, eps), GemmaRMSNorm(size, eps), LayerNorm(size, eps)
    for module in (rms, gemma, layer):
        filled(module, dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.01, "atol": 0.02}
    torch.testing.assert_close(rms(x).double(), normed * rms.weight.double(), **tolerance)
    torch.testing.assert_close(gemma(x).double(), normed * (1 + gemma.weight.double()), **tolerance)
    reference = nn.functional.layer_norm(wide, (size,), layer.weight.double(), layer.bias.double(), eps)
    torch.testing.assert_close(layer(x).double(), reference, **tolerance)
    assert rms(x).dtype == gemma(x).dtype == layer(x).dtype == dtype


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", GATED_ACTIVATIONS)
def test_a_gate_with_a_norm_before_it(name: str, bias: bool) -> None:
    linear, norm = Linear(8, (6, 6), bias=bias, gate=GATED_ACTIVATIONS[name]), RMSNorm(8, 1e-6)
    filled(norm)
    weights, x = filled(linear), torch.randn(TOKENS, 8)
    first, second = (
        torch.nn.functional.linear(norm(x), weights[Slot("weight", i)], weights.get(Slot("bias", i))) for i in range(2)
    )
    torch.testing.assert_close(linear(x, norm=norm), ACT2FN[name](first) * second)


def test_a_product_is_added_to_the_residual() -> None:
    linear = Linear(8, 5)
    filled(linear)
    x, residual = torch.randn(TOKENS, 8), torch.randn(TOKENS, 5)
    expected = residual + linear(x)
    assert linear(x, residual=residual) is residual
    torch.testing.assert_close(residual, expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    x = torch.randn(TOKENS, 12) * 3
    torch.testing.assert_close(Activation(name)(x), ACT2FN[name](x))
