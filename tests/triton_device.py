"""Where the tests of the Triton kernels run: on a GPU, or, with TRITON_INTERPRET=1, in Triton's interpreter."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
# The interpreter cuts float32 off to bfloat16 where a GPU rounds, so it runs the other dtypes.
DTYPES = [torch.float32, torch.float16] if INTERPRETED else [torch.float32, torch.float16, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
NAN = float("nan")


def skip_without_gpu() -> None:
    """For the top of a test module, before it imports kernels: skips it where nothing can run them."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed", allow_module_level=True)
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("there is no GPU", allow_module_level=True)


def loops_with_numpy_2_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6's interpreter makes the bounds of a loop from arrays of one element, which NumPy refuses since 2.4."""
    if not INTERPRETED:
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_index)


def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and scratch memory begin as NaN, or as far too large integers, so that a place left out is seen."""

    def empty(*size: int | tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        value = NAN if dtype.is_floating_point else torch.iinfo(dtype).max
        return torch.full(size[0] if isinstance(size[0], tuple) else size, value, dtype=dtype, device=device)

    monkeypatch.setattr(torch, "empty", empty)


def close(got: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> None:
    """`got` is `expected`, computed in float32 or float64, but for a rounding of its dtype."""
    assert got.dtype == (dtype or got.dtype)
    tolerance = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[got.dtype]
    torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance)
