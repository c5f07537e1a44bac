"""Compiles the kernels of a model's steps while the first steps are prepared, many of them at a time.

A kernel in Triton is compiled when it is first started, and takes a quarter of a second to two; a model has some
dozens. Here a twin of the model without memory takes steps of every kind: what its layers would start is compiled
side by side, and found by the steps to come. What is left out here is compiled when it is needed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from octavo.attention.base import AttentionBackend
from octavo.config import EngineConfig, KVGroupSpec
from octavo.layers.base import attach_attention, attach_kernels
from octavo.loading.load import build_model
from octavo.log import get_logger
from octavo.platforms.base import Platform
from octavo.worker.step_buffers import StepBuffers, TokenTable
from octavo.worker.step_graph import Forward

logger = get_logger(__name__)

_DECODE_SIZES = (1, 2, 4, 8, 16, 32, 64)  # requests: each has kernels or tiles of its own
_SHORT_PROMPT = 64  # tokens: attention has another kernel where there are few queries


@contextmanager
def compile_ahead(
    config: EngineConfig,
    platform: Platform,
    backend: AttentionBackend,
    groups: tuple[KVGroupSpec, ...],
    block_shape: tuple[int, ...],
) -> Iterator[None]:
    """In this block, and by its end, what steps of decoding, of prompts and of both need is compiled.

    A model with quantized weights is left out, and one whose attention is another package's, which takes no tensors
    without memory.

    Args:
        block_shape: of one layer's KV cache with a single block.
    """
    compiling = platform.compiling(partial(_start_kernels, config, platform, backend, groups, block_shape))
    if compiling is None or config.model.quantization is not None or not backend.compiles_ahead:
        yield
        return
    started = time.perf_counter()
    with compiling:
        yield
    logger.info("kernels were compiled, and steps prepared beside them, in %.1f s", time.perf_counter() - started)


@torch.inference_mode()
def _start_kernels(
    config: EngineConfig,
    platform: Platform,
    backend: AttentionBackend,
    groups: tuple[KVGroupSpec, ...],
    block_shape: tuple[int, ...],
) -> None:
    """Start the kernels of steps of every kind on tensors without memory."""
    nowhere = torch.device("meta")
    model = build_model(config.model, nowhere)
    attach_kernels(model, platform.kernels)
    attach_attention(model, backend, groups)
    scheduler = config.scheduler
    buffers = StepBuffers(
        max_num_tokens=scheduler.max_num_batched_tokens,
        max_num_seqs=scheduler.max_num_seqs,
        max_blocks=-(-scheduler.max_model_len // config.cache.block_size),
        num_groups=len(groups),
        device=nowhere,
    )
    num_layers = 1 + max(layer_id for group in groups for layer_id in group.layer_ids)
    cache = torch.empty(block_shape, dtype=getattr(torch, config.cache.dtype), device=nowhere)
    forward = Forward(model, backend, groups, [cache] * num_layers, buffers, TokenTable(1, 1, nowhere))
    sampling = platform.kernels.sampling
    for num_tokens, num_requests, max_query_len in _steps(scheduler.max_num_seqs, scheduler.max_num_batched_tokens):
        hidden = forward(
            num_tokens=num_tokens,
            num_requests=num_requests,
            max_query_len=max_query_len,
            max_seq_len=scheduler.max_model_len,
            isolated=max_query_len == 1,
        )
        logits = model.compute_logits(hidden[:num_requests])
        sampling.argmax(logits)
        sampling.draw_on_device(logits, *(column.tensor[:num_requests] for column in buffers.draw))


def _steps(max_num_seqs: int, max_num_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Numbers of tokens, of requests, and of the most new tokens of one, in the order in which a start needs them.

    Prompts of one and of several requests, of equal and of any lengths, short ones too, then decoding.
    """
    for requests in sorted({1, 4, 8, max_num_seqs}, reverse=True):
        if (queries := max_num_tokens // requests) > 1 and requests <= max_num_seqs:
            yield requests * queries, requests, queries
            yield requests * queries, requests, requests * queries
    if max_num_tokens > _SHORT_PROMPT:
        yield _SHORT_PROMPT, 1, _SHORT_PROMPT
        if max_num_seqs > 1:
            yield _SHORT_PROMPT + 1, 2, _SHORT_PROMPT
    yield max_num_seqs, max_num_seqs, 1
    for requests in reversed(_DECODE_SIZES):
        if requests < max_num_seqs:
            yield requests, requests, 1
