"""Fixtures of the LLM tests: folders with tiny models, and LLMs over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from octavo import LLM


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """name -> folder, made once a session."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tiny_models.save(name, tmp_path_factory.mktemp(name))
        return made[name]

    return folder


@pytest.fixture(scope="session")
def make_llm(tiny_folder: Callable[[str], Path]) -> Callable[..., LLM]:
    """An LLM over a tiny model in float32, without a tokenizer."""

    def make(name: str, **options: Any) -> LLM:
        settings = {"dtype": "float32", "skip_tokenizer_init": True, "block_size": 16, "use_tqdm_on_load": False}
        return LLM(str(tiny_folder(name)), **(settings | options))

    return make
