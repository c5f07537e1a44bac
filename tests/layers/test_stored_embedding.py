"""Embeddings whose table is in quantized blocks: the rows are the same numbers however it is kept, tied or not."""

from __future__ import annotations

import pytest
import torch
from all_kernels import KERNELS
from gguf_blocks import random_blocks

from octavo.kernels.gguf import dequantize
from octavo.layers.base import Slot
from octavo.layers.embedding import Embedding, LMHead
from octavo.quantization.gguf import GGUFLinearMethod
from octavo.quantization.gguf_tensor import GGUFTensor
from octavo.quantization.unquantized import UnquantizedLinearMethod

ROWS, WIDTH = 50, 64
IDS = torch.tensor([49, 0, 17, 17, 48])


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("method", [GGUFLinearMethod, UnquantizedLinearMethod])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1", "Q8_0", "Q5_0"])
def test_rows(kernels: object, method: type, tied: bool, dtype: torch.dtype, type_name: str) -> None:
    halves_of = {"Q5_0": "Q4_0"}.get(type_name, type_name)
    raw = random_blocks(halves_of, ROWS, WIDTH)
    if type_name == "Q5_0":  # which the kernels don't multiply with: 4 bytes of high bits behind the scale
        blocks = raw.view(-1, 18)
        raw = torch.cat((blocks[:, :2], blocks[:, 4:8], blocks[:, 2:]), dim=1).reshape(ROWS, -1)
    embedding = Embedding(ROWS, WIDTH)
    embedding.keeps_blocks = method is GGUFLinearMethod
    head = LMHead(embedding, tied=tied)
    head.method = method()
    with torch.no_grad():
        for layer in (embedding, head):
            layer.create_weights(dtype, torch.device("cpu"))
        embedding.load_weight(Slot("weight", 0), GGUFTensor(raw, type_name, (ROWS, WIDTH)))
        if not tied:
            head.load_weight(Slot("weight", 0), torch.zeros(ROWS, WIDTH, dtype=dtype))
        for layer in (embedding, head):
            layer.finish_loading()
            layer.attach(kernels)  # type: ignore[arg-type]
        rows = embedding(IDS)
    assert rows.dtype == dtype
    assert torch.equal(rows, dequantize(raw, type_name, WIDTH, dtype)[IDS])
    if tied and embedding.packed is not None:
        assert not any(parameter.numel() for layer in (embedding, head) for parameter in layer.parameters())
