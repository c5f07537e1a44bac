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
from octavo.server.protocol.tools import ToolDefinition, chat_tools
from octavo.server.reply import ReplyPlan
from octavo.server.state import engine_of, formats_of, settings_of


class Turn(NamedTuple):
    prompt: Prompt
    params: SamplingParams
    plan: ReplyPlan


async def prepared(request: Request, chat: ChatCompletionRequest, *, include_reasoning: bool = True) -> Turn:
    """The turn that `chat` asks for.

    Raises:
        RequestError: a field that is out of range or does not go with another, or messages that do not fit.
    """
    engine, settings = engine_of(request), settings_of(request)
    tools = chat_tools(
        None if chat.tools is None else [ToolDefinition(**tool) for tool in chat.tools],
        chat.tool_choice,
        chat.parallel_tool_calls,
    )
    params = chat.sampling_params(engine.defaults.fields, engine.model_config.max_logprobs)
    prompt = await chat_prompt(engine, settings, chat, chat.max_completion_tokens)
    plan = ReplyPlan(formats_of(request), tools, prompt, engine.tokenizer, include_reasoning=include_reasoning)
    plan.prepare(params)
    return Turn(prompt, params, plan)
