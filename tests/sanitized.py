"""Runs pytest with another build of the C++ kernels: `python tests/sanitized.py EXTENSION.so PYTEST-ARGUMENTS`.

The module goes where imports look first, so the way octavo is installed does not matter.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest

NAME = "octavo._cpu"


def put_in_place(path: str) -> None:
    spec = spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    extension = module_from_spec(spec)
    spec.loader.exec_module(extension)
    sys.modules[NAME] = extension


if __name__ == "__main__":
    put_in_place(sys.argv[1])
    sys.exit(pytest.main(sys.argv[2:]))
