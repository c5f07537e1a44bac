"""The examples of docs/structured_outputs.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import octavo
from octavo import LLM

PAGE = Path(octavo.__file__).parent.parent / "docs" / "structured_outputs.md"


def test_examples(default_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    examples = [block for block in blocks if not block.startswith("# not run")]
    assert len(examples) == 7
    monkeypatch.setattr(octavo, "LLM", lambda: default_llm)
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
