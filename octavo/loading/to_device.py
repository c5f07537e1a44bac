"""Tensors that lie in mapped files, brought to a GPU by several threads at once, in their order.

Reading mapped pages is slow for one thread, and slower still than a GPU takes them. Threads copy pieces to pinned
memory and send them off from there. Host memory: the pieces. Device memory: what is on its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple

import torch
from torch import Tensor

from octavo.quantization.base import Weight

_NUM_THREADS = 8
_PIECE = 16 << 20  # bytes
_ON_THE_WAY = 1 << 30  # bytes, of tensors that were not taken yet; one tensor may be larger


class _Sent(NamedTuple):
    """A tensor that threads fill."""

    name: str
    tensor: Weight
    pieces: list[Future[None]]


def sent_to(device: torch.device, weights: Iterator[tuple[str, Weight]]) -> Iterator[tuple[str, Weight]]:
    """The same names and tensors, those of torch on `device`, a CUDA GPU; others stay where they are.

    Raises:
        whatever `weights` does, when its turn comes.
    """
    pinned: SimpleQueue[Tensor] = SimpleQueue()
    for _ in range(_NUM_THREADS):
        pinned.put(torch.empty(_PIECE, dtype=torch.uint8, pin_memory=True))

    def send(source: Tensor, target: Tensor, is_free: torch.cuda.Event) -> None:
        stage, stream = pinned.get(), torch.cuda.Stream(device)
        try:
            part = stage[: source.nbytes]
            part.copy_(source)
            stream.wait_event(is_free)
            with torch.cuda.stream(stream):
                target.copy_(part, non_blocking=True)
            stream.synchronize()
        finally:
            pinned.put(stage)

    def start(name: str, tensor: Weight) -> _Sent:
        if not isinstance(tensor, Tensor):
            return _Sent(name, tensor, [])
        target = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        is_free = torch.cuda.current_stream(device).record_event()  # what used this memory before is done
        pieces = zip(_bytes(tensor).split(_PIECE), _bytes(target).split(_PIECE), strict=True)
        return _Sent(name, target, [threads.submit(send, *piece, is_free) for piece in pieces])

    with ThreadPoolExecutor(_NUM_THREADS, "octavo-weights") as threads:
        under_way: deque[_Sent] = deque()
        num_bytes = 0
        for name, tensor in weights:
            under_way.append(start(name, tensor))
            num_bytes += tensor.nbytes
            while num_bytes > _ON_THE_WAY:
                num_bytes -= under_way[0].tensor.nbytes
                yield _arrived(under_way.popleft())
        while under_way:
            yield _arrived(under_way.popleft())


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _arrived(sent: _Sent) -> tuple[str, Weight]:
    for piece in sent.pieces:
        piece.result()
    return sent.name, sent.tensor
