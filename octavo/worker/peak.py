"""What a step needs on a GPU beside weights and KV cache, measured: the largest step is run once, and the peak read.

It knows the device's allocator; what the memory is then used for is memory_plan's to say.
"""

from __future__ import annotations

import numpy as np
import torch

from octavo.attention.base import AttentionBackend
from octavo.config import KVGroupSpec
from octavo.models.base import CausalLM
from octavo.worker.step_buffers import StepBuffers, TokenTable
from octavo.worker.step_graph import Forward


@torch.inference_mode()
def measure_activations(
    model: CausalLM,
    backend: AttentionBackend,
    groups: tuple[KVGroupSpec, ...],
    block_shape: tuple[int, ...],
    cache_dtype: torch.dtype,
    *,
    max_num_tokens: int,
    max_num_seqs: int,
    device: torch.device,
) -> int:
    """Bytes at the peak of a step of `max_num_tokens` tokens shared out over `max_num_seqs` requests.

    Args:
        block_shape: of one layer's KV cache with a single block, to which all tokens of the step refer.
    """
    num_requests = min(max_num_seqs, max_num_tokens)
    cache = torch.zeros(block_shape, dtype=cache_dtype, device=device)
    buffers = StepBuffers(
        max_num_tokens=max_num_tokens,
        max_num_seqs=max_num_seqs,
        max_blocks=-(-max_num_tokens // backend.block_size),
        num_groups=len(groups),
        device=device,
    )
    lengths = np.full(num_requests, max_num_tokens // num_requests)
    lengths[: max_num_tokens % num_requests] += 1
    np.cumsum(lengths, out=buffers.query_start_loc.host[1 : num_requests + 1])
    buffers.seq_lens.host[:num_requests] = lengths
    for mapping in buffers.slot_mappings:
        mapping.host[:] = -1  # nothing is written
    buffers.upload(num_requests)
    num_layers = 1 + max(layer_id for group in groups for layer_id in group.layer_ids)
    forward = Forward(model, backend, groups, [cache] * num_layers, buffers, TokenTable(1, 1, device))
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    hidden = forward(
        num_tokens=max_num_tokens,
        num_requests=num_requests,
        max_query_len=int(lengths.max()),
        max_seq_len=int(lengths.max()),
    )
    logits = model.compute_logits(hidden[:num_requests])
    del hidden
    torch.softmax(logits, dim=-1, dtype=torch.float32).sort()  # what the costliest sampling holds at once
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del logits
    torch.cuda.empty_cache()
    return peak
