"""The kernels that tests compare: plain torch, and those in C++ for every instruction set of this machine."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from octavo.kernels import torch_ops
from octavo.kernels.cpu import CPUKernels


def _all() -> dict[str, Any]:
    found: dict[str, Any] = {"torch": torch_ops}
    try:
        extension = import_module("octavo._cpu")
    except ImportError:  # installed where there was no compiler
        return found
    return found | {isa: CPUKernels(extension, 2, isa) for isa in extension.usable_isas()}


KERNELS = _all()
CPP_KERNELS = {name: kernels for name, kernels in KERNELS.items() if name != "torch"}
BEST_KERNELS = next(iter(CPP_KERNELS.values()), torch_ops)
needs_cpp_kernels = pytest.mark.skipif(not CPP_KERNELS, reason="the C++ kernels are not built")
