"""The default model's vocabulary as the gguf package reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from octavo.tokenizer.load import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def metadata(default_gguf: Path) -> dict[str, Any]:
    """`tokenizer.*` of the default model."""
    fields = gguf.GGUFReader(default_gguf).fields
    return {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}


@pytest.fixture(scope="session")
def tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    return load_tokenizer("model.gguf", metadata=metadata)
