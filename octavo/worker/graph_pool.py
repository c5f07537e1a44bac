"""GraphPool: CUDA graphs that share one pool of memory, recorded between steps. It knows no step and no model."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class Graph(Generic[Result]):
    """A recorded function. A replay writes what it returned when it was recorded: the same tensors each time."""

    def __init__(self, graph: torch.cuda.CUDAGraph, result: Result) -> None:
        self._graph = graph
        self._result = result

    def replay(self) -> Result:
        self._graph.replay()
        return self._result


class GraphPool:
    """Graphs of which only one runs at a time: what one needs for a while, another may use as well."""

    def __init__(self, device: torch.device) -> None:
        self._memory = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def record(self, run: Callable[[], Result]) -> Graph[Result]:
        """Note down the kernels that `run` launches; none of them is run, and what runs already goes on.

        `run` has been called before, so that its kernels are compiled and libraries have what they need.
        """
        graph = torch.cuda.CUDAGraph()
        collects = gc.isenabled()
        gc.disable()  # whatever a collection freed of the device would be part of the recording
        try:
            with torch.cuda.stream(self._stream):
                graph.capture_begin(self._memory, capture_error_mode="thread_local")
                try:
                    result = run()
                finally:
                    graph.capture_end()
        finally:
            if collects:
                gc.enable()
        return Graph(graph, result)
