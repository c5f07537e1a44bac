"""`--config FILE.yaml`: flags that stand in a file. It knows YAML and argparse, and no flag by name.

A key is a flag without its dashes in front (`max-model-len`, or `max_model_len`). A list gives a flag several values,
true and false switch a flag on and off, a nested mapping becomes a JSON object, null is as good as absent.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from octavo.errors import ConfigError, shown, unknown_name


class FileParser(argparse.ArgumentParser):
    """A parser for the arguments of a file: what is wrong is a ConfigError that names the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self._path = path

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"--config {self._path}: {message}")

    def parse_file(self) -> argparse.Namespace:
        """What the file gives. The flags that may stand in it must have been added before.

        Raises:
            ConfigError: it can't be read, is no flat mapping, or has a key or a value that is no flag's.
        """
        return self.parse_args(list(self._arguments()))

    def _arguments(self) -> Iterator[str]:
        actions = {
            flag.removeprefix("--"): action
            for action in self._actions
            for flag in action.option_strings
            if flag.startswith("--") and flag != f"--no-{action.dest}".replace("_", "-")
        }
        seen = set()
        for given, value in _read(self._path).items():
            key = str(given).replace("_", "-")
            if key not in actions:
                self.error(unknown_name("key", str(given), actions))
            if key in seen:
                self.error(f"{key!r} is there twice, with dashes and with underscores; leave one out")
            seen.add(key)
            yield from self._flag(key, actions[key], value)

    def _flag(self, key: str, action: argparse.Action, value: Any) -> Iterator[str]:
        if value is None:
            return
        if action.nargs == 0:  # a switch
            if not isinstance(value, bool):
                self.error(f"{key!r} must be true or false, got {shown(value)}")
            if value:
                yield f"--{key}"
            elif f"--no-{key}" in action.option_strings:
                yield f"--no-{key}"
        elif isinstance(value, list):
            if not isinstance(action, argparse._ExtendAction | argparse._AppendAction):
                self.error(f"{key!r} takes one value, got a list: {shown(value)}")
            for item in value:
                yield f"--{key}={self._text(key, item)}"
        else:
            yield f"--{key}={self._text(key, value)}"

    def _text(self, key: str, value: Any) -> str:
        if isinstance(value, bool):
            self.error(f"{key!r} is no switch, got {shown(value)}; put quotes around a value that is meant as text")
        return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _read(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path} can't be read: {error.strerror}; give a YAML file") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes that are no UTF-8
        raise ConfigError(f"--config {path} is no valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path} must hold `flag: value` lines, got {shown(content)}")
    return content
