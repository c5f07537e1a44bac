"""Which attention backend serves a model: the first of the platform's order that does not decline, or the named one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from octavo.attention.aiter import AiterFlashBackend, AiterUnifiedBackend
from octavo.attention.base import AttentionBackend, AttentionSpec
from octavo.attention.cpu_attn import CPUAttentionBackend
from octavo.attention.flash_attn import FlashAttentionBackend
from octavo.attention.flashinfer import FlashInferBackend
from octavo.attention.torch_attn import TorchAttentionBackend
from octavo.attention.torch_sdpa import TorchSDPABackend
from octavo.attention.triton_attn import RocmAttentionBackend, TritonAttentionBackend
from octavo.errors import ConfigError, UnsupportedModelError, unknown_name
from octavo.log import get_logger

logger = get_logger(__name__)

BACKENDS: dict[str, type[AttentionBackend]] = {
    backend.name: backend
    for backend in (
        CPUAttentionBackend,
        TorchAttentionBackend,
        TorchSDPABackend,
        TritonAttentionBackend,
        FlashAttentionBackend,
        FlashInferBackend,
        RocmAttentionBackend,
        AiterFlashBackend,
        AiterUnifiedBackend,
    )
}


def select_backend(
    requested: str | None, order: Sequence[str], specs: Sequence[AttentionSpec], device: torch.device, kernels: object
) -> AttentionBackend:
    """The backend for layers of `specs` on `device`: `requested`, or the first of `order` that serves them.

    `kernels` are the platform's: some backends are made of them.

    Raises:
        ConfigError: `requested` is unknown or declines.
        UnsupportedModelError: no backend of `order` serves the layers.
    """
    if requested is not None:
        name = requested.upper()
        if name not in BACKENDS:
            raise ConfigError(unknown_name("attention_backend", requested, BACKENDS))
        backend = _build(name, specs, device, kernels)
        if isinstance(backend, str):
            raise ConfigError(
                f"attention_backend {requested!r} can't serve this model: {backend}; leave it out for the best that "
                f"can (order on {device.type}: {', '.join(order)})"
            )
        logger.info("attention backend %s, as asked", name)
        return backend
    reasons: list[str] = []
    for name in order:
        backend = _build(name, specs, device, kernels)
        if not isinstance(backend, str):
            logger.info("attention backend %s%s", name, f" ({'; '.join(reasons)})" if reasons else "")
            return backend
        reasons.append(f"{name} declined: {backend}")
    raise UnsupportedModelError(f"no attention backend serves this model on {device.type}: {'; '.join(reasons)}")


def _build(name: str, specs: Sequence[AttentionSpec], device: torch.device, kernels: object) -> AttentionBackend | str:
    """The backend, or why it can't serve."""
    if (reason := _declines(name, specs, device, kernels)) is not None:
        return reason
    try:
        return BACKENDS[name](specs, kernels)
    except ImportError as error:
        return f"its package is installed and can't be imported ({error}), as what it needs is missing or does not fit"


def _declines(name: str, specs: Sequence[AttentionSpec], device: torch.device, kernels: object) -> str | None:
    if (
        len({(spec.num_kv_heads, spec.head_dim, spec.dtype, spec.kv_cache_dtype, spec.block_size) for spec in specs})
        > 1
    ):
        return "its layers have keys of several shapes"
    return next((reason for spec in specs if (reason := BACKENDS[name].declines(spec, device, kernels))), None)
