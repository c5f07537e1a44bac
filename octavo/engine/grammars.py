"""The compiler of a model's structured outputs: from its tokenizer to what grammars want to know. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable

from octavo.config import ModelConfig
from octavo.engine.opened import OpenedModel
from octavo.errors import UnsupportedModelError
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.vocabulary import Vocabulary
from octavo.tokenizer.load import Tokenizer


def grammar_compiler(opened: OpenedModel, tokenizer: Callable[[], Tokenizer | None]) -> GrammarCompiler:
    """The compiler of structured outputs. `tokenizer` is called when the first grammar comes."""

    def vocabulary() -> Vocabulary:
        found = tokenizer()
        assert found is not None, "structured outputs are refused where there is no tokenizer"
        return vocabulary_of(found, opened.config.model)

    return GrammarCompiler(vocabulary)


def vocabulary_of(tokenizer: Tokenizer, model: ModelConfig) -> Vocabulary:
    """The tokens of a model, as grammars want them.

    Raises:
        UnsupportedModelError: nothing ends an output of this model.
    """
    eos_token_ids = model.eos_token_ids or (() if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,))
    if not eos_token_ids:
        raise UnsupportedModelError("structured outputs need a model with an end-of-sequence token")
    return Vocabulary(
        token_bytes=[tokenizer.token_bytes[token_id] for token_id in range(model.vocab_size)],
        special_token_ids=sorted(i for i in tokenizer.all_special_ids if i < model.vocab_size),
        eos_token_ids=eos_token_ids,
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
    )
