"""The ROCm platform: one GPU of AMD. Torch calls it by the names of CUDA, and the same Triton kernels serve it.

It was never run: no AMD GPU was at hand. What is known is that the kernels compile (docs/attention.md).
"""

from __future__ import annotations

from typing import ClassVar

import torch

from octavo.platforms.cuda import CudaPlatform


class RocmPlatform(CudaPlatform):
    name: ClassVar[str] = "rocm"
    attention_backends: ClassVar[tuple[str, ...]] = (
        "ROCM_ATTN",
        "ROCM_AITER_FA",
        "ROCM_AITER_UNIFIED_ATTN",
        "TRITON_ATTN",
        "TORCH_SDPA",
    )

    def describe(self) -> str:
        properties = torch.cuda.get_device_properties(self.device)
        return (
            f"rocm ({properties.name}, {properties.gcnArchName}, {properties.total_memory / 2**30:.0f} GiB, "
            f"ROCm {torch.version.hip})"
        )
