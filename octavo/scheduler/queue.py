"""The requests that wait for a place: first come first served, or by priority.

Both orders share one heap: an entry is (priority, arrival number); under FCFS all priorities count as 0. A preempted
request keeps its arrival number, so it goes before all that came after it.
"""

from __future__ import annotations

import heapq
import itertools

from octavo.request import Request


class RequestQueue:
    """Push, peek and pop in O(log n). Finished requests are passed over when they come up, so an abort is O(1)."""

    def __init__(self, policy: str) -> None:
        self._by_priority = policy == "priority"
        self._heap: list[tuple[int, float, int, Request]] = []
        self._arrivals: dict[str, int] = {}
        self._counter = itertools.count()
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def order(self, request: Request) -> tuple[int, float, int]:
        """The place of a request in line; the lowest goes first."""
        arrival = self._arrivals.setdefault(request.request_id, next(self._counter))
        return (request.priority, request.arrival_time, arrival) if self._by_priority else (0, 0.0, arrival)

    def push(self, request: Request) -> None:
        heapq.heappush(self._heap, (*self.order(request), request))
        self._num_waiting += 1

    def peek(self) -> Request | None:
        while self._heap and self._heap[0][-1].is_finished:
            heapq.heappop(self._heap)
        return self._heap[0][-1] if self._heap else None

    def pop(self) -> Request:
        request = self.peek()
        assert request is not None
        heapq.heappop(self._heap)
        self._num_waiting -= 1
        return request

    def forget(self, request: Request, *, waiting: bool) -> None:
        """The request has finished; `waiting` tells whether it stood in this queue."""
        self._arrivals.pop(request.request_id, None)
        self._num_waiting -= waiting
