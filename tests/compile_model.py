"""Compiles what a tiny model's steps need, ahead and without a GPU: python compile_model.py FOLDER. Prints the kernels.

`compile_ahead` runs as on a Hopper GPU, with something in place of Triton's driver and of what CUDA tells of a GPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton_compile import TARGETS, NoGpu

from octavo.attention.triton_attn import TritonAttentionBackend
from octavo.config import DeviceTraits, EngineArgs, resolve
from octavo.kernels import triton_attention, triton_cache, triton_gated, triton_launch, triton_linear, triton_sampling
from octavo.kernels.gpu import GPUKernels
from octavo.loading.config_reader import read_checkpoint
from octavo.loading.load import build_model
from octavo.worker.compile_ahead import compile_ahead
from octavo.worker.memory_plan import group_layers

NOWHERE = torch.device("meta")
HOPPER = DeviceTraits(
    name="cuda",
    dtypes=("bfloat16", "float16", "float32"),
    block_size=16,
    max_num_seqs=256,
    max_num_batched_tokens=1024,
    gpu_memory_utilization=0.9,
    async_scheduling=True,
)


class Platform:
    """What `compile_ahead` asks of one."""

    kernels = GPUKernels(NOWHERE)

    def compiling(self, start: Callable[[], None]) -> AbstractContextManager[None]:
        return triton_launch.compiling_in_threads(start)


class LoadingDriver(NoGpu):
    """One that is also asked for what starts a kernel, `launcher_cls`, and to load it, which it notes down."""

    def __init__(self, target: GPUTarget) -> None:
        super().__init__(target)
        self.loaded: list[str] = []
        self.launcher_cls = lambda src, metadata: src
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": 232448}, load_binary=self._load
        )

    def _load(self, name: str, kernel: object, shared: int, device: int) -> tuple[None, None, int, int, int]:
        self.loaded.append(name)
        return None, None, 0, 0, 1024


def main(folder: str) -> None:
    target, traits = TARGETS["sm_90"]
    traits = replace(traits, num_processors=2)  # so that the layers of a tiny model are large
    loading = LoadingDriver(target)
    driver.set_active(loading)
    for room in (triton_attention, triton_cache, triton_gated, triton_launch, triton_linear, triton_sampling):
        vars(room)["gpu_traits"] = lambda device: traits
    for room in (triton_linear, triton_launch):
        vars(room)["gpu_family"] = lambda device: "sm_90"
    compiled: dict[str, int] = {}

    def count(*, src: Any, **_: Any) -> None:
        compiled[src.name] = compiled.get(src.name, 0) + 1

    triton.knobs.compilation.listener = count
    args = EngineArgs.from_kwargs(model=folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16")
    config = resolve(args, read_checkpoint(Path(folder), hf_overrides=None), HOPPER)
    layers = build_model(config.model, NOWHERE).attention_layers()
    specs = [layer.spec(torch.bfloat16, torch.bfloat16, config.cache.block_size) for layer in layers]
    backend = TritonAttentionBackend(specs, Platform.kernels)
    groups = group_layers([spec.sliding_window for spec in specs])
    shape = backend.kv_cache_shape(1, 16, specs[0].num_kv_heads, specs[0].head_dim, torch.bfloat16)
    zeros = torch.zeros
    with (
        patch("torch.zeros", lambda *size, pin_memory=False, **options: zeros(*size, **options)),
        patch("torch.cuda.current_device", lambda: 0),
        patch("torch.cuda.set_device"),
    ):
        for _ in range(2):
            with compile_ahead(config, Platform(), backend, groups, shape):  # type: ignore[arg-type]
                pass
            print(json.dumps(compiled))
    assert sorted(loading.loaded) == sorted(name for name, times in compiled.items() for _ in range(times))
    assert "torch._dynamo" not in sys.modules  # it takes longer to load than all kernels to be found


if __name__ == "__main__":
    main(sys.argv[1])
