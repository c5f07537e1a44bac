"""`octavo schema check`: the list, the verdict and the exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo.cli.main import main


def check(schema: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    file = tmp_path / "schema.json"
    file.write_text(schema if isinstance(schema, str) else json.dumps(schema))
    with pytest.raises(SystemExit) as exit:
        main(["schema", "check", str(file)])
    assert isinstance(exit.value.code, int)
    said = capsys.readouterr()
    return exit.value.code, said.out + said.err


def test_a_schema_that_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "title": "A", "x-order": 1}}, "required": ["a"]}
    code, said = check(schema, tmp_path, capsys)
    assert code == 0
    enforced, ignored = said.split("ignored:")
    assert enforced.splitlines() == [
        "enforced:", "  #/type", "  #/properties", "  #/required", "  #/properties/a/type"
    ]  # fmt: skip
    assert "#/properties/a/title  (an annotation)" in ignored
    assert "#/properties/a/x-order  (no keyword of JSON Schema)" in ignored
    assert "accepted" in ignored


@pytest.mark.parametrize(
    ("schema", "code", "words"),
    [
        ({"items": {"contains": {}}}, 1, "unsupported:\n  #/items/contains  (it can't be enforced"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, 1, "refused: .*Unsatisfiable"),
        ("{", 2, "is no JSON"),
    ],
)
def test_refused(schema: Any, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, said = check(schema, tmp_path, capsys)
    assert found == code
    assert all(part in said for part in words.split(".*"))


def test_no_such_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["schema", "check", "/nowhere.json"])
    assert "can't be read" in capsys.readouterr().err
