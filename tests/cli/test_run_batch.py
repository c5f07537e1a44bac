"""`octavo run-batch`: with a server, and with an application in its own process."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from local_server import App, Reply, serving

from octavo.cli import run_batch
from octavo.config import EngineArgs
from octavo.errors import ConfigError, EngineError


def handler(path: str, headers: dict[str, str], body: Any) -> Reply:
    return Reply({"data": [{"id": "m"}]}) if path == "/v1/models" else Reply({"path": path, "got": body})


def run(*args: str) -> int:
    parser = argparse.ArgumentParser()
    run_batch.add_arguments(parser)
    return run_batch.run(parser.parse_args(args))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    fields = {"method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "p"}}
    lines = [json.dumps({"custom_id": name, **fields}) for name in "abc"]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return ["-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl")]


def test_with_a_server(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    app = App(handler)
    with serving(app) as url:
        assert run(*files, "--url", url, "--api-key", "k") == 0
        assert "3 succeeded, 0 failed;" in capsys.readouterr().out
        with Path(files[1]).open("a", encoding="utf-8") as file:
            file.write("\nbroken\n")
        assert run(*files, "--url", url, "--max-concurrency", "1") == 1
        assert "0 succeeded, 1 failed, 3 done before;" in capsys.readouterr().out
    assert app.asked[1][1]["authorization"] == "Bearer k"
    results = [json.loads(line) for line in Path(files[3]).read_text(encoding="utf-8").splitlines()]
    assert sorted(result["custom_id"] or "" for result in results) == ["", "a", "b", "c"]


def test_with_an_engine_of_its_own(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App(handler)
    life: list[Any] = []

    @contextlib.asynccontextmanager
    async def running_app(args: EngineArgs, settings: Any) -> AsyncIterator[App]:
        life.append(args.max_num_seqs)
        yield app
        life.append("stopped")

    for name, members in (("run", {"running_app": running_app}), ("settings", {"ServerSettings": SimpleNamespace})):
        module = ModuleType(f"octavo.server.{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    assert run(*files, "--max-num-seqs", "4") == 0
    assert life == [4, "stopped"]
    assert "3 succeeded" in capsys.readouterr().out
    assert len(app.asked) == 3


def test_what_can_not_work_is_refused_at_once(files: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        run("-i", str(tmp_path / "none"), "-o", files[3])
    with pytest.raises(ConfigError, match="it is the input"):
        run("-i", files[1], "-o", files[1])
    with pytest.raises(ConfigError, match="--max-concurrency must be 1 or more"):
        run(*files, "--max-concurrency", "0")
    with pytest.raises(ConfigError, match="--dtype has no effect with --url"):
        run(*files, "--url", "http://127.0.0.1:1", "--dtype", "float32")
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        run(*files, "--url", "nowhere")
    with pytest.raises(EngineError, match="octavo serve"):
        run(*files, "--url", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="block_size must be 1 or more"):
        run(*files, "--block-size", "0")
