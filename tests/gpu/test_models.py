"""Logits of every architecture on a GPU, through the paged cache, against transformers on a CPU in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.paged_runner import PagedRunner
from models.test_against_transformers import CONFIGS, LENGTH, VOCAB_SIZE
from models.transformers_reference import reference_logits, reference_model, same_model
from torch import Tensor
from transformers import PreTrainedModel
from triton_device import skip_without_gpu

skip_without_gpu()

from octavo.kernels.gpu import GPUKernels  # noqa: E402

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda")


@pytest.fixture(scope="module", params=CONFIGS)
def reference(request: pytest.FixtureRequest) -> PreTrainedModel:
    return reference_model(CONFIGS[request.param])


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(3, VOCAB_SIZE, (LENGTH,), generator=torch.Generator().manual_seed(5))


def runner(reference: PreTrainedModel, dtype: str, kernels: Any) -> PagedRunner:
    model = same_model(reference, DEVICE, dtype, kernels)
    options: dict[str, Any] = {"max_len": LENGTH + 1, "block_size": 16, "kernels": kernels}
    return PagedRunner(model, num_requests=4, backend="TRITON_ATTN", **options)


def every_way(runner: PagedRunner, tokens: Tensor) -> list[Tensor]:
    """The logits of the tokens as one prompt, in chunks, one by one alone, and in steps with another request."""
    whole = runner.step([(0, tokens)])[0]
    chunks = [runner.step([(1, chunk)])[0] for chunk in tokens.split((8, 1, 3, 11))]
    singles = [runner.step([(2, token)])[0] for token in tokens.split(1)]
    runner.lengths[0] = 0
    mixed = [runner.step([(3, token), (0, tokens[:5])])[0] for token in tokens[:4].split(1)]
    runner.lengths[0] = 0
    beside = [runner.step([(3, token), (0, tokens[:1])])[0] for token in tokens[4:].split(1)]
    return [whole, torch.cat(chunks), torch.cat(singles), torch.cat(mixed + beside)]


def test_float32(reference: PreTrainedModel, tokens: Tensor) -> None:
    assert not torch.backends.cuda.matmul.allow_tf32
    expected = reference_logits(reference, tokens)
    assert expected.std() > 0.1  # else agreement would mean little
    for logits in every_way(runner(reference, "float32", GPUKernels(DEVICE)), tokens):
        assert (logits.cpu() - expected).abs().max() < 1e-3


def test_bfloat16(reference: PreTrainedModel, tokens: Tensor) -> None:
    """No further from float32 than twice what transformers' own bfloat16 is, whose weights are rounded likewise."""
    expected = reference_logits(reference, tokens)
    rounded = reference_logits(reference.to(torch.bfloat16), tokens).float()
    reference.to(torch.float32)
    theirs = (rounded - expected).norm()
    for logits in every_way(runner(reference, "bfloat16", GPUKernels(DEVICE)), tokens):
        assert (logits.float().cpu() - expected).norm() < 2 * theirs
