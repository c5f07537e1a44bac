"""The command `octavo`: its subcommands and how errors are shown. Each subcommand is imported when it is run."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from octavo.errors import ConfigError, OctavoError, RequestError
from octavo.version import __version__

# name: (module, what it does)
COMMANDS = {
    "serve": ("octavo.cli.serve", "serve a model over OpenAI's API"),
    "chat": ("octavo.cli.chat", "talk with a model in the terminal"),
    "complete": ("octavo.cli.complete", "complete a text with a running server"),
    "generate": ("octavo.cli.generate", "complete prompts given as arguments or as lines of standard input"),
    "run-batch": ("octavo.cli.run_batch", "run a file of requests in OpenAI's batch format"),
    "bench": ("octavo.cli.bench", "measure serve, throughput, latency or startup"),
    "schema": ("octavo.cli.schema", "tell what of a JSON schema is enforced in structured outputs"),
    "collect-env": ("octavo.cli.collect_env", "print what a bug report should tell about this machine"),
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers a misspelt flag with the right one."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        parsed, unknown = self.parse_known_args(args)
        if unknown:
            near = difflib.get_close_matches(unknown[0].split("=")[0], self._flags(), n=1)
            hint = f"; did you mean {near[0]}?" if near else "; --help lists what there is"
            self.error(f"unknown argument {unknown[0]}{hint}")
        return parsed

    def _flags(self) -> list[str]:
        """Those of its subcommands too."""
        found = [flag for action in self._actions for flag in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [flag for command in action.choices.values() for flag in command._flags()]
        return found


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 1 for a failure, 2 for wrong arguments, 130 when interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in COMMANDS:
        sys.exit(_run(args[0], args[1:]))
    parser = _top_parser()
    parsed = parser.parse_args(args)  # exits for --help, --version and unknown flags
    if parsed.command is not None:
        near = difflib.get_close_matches(parsed.command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        parser.error(f"unknown command {parsed.command!r}; {hint}")
    parser.print_help()
    sys.exit(0)


def _top_parser() -> Parser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items())
    parser = Parser(
        prog="octavo",
        description="Inference of large language models.",
        epilog=f"commands:\n{commands}\n\n`octavo COMMAND --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"octavo {__version__}")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def _run(name: str, args: list[str]) -> int:
    module_name, what = COMMANDS[name]
    module = import_module(module_name)
    parser = Parser(
        prog=f"octavo {name}",
        description=what[0].upper() + what[1:] + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    module.add_arguments(parser)
    parsed = parser.parse_args(args)
    try:
        code: int = module.run(parsed)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except OctavoError as error:
        print(f"octavo {name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | RequestError) else 1
    return code
