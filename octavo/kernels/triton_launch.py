"""How a Triton kernel is started, and what its tiles depend on of the GPU. Knows launches and devices, no kernel.

Imported without Triton. On tensors without memory (device "meta") a kernel is compiled instead of started, for the
current GPU: so functions that launch tell which kernels they need before there is anything to compute.

Programmatic dependent launch (PDL; CUDA programming guide, "Programmatic Dependent Launch and
Synchronization"): a kernel may start while the one before it still runs, which hides the ramp of a launch. A kernel
that is compiled for it (its constant PDL) says early that its successor may start, and then waits for its predecessor:
before the wait it reads only what no kernel of a step writes (weights), after it everything that was launched before is
complete. A kernel that did not wait could be overtaken, so every program of it does, also one that has nothing to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, ...]

_LAUNCHER = attrgetter("run")  # of a compiled kernel, which makes it when it is first asked for

# What `start` of `compiling_in_threads` gathers, by kernel and arguments.
_wanted: ContextVar[dict[str, Callable[[], object]] | None] = ContextVar("_wanted", default=None)


@dataclass(frozen=True, slots=True)
class GpuTraits:
    """What tile sizes and launches depend on."""

    family: str  # "hopper": warp-group products and 200 KB of shared memory; "ampere": other NVIDIA; "amd"
    num_processors: int  # streaming multiprocessors, compute units
    dependent_launch: bool
    specialized_warps: bool = False  # Hopper, and a Triton that `knows_gluon`


@lru_cache
def gpu_traits(device: torch.device) -> GpuTraits:
    """The traits of `device`; "meta" is the current GPU.

    Tensors of a CPU reach a kernel in Triton's interpreter only: any traits serve there.
    """
    if device.type == "cpu":
        return GpuTraits("ampere", 4, False)
    properties = torch.cuda.get_device_properties(_gpu(device))
    if torch.version.hip is not None:
        return GpuTraits("amd", properties.multi_processor_count, False)
    # 9: Hopper, 10: Blackwell for data centres. Blackwell's other GPUs (12) have 100 KB of shared memory.
    family = "hopper" if properties.major in (9, 10) else "ampere"
    specialized_warps = properties.major == 9 and knows_gluon()
    return GpuTraits(family, properties.multi_processor_count, properties.major >= 9, specialized_warps)


def knows_gluon() -> bool:
    """Whether `gluon_*` are written in this Triton's Gluon, an experiment whose interface changes between versions."""
    return str(import_module("triton").__version__).startswith("3.6.")


@contextmanager
def compiling_in_threads(start: Callable[[], None]) -> Iterator[None]:
    """While this block runs, what `start` starts on tensors without memory is compiled side by side, each kernel once.

    Layers and steps start the same kernels again and again. They are gathered first, as threads that compile would slow
    down the one that gathers; most of the compiler works without the interpreter's lock. A kernel that the block starts
    is waited for, and no other. At the end of the block all are there.
    """
    triton = import_module("triton")
    wanted: dict[str, Callable[[], object]] = {}
    token = _wanted.set(wanted)
    try:
        start()
    finally:
        _wanted.reset(token)
    with ExitStack() as stack:
        if hasattr(triton, "AsyncCompileMode"):
            threads = stack.enter_context(
                _Compilers(min(32, len(os.sched_getaffinity(0))), torch.cuda.current_device())
            )
            stack.enter_context(triton.AsyncCompileMode(threads))
        for compile_one in wanted.values():
            compile_one()
        yield


class _Compilers(ThreadPoolExecutor):
    """Threads that compile kernels and make them ready to be started on a device.

    What hands a kernel its arguments is a program in C. Triton would compile it when the kernel is first started.
    """

    def __init__(self, num_threads: int, device: int) -> None:
        super().__init__(num_threads, initializer=torch.cuda.set_device, initargs=(device,))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(_ready, fn, *args, **kwargs)


def _ready(compile_one: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    kernel = compile_one(*args, **kwargs)
    _LAUNCHER(kernel)
    return kernel


def _compile(kernel: Any, grid: Grid, args: tuple[Any, ...], constants: dict[str, Any]) -> None:
    """Compiles `kernel` for such arguments, now or with the others of `compiling_in_threads`."""
    compile_one = partial(kernel.warmup, *args, grid=grid, **constants)
    wanted = _wanted.get()
    if wanted is None:
        compile_one()
    else:
        what = [_kind(arg) for arg in args]
        wanted.setdefault(f"{kernel.fn.__module__}.{kernel.fn.__name__}{what}{constants}", compile_one)


def _tensor(arg: Any) -> Tensor:
    """A tensor, or the one that a tensor descriptor describes."""
    return arg if isinstance(arg, Tensor) else arg.base


def _kind(arg: Any) -> object:
    """What a kernel is compiled for, of an argument."""
    if isinstance(arg, Tensor):
        return arg.dtype
    return (arg.base.dtype, arg.block_shape) if hasattr(arg, "block_shape") else arg


@lru_cache
def gpu_family(device: torch.device) -> str:
    """The generation of a GPU: "sm_90" for Hopper, "gfx942" for MI300; "cpu" where kernels are interpreted."""
    if device.type == "cpu":
        return device.type
    device = _gpu(device)
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _gpu(device: torch.device) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "meta" else device


def launch(kernel: Any, grid: Grid, *args: Any, **constants: Any) -> None:
    """Starts `kernel`, as a dependent launch if its constant PDL is true; nothing at all for an empty grid.

    With a first argument without memory the kernel is compiled only.

    Args:
        args: tensors and tensor descriptors, one of them first, and numbers.
        constants: compile-time constants of the kernel, num_warps and num_stages.
    """
    if 0 not in grid:
        options = {"launch_pdl": True} if constants.get("PDL") else {}
        if _tensor(args[0]).is_meta:
            _compile(kernel, grid, args, constants | options)
        else:
            kernel[grid](*args, **constants, **options)


def launch_dependent(kernel: Any, grid: Grid, *args: Any, **constants: Any) -> None:
    """`launch` with PDL where the device of the first argument has it."""
    launch(kernel, grid, *args, PDL=gpu_traits(_tensor(args[0]).device).dependent_launch, **constants)


def next_power_of_2(n: int) -> int:
    """The lowest power of two that is `n` or more; Triton's tiles have such sizes."""
    return 1 << (n - 1).bit_length()
