"""Weights on their way from mapped files to a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from octavo.loading import to_device
from octavo.loading.safetensors import SafetensorsWeights
from octavo.loading.to_device import sent_to

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

DEVICE = torch.device("cuda")


def test_every_tensor_arrives_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all dtypes, empty, of one number, of many pieces; more than may be under way at a time."""
    monkeypatch.setattr(to_device, "_PIECE", 1 << 12)
    monkeypatch.setattr(to_device, "_ON_THE_WAY", 1 << 16)
    shapes = [(0,), (1,), (3, 5), (4096,), (4097,), (200, 333), (64, 64, 5)]
    dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.int8]
    tensors = {
        f"{i}-{dtype}": torch.randint(-100, 100, shape).to(dtype) for i, shape in enumerate(shapes) for dtype in dtypes
    }
    save_file(tensors, tmp_path / "model.safetensors")
    weights = SafetensorsWeights(tmp_path)
    order = [name for name, _ in weights]
    arrived = list(sent_to(DEVICE, iter(weights)))
    assert [name for name, _ in arrived] == order
    for name, tensor in arrived:
        assert isinstance(tensor, Tensor)
        assert tensor.is_cuda
        assert tensor.dtype is tensors[name].dtype
        assert torch.equal(tensor.cpu(), tensors[name])


def test_a_damaged_file_is_told_when_its_turn_comes() -> None:
    def weights() -> Iterator[tuple[str, Tensor]]:
        yield "whole", torch.ones(5)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        list(sent_to(DEVICE, weights()))
