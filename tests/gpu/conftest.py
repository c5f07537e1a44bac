"""The default model's file, for the tests that need real weights."""

from __future__ import annotations

import os

import pytest

from octavo.config import DEFAULT_MODEL
from octavo.errors import OctavoError
from octavo.loading.sources import fetch_model


@pytest.fixture(scope="session")
def gguf() -> str:
    """Where nothing can be downloaded, what DEFAULT_MODEL_GGUF names."""
    named = os.environ.get("DEFAULT_MODEL_GGUF")
    if named:
        return named
    try:
        return str(fetch_model(DEFAULT_MODEL, progress=False))
    except OctavoError as error:
        pytest.skip(f"the default model is not there: {error}")
