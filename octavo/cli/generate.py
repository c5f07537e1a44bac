"""`octavo generate`: complete prompts from the command line."""

from __future__ import annotations

import argparse
import sys

from octavo.cli.flags import add_engine_flags, add_sampling_flags, engine_arguments, sampling_params
from octavo.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="without any, each line of standard input is one")
    add_sampling_flags(parser)
    add_engine_flags(parser)


def run(parsed: argparse.Namespace) -> int:
    prompts = parsed.prompts
    if not prompts:
        if sys.stdin.isatty():
            raise ConfigError("no prompt was given; put one behind the flags, in quotes, or pipe lines in")
        prompts = [line for line in sys.stdin.read().splitlines() if line]
    from octavo.llm import LLM  # loads torch: after the arguments are known to be good

    with LLM(**engine_arguments(parsed)) as llm:
        params = sampling_params(parsed, llm.get_default_sampling_params(), max_tokens=128)
        for output in llm.generate(prompts, params, use_tqdm=sys.stderr.isatty()):
            for completion in output.outputs:
                print(f"{output.prompt}{completion.text}\n", flush=True)
    return 0
