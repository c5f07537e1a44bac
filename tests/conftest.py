"""Fixtures of all tests: the threads that torch may use, and the packaged default model, alone and in an LLM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from octavo import LLM
from octavo.config import DEFAULT_MODEL
from octavo.loading.sources import fetch_model

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def default_gguf() -> Path:
    """The GGUF file of the default model, downloaded on the first run of all."""
    return fetch_model(DEFAULT_MODEL, progress=False)


@pytest.fixture(scope="session")
def default_llm(default_gguf: Path) -> LLM:
    """The packaged default model in bfloat16, shared by all tests that only read it."""
    return LLM(str(default_gguf), max_model_len=1024, use_tqdm_on_load=False)
