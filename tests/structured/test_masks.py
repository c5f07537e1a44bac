"""Masks: the sets of tokens that are looked at as a whole make them faster, and change nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.config import EngineArgs
from octavo.engine.build import open_model
from octavo.engine.grammars import vocabulary_of
from octavo.structured.matcher import Matcher, TokenGrammars
from octavo.structured.vocabulary import Vocabulary

GRAMMARS = {
    "object": ("json", {"type": "object"}),
    "e-mail": ("json", {"type": "array", "items": {"type": "string", "format": "email"}}),
    "hostname": ("json", {"type": "string", "format": "hostname"}),
    "short": ("json", {"type": "array", "items": {"type": "string", "maxLength": 12}}),
    "pattern": ("json", {"type": "string", "pattern": "^[A-Z][a-z]+(-[A-Z0-9]{2,20})*$"}),
    "words": ("regex", r"([a-z]{3,20} )+[A-Za-z0-9]{1,15}\."),
    "fifteen": ("regex", r"[a-z]{15}[0-9]{15}[a-zA-Z0-9]{15}"),
    "any": ("regex", r"(\w+\n|.{5})*"),
    "program": ("lark", 'start: (NAME "=" NUMBER "\\n")+\nNAME: /[a-z_][a-z0-9_]*/\nNUMBER: /[0-9]+/\n%ignore / +/'),
}
NUM_STEPS = 40


@pytest.fixture(scope="module")
def vocabulary(default_gguf: Path) -> Vocabulary:
    model = open_model(EngineArgs(model=str(default_gguf)))
    tokenizer = model.tokenizer()
    assert tokenizer is not None
    return vocabulary_of(tokenizer, model.config.model)


def compiled(grammars: TokenGrammars, kind: str, source: Any) -> Matcher:
    if kind == "json":
        return grammars.json(json.dumps(source), {})
    return grammars.regex(source) if kind == "regex" else grammars.lark(source)


@pytest.mark.parametrize("name", GRAMMARS)
def test_masks_are_those_of_tokens_looked_at_one_by_one(name: str, vocabulary: Vocabulary) -> None:
    rng = random.Random(name)
    num_words = -(-len(vocabulary.token_bytes) // 32)
    one_by_one, mask = np.zeros(num_words, np.int32), np.zeros(num_words, np.int32)
    plain = compiled(TokenGrammars(vocabulary, slices=()), *GRAMMARS[name])
    prototype = compiled(TokenGrammars(vocabulary), *GRAMMARS[name])
    for _ in range(4):
        twin, matcher = plain.copy(), prototype.copy()
        for _ in range(NUM_STEPS):
            twin.fill(one_by_one)
            matcher.fill(mask)
            assert np.array_equal(mask, one_by_one)
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
            token_id = max(rng.choices(allowed, k=3), key=lambda i: vocabulary.token_bytes[i].isalnum())
            assert twin.consume(token_id)
            assert matcher.consume(token_id)
            if matcher.finished:
                break
