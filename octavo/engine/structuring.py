"""Structuring: requests whose output has a form wait here, beside the queue, until their grammar is compiled.

Others go on meanwhile. What comes out is a request and the state of its output, in which the tokens are followed.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait

from octavo.errors import OctavoError
from octavo.log import get_logger
from octavo.request import Request
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.matcher import Matcher
from octavo.structured.output_state import OutputState

logger = get_logger(__name__)

_SECONDS_TO_WAIT = 0.01  # when there is nothing else to do: new requests are not seen meanwhile


class Structuring:
    """Grammars come from `compiler`. `vocab_size` is that of the logits; `eos_token_ids` end an output."""

    def __init__(self, compiler: GrammarCompiler, *, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
        self.vocab_size = vocab_size
        self._compiler = compiler
        self._eos_token_ids = eos_token_ids
        self._waiting: dict[str, tuple[Request, Future[Matcher] | None]] = {}

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """Have the grammar of a request compiled. It was compiled before, where the request came in."""
        params = request.params.structured_outputs
        future = None if params is None else self._compiler.submit(params)
        self._waiting[request.request_id] = (request, future)

    def ready(self) -> list[tuple[Request, OutputState | None]]:
        """The requests that need not wait any longer, with their states; None for one that can't be compiled."""
        if not self._waiting:
            return []
        done = [(request, future) for request, future in self._waiting.values() if future is None or future.done()]
        for request, _ in done:
            del self._waiting[request.request_id]
        return [(request, self._state(request, future)) for request, future in done]

    def wait(self) -> None:
        """Until a grammar is compiled, but not for long."""
        futures = [future for _, future in self._waiting.values() if future is not None]
        if futures:
            wait(futures, _SECONDS_TO_WAIT, FIRST_COMPLETED)

    def forget(self, request_ids: list[str]) -> None:
        """Ids that do not wait here are passed over."""
        for request_id in request_ids:
            self._waiting.pop(request_id, None)

    def forget_all(self) -> None:
        self._waiting.clear()

    def _state(self, request: Request, future: Future[Matcher] | None) -> OutputState | None:
        try:
            matcher = None if future is None else future.result().copy()
        except OctavoError as error:
            logger.error("a grammar that had been accepted can't be compiled: %s", error)
            return None
        params = request.params
        return OutputState(
            matcher,
            markers=params.reasoning_markers,
            budget=params.thinking_token_budget,
            eos_token_ids=self._eos_token_ids,
            ignore_eos=params.ignore_eos,
        )
