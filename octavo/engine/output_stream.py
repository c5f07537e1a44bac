"""OutputStream: the outputs of one request on their way to the one who reads them, at that one's pace.

A reader that is slower than the engine gets several steps in one output; nothing piles up, and nobody else waits.
"""

from __future__ import annotations

import asyncio

from octavo.outputs import CompletionOutput, RequestOutput


class OutputStream:
    """Holds at most one output: what came since the last `get`."""

    def __init__(self, *, delta: bool) -> None:
        self._delta = delta
        self._output: RequestOutput | None = None
        self._error: Exception | None = None
        self._arrived = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        if self._output is None or not self._delta:
            self._output = output
        else:
            _append(self._output, output)
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """Let `get` raise `error`, after what has arrived before."""
        self._error = error
        self._arrived.set()

    async def get(self) -> RequestOutput:
        while self._output is None:
            if self._error is not None:
                raise self._error
            self._arrived.clear()
            await self._arrived.wait()
        output, self._output = self._output, None
        return output


def _append(earlier: RequestOutput, later: RequestOutput) -> None:
    """Join two deltas of a request. A completion that has finished before comes again, empty."""
    by_index = {completion.index: completion for completion in earlier.outputs}
    for completion in later.outputs:
        first = by_index.get(completion.index)
        if first is None:
            earlier.outputs.append(completion)
        else:
            _extend(first, completion)
    earlier.finished = later.finished
    earlier.prompt_logprobs = later.prompt_logprobs
    earlier.num_cached_tokens = later.num_cached_tokens


def _extend(first: CompletionOutput, then: CompletionOutput) -> None:
    first.text += then.text
    first.token_ids += then.token_ids
    if first.logprobs is not None and then.logprobs is not None:
        first.logprobs.extend(then.logprobs)
    first.cumulative_logprob = then.cumulative_logprob
    first.finish_reason, first.stop_reason = then.finish_reason, then.stop_reason
