"""`octavo complete`: complete prompts by a running server, streamed to the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing

from octavo.cli.endpoint_flags import add_endpoint_flags, endpoint_of, sampling_fields
from octavo.cli.flags import add_sampling_flags
from octavo.client.answers import choose_model, stream_completion
from octavo.client.endpoint import DEFAULT_URL
from octavo.errors import ConfigError

MAX_TOKENS = 128  # as `octavo generate`; the API's own default of 16 ends most answers in mid-sentence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="without any, each line of standard input is one")
    add_endpoint_flags(parser, DEFAULT_URL, "the server")
    parser.add_argument("-m", "--model", default=None, metavar="NAME", help="one of the server's models (its first)")
    add_sampling_flags(parser)


def run(parsed: argparse.Namespace) -> int:
    if not parsed.prompts and sys.stdin.isatty():
        raise ConfigError("no prompt was given; put one behind the flags, in quotes, or pipe lines in")
    endpoint = endpoint_of(parsed)
    model = choose_model(endpoint, parsed.model)
    fields = {"max_tokens": MAX_TOKENS, **sampling_fields(parsed)}
    for prompt in parsed.prompts or _lines():
        before = prompt  # shown with the first piece of its answer: what is refused is not shown
        with closing(stream_completion(endpoint, model, prompt, fields)) as chunks:
            for chunk in chunks:
                print(before + chunk.text, end="", flush=True)
                before = ""
        print("\n", flush=True)
    return 0


def _lines() -> Iterator[str]:
    return (line.rstrip("\n") for line in sys.stdin if line.strip())
