"""The CUDA platform: one GPU of NVIDIA."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import torch

from octavo.config import DeviceTraits
from octavo.kernels import torch_ops
from octavo.kernels.triton_launch import compiling_in_threads
from octavo.log import get_logger
from octavo.platforms.base import Memory, Platform

logger = get_logger(__name__)


class CudaPlatform(Platform):
    name: ClassVar[str] = "cuda"
    attention_backends: ClassVar[tuple[str, ...]] = ("TRITON_ATTN", "FLASH_ATTN", "FLASHINFER", "TORCH_SDPA")
    runs_ahead: ClassVar[bool] = True

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device())

    @cached_property
    def kernels(self) -> Any:
        """Those in Triton, which comes with torch for a GPU; else those in plain torch."""
        if find_spec("triton") is None:
            logger.warning("the package triton is not there: plain torch takes its place, and is slower")
            return torch_ops
        return import_module("octavo.kernels.gpu").GPUKernels(self.device)

    def compiling(self, start: Callable[[], None]) -> AbstractContextManager[None] | None:
        return None if self.kernels is torch_ops else compiling_in_threads(start)

    def traits(self) -> DeviceTraits:
        fast = ("bfloat16", "float16", "float32")
        return DeviceTraits(
            name=self.name,
            dtypes=fast if torch.cuda.is_bf16_supported(including_emulation=False) else fast[1:],
            block_size=16,
            max_num_seqs=256,
            max_num_batched_tokens=8192,
            gpu_memory_utilization=0.9,
            async_scheduling=True,
        )

    def memory(self) -> Memory:
        free, total = torch.cuda.mem_get_info(self.device)
        # What torch's allocator holds and nobody uses is as good as free.
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return Memory(total, free + unused)

    def describe(self) -> str:
        properties = torch.cuda.get_device_properties(self.device)
        return (
            f"cuda ({properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda})"
        )
