"""Names of models to paths: local files, a Hugging Face hub that refuses, hangs or is not there, and ModelScope."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils._paths import filter_repo_objects
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from octavo.errors import ModelNotFoundError
from octavo.loading import sources
from octavo.loading.sources import fetch_model

COMMIT = "a" * 40


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub cache that holds namespace/cached."""
    repository = tmp_path / "hub" / "models--namespace--cached"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "config.json").write_text("{}")
    return tmp_path / "hub"


def test_local_folder_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "namespace" / "name").mkdir(parents=True)
    (tmp_path / "model.gguf").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch_model("namespace/name") == Path("namespace/name")
    assert fetch_model("~/namespace/name") == tmp_path / "namespace" / "name"
    assert fetch_model("model.gguf") == Path("model.gguf")


@pytest.mark.parametrize("name", ["./x", "../x", "/no/such", "~/x", "~nobody-of-that-name/x", "x.gguf", "a/b/c"])
def test_what_looks_like_a_path_is_not_looked_for_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="looks like a path, but there is nothing at"):
        fetch_model(name)


@pytest.mark.parametrize("name", ["a b/c", "a/b--c", "a/..", "-a/b", "a/b" + "c" * 100, "a/ü"])
def test_no_hub_id(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no id on a hub: that has the form namespace/name"):
        fetch_model(name)


def test_a_name_that_is_nearly_a_packaged_model() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean 'smollm2-135m-instruct'"):
        fetch_model("smollm2-135m-instuct")


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelNotFoundError, match=r"is a file, but not a \.gguf file; give a folder"):
        fetch_model(str(tmp_path / "model.safetensors"))


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers by the repository's name, as the real hub does when it refuses."""

    def do_GET(self) -> None:
        answers = {"gated": (403, "GatedRepo"), "missing": (401, ""), "old": (404, "RevisionNotFound")}
        status, code = next(answer for name, answer in answers.items() if f"/{name}" in self.path)
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def fetch_in_process(endpoint: str, cache: Path, names: list[str], **env: str) -> list[str]:
    """What fetch_model answers in a process whose hub is `endpoint`: huggingface_hub reads its variables once."""
    code = f"""
import time
from octavo.errors import ModelNotFoundError
from octavo.loading import sources
sources._HUB_TIMEOUT = 0.3
for name in {names!r}:
    started = time.monotonic()
    try:
        print("path", sources.fetch_model(name, revision=None, download_dir={str(cache)!r}))
    except ModelNotFoundError as error:
        print("error", error)
    assert time.monotonic() - started < 5
"""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HF_ENDPOINT": endpoint, "PYTHONPATH": str(Path(sources.__file__).parents[2]), **env}
    run = [sys.executable, "-c", code]
    result = subprocess.run(run, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return result.stdout.splitlines()


def test_a_hub_that_refuses(hub: str, cache: Path) -> None:
    gated, missing, old = fetch_in_process(hub, cache, ["n/gated", "n/missing", "n/old"], HF_HUB_OFFLINE="0")
    assert "'n/gated' is gated" in gated
    assert "hf_token or HF_TOKEN" in gated
    assert "'n/missing' is not on the Hugging Face hub, or is private" in missing
    assert "'n/old' has no revision" in old


def test_no_network(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never answers
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error, path = fetch_in_process(endpoint, cache, ["n/absent", "namespace/cached"], HF_HUB_OFFLINE="0")
    assert "the hub can't be reached" in error
    assert "give a folder" in error
    assert path == f"path {cache}/models--namespace--cached/snapshots/{COMMIT}"


def test_offline_mode(cache: Path) -> None:
    names = ["n/absent", "namespace/cached"]
    error, path = fetch_in_process("http://127.0.0.1:9", cache, names, HF_HUB_OFFLINE="1")
    assert "offline mode is on" in error
    assert path.endswith(COMMIT)


class FakeHub:
    """Takes the place of the hub's client; keeps what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.asked: dict[str, Any] = {}
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, **given: None)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def snapshot_download(self, name: str, **given: Any) -> str:
        self.asked = {"name": name, "bars": not are_progress_bars_disabled(), **given}
        return str(self.folder)

    def fetches(self, path: str) -> bool:
        allowed, ignored = self.asked["allow_patterns"], self.asked["ignore_patterns"]
        return list(filter_repo_objects([path], allow_patterns=allowed, ignore_patterns=ignored)) == [path]


def test_what_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = FakeHub(monkeypatch, tmp_path)
    (tmp_path / "model.safetensors").touch()
    path = fetch_model("n/m", revision="v1", download_dir="/d", token="secret", progress=False)
    assert path == tmp_path
    asked = {key: hub.asked[key] for key in ("name", "revision", "cache_dir", "token", "local_files_only", "bars")}
    assert asked == {
        "name": "n/m",
        "revision": "v1",
        "cache_dir": "/d",
        "token": "secret",
        "local_files_only": False,
        "bars": False,
    }
    assert not are_progress_bars_disabled()
    for wanted in ("config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        assert hub.fetches(wanted)
    for unwanted in ("pytorch_model.bin", "original/consolidated.00.pth", "consolidated.safetensors", "README.md"):
        assert not hub.fetches(unwanted)


def test_pickled_weights_are_fetched_when_there_are_no_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = FakeHub(monkeypatch, tmp_path)
    fetch_model("n/m")
    assert hub.fetches("pytorch_model.bin")
    assert hub.fetches("pytorch_model-00001-of-00002.bin")
    assert hub.fetches("config.json")
    assert not hub.fetches("training_args.bin")


def test_dummy_weights_are_not_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = FakeHub(monkeypatch, tmp_path)
    fetch_model("n/m", load_format="dummy")
    assert hub.fetches("config.json")
    assert not hub.fetches("model.safetensors")


@pytest.mark.parametrize("variable", ["OCTAVO_USE_MODELSCOPE", "VLLM_USE_MODELSCOPE"])
def test_modelscope(monkeypatch: pytest.MonkeyPatch, variable: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}
    (tmp_path / "model.safetensors").touch()

    def snapshot_download(name: str, **given: Any) -> str:
        asked.update(name=name, **given)
        return str(tmp_path)

    fake = types.ModuleType("modelscope")
    fake.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope", fake)
    monkeypatch.setenv(variable, "1")
    assert fetch_model("n/m", revision="v2", download_dir="/d") == tmp_path
    assert (asked["name"], asked["revision"], asked["cache_dir"]) == ("n/m", "v2", "/d")
    assert "*.safetensors" in json.dumps(asked["allow_patterns"])


def test_modelscope_fails_or_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_USE_MODELSCOPE", "1")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelNotFoundError, match=r"pip install 'octavo\[modelscope\]'"):
        fetch_model("n/m")

    def snapshot_download(name: str, **given: Any) -> str:
        raise RuntimeError("no such model\nand more")

    fake = types.ModuleType("modelscope")
    fake.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope", fake)
    with pytest.raises(ModelNotFoundError, match=r"ModelScope: no such model\. Check the id"):
        fetch_model("n/m")
