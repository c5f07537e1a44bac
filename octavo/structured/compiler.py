"""GrammarCompiler: matchers of constraints, compiled within a time, off the caller's thread, and cached.

The compiler itself can't be interrupted: what takes too long is refused, and goes on in its thread until its own
bounds end it. It recurses as deep as a grammar refers from rule to rule, so its threads have a large stack.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from queue import SimpleQueue

from octavo.errors import InvalidRequestError
from octavo.structured import json_schema
from octavo.structured.matcher import GrammarError, Matcher, TokenGrammars, gbnf_as_lark
from octavo.structured.source import GrammarSource, is_lark, source_of
from octavo.structured.vocabulary import Vocabulary
from octavo.structured_params import StructuredOutputsParams

MAX_SECONDS = 5.0
MAX_CACHE_BYTES = 64 * 2**20
_BYTES_PER_GRAMMAR = 256 * 2**10  # an entry counts as so much, and 32 times its text: measured on large schemas
_BYTES_PER_CHARACTER = 32
_STACK_BYTES = 256 * 2**20  # address space; memory is taken as it is used
_NUM_THREADS = 2
_Key = tuple[str, str, bool, bool, str | None]  # equal keys, equal grammars; the second is the text
_MAX_PARTS = 64  # of a schema that are tried to find the one that is wrong


class GrammarCompiler:
    """Compiles for one vocabulary, which is asked for when the first grammar comes.

    May be used from several threads.
    """

    def __init__(self, vocabulary: Callable[[], Vocabulary]) -> None:
        self._make_vocabulary = vocabulary
        self._grammars: TokenGrammars | None = None
        self._lock = threading.Lock()
        self._cache: OrderedDict[_Key, Matcher | InvalidRequestError] = OrderedDict()
        self._cache_bytes = 0
        self._under_way: dict[_Key, Future[Matcher]] = {}
        self._work: SimpleQueue[tuple[_Key, StructuredOutputsParams]] = SimpleQueue()
        self._num_threads = 0

    def compile(self, params: StructuredOutputsParams) -> Matcher:
        """The matcher of an output that has not begun; waits for it.

        Raises:
            InvalidRequestError: it can't be compiled, or not in MAX_SECONDS; naming the part that is wrong.
        """
        try:
            return self.submit(params).result(MAX_SECONDS).copy()
        except FutureTimeout:
            raise _too_slow(params) from None

    async def check(self, params: StructuredOutputsParams) -> None:
        """The same without the matcher, for an event loop, which goes on meanwhile."""
        future = asyncio.wrap_future(self.submit(params))
        try:
            await asyncio.wait_for(asyncio.shield(future), MAX_SECONDS)
        except asyncio.TimeoutError:
            raise _too_slow(params) from None

    def submit(self, params: StructuredOutputsParams) -> Future[Matcher]:
        """The matcher to copy from, as soon as it is there; InvalidRequestError if it can't be compiled."""
        key = _key(params)
        with self._lock:
            future: Future[Matcher] = Future()
            cached = self._cache.get(key)
            if isinstance(cached, Matcher) and cached.spent:
                self._forget(key)
                cached = None
            if cached is not None:
                self._cache.move_to_end(key)
                if isinstance(cached, Matcher):
                    future.set_result(cached)
                else:  # a new one: each raise adds to an error's traceback
                    future.set_exception(InvalidRequestError(str(cached), param=cached.param))
                return future
            if key in self._under_way:
                return self._under_way[key]
            self._under_way[key] = future
            self._work.put((key, params))
            if self._num_threads < min(_NUM_THREADS, len(self._under_way)):
                self._start_thread()
            return future

    def _start_thread(self) -> None:
        size = threading.stack_size(_STACK_BYTES)
        try:
            threading.Thread(target=self._run, name="octavo-grammar", daemon=True).start()
        finally:
            threading.stack_size(size)
        self._num_threads += 1

    def _run(self) -> None:
        while True:
            key, params = self._work.get()
            result: Matcher | InvalidRequestError
            failure: Exception | None = None
            try:
                result = self._compile(source_of(params))
            except InvalidRequestError as error:
                result = error
            except Exception as error:  # of the vocabulary: it is nobody's grammar
                failure = error
            with self._lock:
                future = self._under_way.pop(key)
                if failure is None:
                    self._remember(key, result)
            if failure is not None:
                future.set_exception(failure)
            elif isinstance(result, Matcher):
                future.set_result(result)
            else:
                future.set_exception(result)

    def _remember(self, key: _Key, result: Matcher | InvalidRequestError) -> None:
        self._cache[key] = result
        self._cache_bytes += _size(key)
        while self._cache_bytes > MAX_CACHE_BYTES and len(self._cache) > 1:
            self._forget(next(iter(self._cache)))

    def _forget(self, key: _Key) -> None:
        del self._cache[key]
        self._cache_bytes -= _size(key)

    def _compile(self, source: GrammarSource) -> Matcher:
        with self._lock:
            grammars = self._grammars
        if grammars is None:
            grammars = TokenGrammars(self._make_vocabulary())
            with self._lock:
                self._grammars = grammars
        try:
            match source.kind:
                case "json":
                    return grammars.json(source.text, dict(source.options))
                case "regex":
                    return grammars.regex(source.text)
                case _:
                    return grammars.lark(source.text if is_lark(source.text) else gbnf_as_lark(source.text))
        except GrammarError as error:
            message = _with_place(grammars, source, str(error)) if source.kind == "json" else f": {error}"
            raise InvalidRequestError(f"{source.param} can't be compiled{message}", param=source.param) from None


def _with_place(grammars: TokenGrammars, source: GrammarSource, message: str) -> str:
    """A message of the compiler about a schema, with the smallest part of it that is to blame."""
    root = json.loads(source.text)
    pointers = sorted(json_schema.reachable(root), key=lambda pointer: -pointer.count("/"))
    for pointer in pointers[:_MAX_PARTS]:
        try:
            grammars.json(json.dumps(json_schema.part(root, pointer)), dict(source.options))
        except GrammarError as error:
            # What can't be satisfied makes what requires it so, in other words.
            if str(error) == message or "nsatisfiable" in message:
                return f", at {pointer[:200]}: {error}"
    return f": {message}"


def _key(params: StructuredOutputsParams) -> _Key:
    given = getattr(params.as_text(), params.kind)
    return (
        params.kind,
        given if isinstance(given, str) else json.dumps(given),  # a list of choices
        params.disable_any_whitespace,
        params.disable_additional_properties,
        params.whitespace_pattern,
    )


def _size(key: _Key) -> int:
    """What an entry of the cache is taken to hold, in bytes."""
    return _BYTES_PER_GRAMMAR + _BYTES_PER_CHARACTER * len(key[1])


def _too_slow(params: StructuredOutputsParams) -> InvalidRequestError:
    param = f"structured_outputs.{params.kind}"
    return InvalidRequestError(
        f"{param} takes longer than {MAX_SECONDS:g} seconds to compile; make it simpler", param=param
    )
