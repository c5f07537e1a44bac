"""When a sequence ends by its tokens. Stop strings need text and are found in `engine/outputs.py`."""

from __future__ import annotations

from octavo.request import FinishReason, Request


def check_stop(request: Request) -> tuple[FinishReason, int | None] | None:
    """Whether the last output token ends the request: (reason, the stop token's id or None for end-of-sequence)."""
    num_output = len(request.output_token_ids)
    params = request.params
    if num_output >= params.min_tokens:
        token_id = request.output_token_ids[-1]
        if token_id in request.eos_token_ids:
            return FinishReason.STOP, None
        if token_id in params.stop_token_ids:
            return FinishReason.STOP, token_id
    if num_output >= request.max_tokens:
        return FinishReason.LENGTH, None
    return None
