"""Parsers by name: octavo's own, those that plugins register, and any class by its import path.

A plugin is a Python file or module with a class such as

    @TOOL_PARSERS.register("mine")
    class MyParser(ToolParser):
        def read(self): ...

named by `--tool-parser-plugin FILE --tool-call-parser mine`, or, without registering, by `--tool-call-parser
module:MyParser`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from octavo.errors import ConfigError, shown, unknown_name
from octavo.parsers.base import Parser, ReasoningParser, ToolParser

_P = TypeVar("_P", bound=Parser)


class ParserRegistry(Generic[_P]):
    """The parsers of one kind; `own` says where octavo's are, name -> "module:Class" below `octavo.parsers`."""

    def __init__(self, kind: type[_P], what: str, own: Mapping[str, str]) -> None:
        self._kind = kind
        self._what = what
        self._own = own
        self._registered: dict[str, type[_P]] = {}

    @property
    def names(self) -> list[str]:
        return sorted({*self._own, *self._registered})

    def register(self, *names: str) -> Callable[[type[_P]], type[_P]]:
        """Makes a class known under names, which go before octavo's own."""

        def decorate(parser: type[_P]) -> type[_P]:
            self._check(parser, parser.__qualname__)
            for name in names or (parser.__name__,):
                self._registered[name] = parser
            return parser

        return decorate

    def get(self, name: str) -> type[_P]:
        """The class of a name, or of an import path "package.module:Class".

        Raises:
            ConfigError: there is none, or it can't be imported, or it is no parser of this kind.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._own:
            return self._import(f"octavo.parsers.{self._own[name]}")
        if ":" in name:
            return self._import(name)
        raise ConfigError(f"{unknown_name(self._what, name, self.names)} (known: {', '.join(self.names)})")

    def _import(self, path: str) -> type[_P]:
        module_name, _, class_name = path.partition(":")
        module = _imported(module_name, self._what)
        parser = getattr(module, class_name, None)
        if parser is None:
            raise ConfigError(f"{self._what} {path!r}: the module {module_name} has no {class_name!r}")
        return self._check(parser, path)

    def _check(self, parser: object, path: str) -> type[_P]:
        if not isinstance(parser, type) or not issubclass(parser, self._kind):
            raise ConfigError(
                f"{self._what} {path!r} is {shown(parser)}; it must be a subclass of octavo.parsers.base."
                f"{self._kind.__name__}"
            )
        return parser


def load_plugin(path: str) -> None:
    """Import a plugin, a Python file or the name of a module, which registers its parsers.

    Raises:
        ConfigError: it can't be imported.
    """
    what = "parser plugin"
    if not path.endswith(".py"):
        _imported(path, what)
        return
    file = Path(path).expanduser()
    spec = importlib.util.spec_from_file_location(f"octavo_plugin_{file.stem}", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ConfigError(f"{what} {path!r} is no file; give the path of a Python file, or the name of a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # foreign code
        raise ConfigError(f"{what} {path!r} can't be imported: {type(error).__name__}: {error}") from error


def _imported(name: str, what: str) -> object:
    try:
        return importlib.import_module(name)
    except Exception as error:  # foreign code
        raise ConfigError(f"{what}: the module {name!r} can't be imported: {type(error).__name__}: {error}") from error


TOOL_PARSERS = ParserRegistry(
    ToolParser,
    "tool call parser",
    {
        "deepseek_v3": "tool.deepseek:DeepSeekToolParser",
        "deepseek_v31": "tool.deepseek:DeepSeekToolParser",
        "functiongemma": "tool.gemma:GemmaToolParser",
        "gemma": "tool.gemma:GemmaToolParser",
        "gemma4": "tool.gemma:GemmaToolParser",
        "glm45": "tool.glm:GlmToolParser",
        "glm47": "tool.glm:GlmToolParser",
        "granite": "tool.tagged_json:GraniteToolParser",
        "granite4": "tool.tagged_json:HermesToolParser",
        "hermes": "tool.tagged_json:HermesToolParser",
        "kimi_k2": "tool.kimi:KimiToolParser",
        "llama3_json": "tool.llama_json:LlamaJsonToolParser",
        "llama4_json": "tool.llama_json:LlamaJsonToolParser",
        "llama4_pythonic": "tool.pythonic:PythonicToolParser",
        "mistral": "tool.mistral:MistralToolParser",
        "openai": "tool.openai:OpenAIToolParser",
        "pythonic": "tool.pythonic:PythonicToolParser",
        "qwen3_coder": "tool.qwen_coder:QwenCoderToolParser",
        "qwen3_xml": "tool.qwen_coder:QwenCoderToolParser",
    },
)
REASONING_PARSERS = ParserRegistry(
    ReasoningParser,
    "reasoning parser",
    {
        "deepseek_r1": "reasoning.think_tags:DeepSeekR1Parser",
        "deepseek_v3": "reasoning.think_tags:ThinkParser",
        "gemma4": "reasoning.think_tags:Gemma4Parser",
        "glm45": "reasoning.think_tags:ThinkParser",
        "glm47": "reasoning.think_tags:ThinkParser",
        "gpt_oss": "reasoning.harmony:HarmonyReasoningParser",
        "granite": "reasoning.think_tags:GraniteParser",
        "kimi_k2": "reasoning.think_tags:ThinkParser",
        "mistral": "reasoning.think_tags:MistralParser",
        "openai_gptoss": "reasoning.harmony:HarmonyReasoningParser",
        "qwen3": "reasoning.think_tags:ThinkParser",
        "seed_oss": "reasoning.think_tags:SeedParser",
        "think": "reasoning.think_tags:ThinkParser",
    },
)
