"""The environment variables that octavo reads. No other module reads `os.environ`.

Each is a function, read when called, so that a process may set one before it builds an engine.
Third-party libraries read their own (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, PIP_* ...).
"""

from __future__ import annotations

import os
from pathlib import Path


def _flag(*names: str) -> bool:
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in names)


def cache_root() -> Path:
    """OCTAVO_CACHE_ROOT, else $XDG_CACHE_HOME/octavo, else ~/.cache/octavo: where fetched packages are unpacked."""
    given = os.environ.get("OCTAVO_CACHE_ROOT")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "octavo"


def use_modelscope() -> bool:
    """OCTAVO_USE_MODELSCOPE or VLLM_USE_MODELSCOPE is true: hub ids are taken from ModelScope."""
    return _flag("OCTAVO_USE_MODELSCOPE", "VLLM_USE_MODELSCOPE")


def hf_hub_offline() -> bool:
    """HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is true: nothing is downloaded, caches only."""
    return _flag("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def device() -> str:
    """OCTAVO_DEVICE (auto, cpu, cuda), default auto: the device to run on."""
    return os.environ.get("OCTAVO_DEVICE", "auto").strip().lower()


def cuda_home() -> Path:
    """CUDA_HOME or CUDA_PATH, else /usr/local/cuda: where CUDA's compiler is, if PATH does not say."""
    return Path(os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda")


def omp_num_threads() -> int | None:
    """OMP_NUM_THREADS, where it is a number of 1 or more: the threads of the kernels on a CPU, where
    `num_threads` does not say."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(given) if given.isdigit() and int(given) > 0 else None


def log_level() -> str:
    """OCTAVO_LOGGING_LEVEL (DEBUG, INFO, WARNING, ERROR), default INFO."""
    return os.environ.get("OCTAVO_LOGGING_LEVEL", "INFO").upper()


def max_n_sequences() -> int:
    """OCTAVO_MAX_N_SEQUENCES, default 16384: the highest `n` of one request."""
    return int(os.environ.get("OCTAVO_MAX_N_SEQUENCES", "16384"))


def api_keys() -> tuple[str, ...]:
    """OCTAVO_API_KEY and VLLM_API_KEY, those that are not empty: keys that a server asks for, or a client sends."""
    given = (os.environ.get(name, "") for name in ("OCTAVO_API_KEY", "VLLM_API_KEY"))
    return tuple(dict.fromkeys(key for key in given if key))
