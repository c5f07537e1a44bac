"""Turn: a chat completion made ready for the engine, whatever API asked for it.

Its prompt, its parameters, and how its outputs are read; the shape of the answer is the API's own matter.
"""

from __future__ import annotations

from typing import NamedTuple

from fastapi import Request

from octavo.engine.inputs import Prompt
from octavo.sampling_params import SamplingParams
from octavo.server.prompts import chat_prompt
from octavo.server.protocol.chat import ChatCompletionRequest
from octavo.server.reply import ReplyPlan
from octavo.server.state import engine_of, formats_of, settings_of


class Turn(NamedTuple):
    prompt: Prompt
    params: SamplingParams
    plan: ReplyPlan


async def prepared(request: Request, body: ChatCompletionRequest, max_tokens: int | None) -> Turn:
    """The turn that `body` asks for. `max_tokens` is what the answer needs where the prompt is to be cut to fit.

    Raises:
        RequestError: a field that is out of range or does not go with another, or messages that do not fit.
    """
    engine, settings = engine_of(request), settings_of(request)
    params = body.sampling_params(engine.defaults.fields, engine.model_config.max_logprobs)
    prompt = await chat_prompt(engine, settings, body, max_tokens)
    plan = ReplyPlan(
        formats_of(request),
        body.tool_request(),
        prompt,
        engine.tokenizer,
        include_reasoning=body.include_reasoning is not False,
    )
    plan.prepare(params)
    return Turn(prompt, params, plan)
