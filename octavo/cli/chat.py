"""`octavo chat`: a conversation in the terminal. It keeps the history and streams the answers.

Who answers is an `Answerer`: a model in this process, or a running server.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from octavo.cli.endpoint_flags import add_endpoint_flags, endpoint_of, reject_engine_flags, sampling_fields
from octavo.cli.flags import add_engine_flags, add_sampling_flags, engine_arguments, sampling_params
from octavo.client.answers import Chunk, choose_model, stream_chat
from octavo.errors import ContextLengthError, EngineDeadError, EngineError, RequestError

if TYPE_CHECKING:
    from octavo.client.endpoint import Endpoint
    from octavo.llm import LLM
    from octavo.sampling_params import SamplingParams

HELP = """\
/exit          leave (also Ctrl-D)
/clear         forget the conversation
/system TEXT   set the system message and start anew; without TEXT, remove it
/help          this list
Ctrl-C         stop an answer"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system-prompt", default=None, metavar="TEXT", help="the system message to begin with")
    add_endpoint_flags(parser, None, "talk with a running server instead of a model in this process")
    add_sampling_flags(parser)
    add_engine_flags(parser)


def run(parsed: argparse.Namespace) -> int:
    if parsed.url is not None:
        reject_engine_flags(parsed, "model")
        endpoint = endpoint_of(parsed)
        model = choose_model(endpoint, engine_arguments(parsed).get("model"))
        Conversation(ServerAnswerer(endpoint, model, sampling_fields(parsed)), parsed.system_prompt).loop(
            _line_reader()
        )
        return 0
    from octavo.llm import LLM  # loads torch

    with LLM(**engine_arguments(parsed)) as llm:
        params = sampling_params(parsed, llm.get_default_sampling_params(), max_tokens=None)
        Conversation(LocalAnswerer(llm, params), parsed.system_prompt).loop(_line_reader())
    return 0


class Answerer(Protocol):
    """Whoever answers a conversation. Closing the generator stops the answer."""

    def answer(self, messages: Sequence[Mapping[str, str]]) -> Generator[Chunk, None, None]: ...


class LocalAnswerer:
    """A model in this process."""

    def __init__(self, llm: LLM, params: SamplingParams) -> None:
        self._llm = llm
        self._params = params

    def answer(self, messages: Sequence[Mapping[str, str]]) -> Generator[Chunk, None, None]:
        num_tokens = 0
        for output in self._llm.stream_chat(messages, self._params):
            num_tokens += len(output.outputs[0].token_ids)
            yield Chunk(output.outputs[0].text, num_tokens)


class ServerAnswerer:
    """A model of a running server."""

    def __init__(self, endpoint: Endpoint, model: str, fields: Mapping[str, Any]) -> None:
        self._endpoint = endpoint
        self._model = model
        self._fields = fields

    def answer(self, messages: Sequence[Mapping[str, str]]) -> Generator[Chunk, None, None]:
        return stream_chat(self._endpoint, self._model, messages, self._fields)


class Conversation:
    """The history of one chat."""

    def __init__(self, answerer: Answerer, system: str | None) -> None:
        self._answerer = answerer
        self._messages: list[dict[str, str]] = []
        self._start(system)

    def _start(self, system: str | None) -> None:
        self._messages = [{"role": "system", "content": system}] if system else []

    def loop(self, read_line: Callable[[], str | None]) -> None:
        """Until /exit or the end of the input."""
        print("Type a message, or /help.", file=sys.stderr)
        while (line := read_line()) is not None:
            command, _, rest = line.strip().partition(" ")
            if command == "/exit":
                return
            if command == "/clear":
                system = self._messages[0]["content"] if self._messages[:1] and self._is_system() else None
                self._start(system)
                print("(the conversation is forgotten)", file=sys.stderr)
            elif command == "/system":
                self._start(rest.strip() or None)
                print("(the system message is set)" if rest else "(there is no system message)", file=sys.stderr)
            elif command == "/help":
                print(HELP, file=sys.stderr)
            elif command.startswith("/"):
                print(f"there is no command {command}\n{HELP}", file=sys.stderr)
            elif command:
                self._answer(line)

    def _is_system(self) -> bool:
        return self._messages[0]["role"] == "system"

    def _answer(self, text: str) -> None:
        """Stream the answer to one message; the message is taken back when it can't be answered."""
        self._messages.append({"role": "user", "content": text})
        answer, num_tokens = "", 0
        started = first = time.perf_counter()
        try:
            with closing(self._answerer.answer(self._messages)) as chunks:
                for chunk in chunks:
                    if num_tokens == 0:
                        first = time.perf_counter()
                    num_tokens = chunk.num_tokens
                    answer += chunk.text
                    print(chunk.text, end="", flush=True)
        except KeyboardInterrupt:
            print(" (stopped)", end="", file=sys.stderr)
        except EngineDeadError:
            raise
        except (RequestError, EngineError) as error:
            self._messages.pop()
            hint = " (/clear forgets the conversation)" if isinstance(error, ContextLengthError) else ""
            print(f"{error}{hint}", file=sys.stderr)
            return
        print(flush=True)
        seconds = max(time.perf_counter() - first, 1e-9)
        rate = f", {(num_tokens - 1) / seconds:.1f} tok/s" if num_tokens > 1 else ""
        print(f"({num_tokens} tokens, first after {first - started:.2f} s{rate})", file=sys.stderr)
        self._messages.append({"role": "assistant", "content": answer})


def _line_reader() -> Callable[[], str | None]:
    """A function that gives the next line, None at the end: with editing and history on a terminal."""
    if not sys.stdin.isatty():
        return lambda: line.rstrip("\n") if (line := sys.stdin.readline()) else None
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession()

    def read() -> str | None:
        try:
            return session.prompt("> ")
        except EOFError:
            return None

    return read
