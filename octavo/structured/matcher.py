"""Matcher: where an output stands in its grammar, and which tokens may come next.

The only module that knows llguidance. Its matchers never raise for what a grammar or a token does: they fall into an
error state; here that becomes a GrammarError on compiling, and a refused token later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import llguidance
import numpy as np
from llguidance.gbnf_to_lark import gbnf_to_lark
from numpy.typing import NDArray

from octavo.structured.vocabulary import Vocabulary

# What one mask may cost: a step waits for it. The defaults of llguidance allow several times as much.
_LIMITS = llguidance.LLParserLimits(step_lexer_fuel=100_000, max_lexer_states=30_000, verbose_errors=False)


# Sets of tokens that are looked at as a whole where a place of a grammar says the same of all: words, which e-mail
# addresses, names and identifiers are made of, then what strings of JSON may hold. The rest are looked at one by one.
_WHITE_SPACE, *_IN_STRINGS = llguidance.LLTokenizer.json_slices()
_SLICES = [_WHITE_SPACE, "[a-z]{1,16}", "[a-zA-Z0-9]{1,16}", *_IN_STRINGS]


class GrammarError(ValueError):
    """A grammar that can't be compiled, in the words of the compiler."""


class _Shared:
    """What all copies of a matcher have in common."""

    spent = False


class Matcher:
    """One output on its way through a grammar.

    Copies are cheap: they share an automaton, which grows as outputs meet new places of the grammar.
    """

    def __init__(self, matcher: llguidance.LLMatcher, shared: _Shared | None = None) -> None:
        self._matcher = matcher
        self._shared = shared or _Shared()

    def copy(self) -> Matcher:
        """Another output at the same place."""
        return Matcher(self._matcher.deep_copy(), self._shared)

    @property
    def spent(self) -> bool:
        """Whether the automaton has reached its bounds, so that copies are of no use any more: compile it anew."""
        return self._shared.spent

    def fill(self, row: NDArray[np.int32]) -> None:
        """Write which tokens may come next: bit i % 32 of word i // 32 for token i. Lets go of the interpreter lock."""
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)

    def consume(self, token_id: int) -> bool:
        """Go on by one token. False if the grammar does not allow it, or got too complex: then the output is over."""
        if self._matcher.consume_token(token_id):
            return True
        self._shared.spent |= "too " in self._matcher.get_error().lower()  # many items, expressions, states
        return False

    @property
    def accepting(self) -> bool:
        """Whether the output may end here."""
        return self._matcher.is_accepting()

    @property
    def finished(self) -> bool:
        """Whether the output can only end here."""
        return self._matcher.is_stopped()

    @property
    def failed(self) -> bool:
        return self._matcher.is_error()


class TokenGrammars:
    """Compiles grammars for the tokens of one vocabulary.

    `slices`, regexes of sets of tokens, change the speed of masks and nothing else.
    """

    def __init__(self, vocabulary: Vocabulary, slices: Sequence[str] = _SLICES) -> None:
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Tokens(vocabulary)),
            eos_token=list(vocabulary.eos_token_ids),
            slices=list(slices),
        )
        self._num_words = -(-len(vocabulary.token_bytes) // 32)
        self._eos_token_ids = set(vocabulary.eos_token_ids)

    def json(self, schema: str, options: Mapping[str, Any]) -> Matcher:
        """`options` are llguidance's for JSON. Raises GrammarError, as the others."""
        overrides: Any = dict(options)
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=overrides)
        except ValueError as error:
            raise GrammarError(_first_words(str(error))) from None
        return self._compile(grammar)

    def regex(self, pattern: str) -> Matcher:
        return self._compile(llguidance.LLMatcher.grammar_from_regex(pattern))

    def lark(self, grammar: str) -> Matcher:
        return self._compile(llguidance.LLMatcher.grammar_from_lark(grammar))

    def _compile(self, grammar: str) -> Matcher:
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, limits=_LIMITS, log_level=0)
        if matcher.is_error():
            raise GrammarError(_first_words(matcher.get_error()))
        self._try(matcher.deep_copy())
        return Matcher(matcher)

    def _try(self, matcher: llguidance.LLMatcher) -> None:
        """The first steps, which show what was not looked at while compiling."""
        row = np.zeros(self._num_words, np.int32)
        for step in range(2):
            matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            if matcher.is_error():
                message = matcher.get_error()
                if message.startswith("NoExtension"):
                    raise GrammarError("it allows no output at all")
                raise GrammarError(f"it is too complex: {_first_words(message)}")
            allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
            if step == 0 and set(allowed.tolist()) <= self._eos_token_ids:
                raise GrammarError("it allows the empty output only")
            if not matcher.consume_token(int(allowed[-1])):
                raise GrammarError(f"it is too complex: {_first_words(matcher.get_error())}")
            if matcher.is_stopped():
                return


def gbnf_as_lark(grammar: str) -> str:
    """A grammar in GBNF in Lark's syntax.

    Raises:
        GrammarError: it is no GBNF.
    """
    try:
        return gbnf_to_lark(grammar)
    except RecursionError:
        raise GrammarError("it is nested too deeply") from None
    except Exception as error:  # the converter raises plain exceptions
        raise GrammarError(f"neither Lark (with a rule `start`) nor GBNF (with a rule `root`): {error}") from error


class _Tokens:
    """A vocabulary under the names that llguidance asks for."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.token_bytes
        self.special_token_ids = vocabulary.special_token_ids
        self.eos_token_id = vocabulary.eos_token_ids[0]
        self.bos_token_id = None
        self._encode = vocabulary.encode

    def __call__(self, text: bytes | str) -> list[int]:
        return list(self._encode(text.decode("utf-8", "ignore") if isinstance(text, bytes) else text))


def _first_words(message: str) -> str:
    """A message of the compiler, short, on one line, without what it tells of itself."""
    message = message.split("<non-verbose/>")[0].split("while processing json-schema:")[0]
    text = " ".join(message.split())
    return text if len(text) <= 240 else text[:237] + "..."
