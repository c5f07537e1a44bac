"""The default model's vocabulary, and a compiler for it, shared by the tests of grammars."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from octavo.config import EngineArgs
from octavo.engine.build import open_model
from octavo.engine.grammars import grammar_compiler
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.matcher import Matcher
from octavo.structured_params import StructuredOutputsParams
from octavo.tokenizer.load import Tokenizer


@pytest.fixture(scope="session")
def opened(default_gguf: Path) -> tuple[Tokenizer, GrammarCompiler]:
    model = open_model(EngineArgs(model=str(default_gguf)))
    tokenizer = model.tokenizer()
    assert tokenizer is not None
    return tokenizer, grammar_compiler(model, lambda: tokenizer)


@pytest.fixture(scope="session")
def compiler(opened: tuple[Tokenizer, GrammarCompiler]) -> GrammarCompiler:
    return opened[1]


Accepts = Callable[..., bool]


@pytest.fixture(scope="session")
def accepts(opened: tuple[Tokenizer, GrammarCompiler]) -> Accepts:
    """Whether a structure allows a text, token by token as masks say, to its end: accepts(text, regex=...)."""
    tokenizer, compiler = opened

    def allowed(matcher: Matcher, token_id: int) -> bool:
        row = np.zeros(-(-len(tokenizer) // 32), np.int32)
        matcher.fill(row)
        return bool(row[token_id // 32] >> (token_id % 32) & 1)

    def accept(text: str, **structure: object) -> bool:
        matcher = compiler.compile(StructuredOutputsParams(**structure))  # type: ignore[arg-type]
        for token_id in tokenizer.encode(text, add_special_tokens=False):
            if not allowed(matcher, token_id):
                return False
            assert matcher.consume(token_id), "the mask and the matcher disagree"
        return matcher.accepting

    return accept
