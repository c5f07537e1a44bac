"""`octavo schema check FILE`: what of a JSON schema structured outputs enforce, ignore and refuse."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from octavo.errors import ConfigError, InvalidRequestError
from octavo.structured import json_schema
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.source import parsed_json
from octavo.structured.vocabulary import byte_vocabulary
from octavo.structured_params import StructuredOutputsParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["check"], help="check: list the keywords and compile the schema")
    parser.add_argument("file", help="a file with a JSON schema; - for standard input")


def run(parsed: argparse.Namespace) -> int:
    """0: the schema can be used; 1: it is refused."""
    text = _read(parsed.file)
    root = parsed_json(text, parsed.file)
    found = json_schema.keywords(root)
    for status in ("enforced", "ignored", "unsupported"):
        keywords = [keyword for keyword in found if keyword.status == status]
        if keywords:
            print(f"{status}:")
        for keyword in keywords:
            print(f"  {keyword}" + (f"  ({keyword.reason})" if keyword.reason else ""))
    try:
        GrammarCompiler(byte_vocabulary).compile(StructuredOutputsParams(json=text))
    except InvalidRequestError as error:
        print(f"refused: {error}")
        return 1
    print('accepted: output has the form of this schema, or ends with the reason "length"')
    return 0


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} can't be read: {error}") from None
