"""How the outputs of a request are read: the formats that the server's model writes, and the pieces of a reply in them.

It stands between the engine's outputs and all APIs that have messages, and knows the shapes of none. A surface:

    plan = ReplyPlan(formats_of(request), tools, prompt, engine.tokenizer)   # tools: a ToolRequest
    plan.prepare(params)                                                     # before the request goes to the engine
    outputs = plan.outputs(generate(...))                                    # names tools in errors about their schemas
    reader = plan.reader()                                                   # one for each of the n choices
    pieces = reader.read(completion)                                         # of every output, deltas or the whole
    reader.finish_reason(completion), reader.num_reasoning_tokens

`octavo.parsers.pieces` says what the pieces are; `Reply.of(pieces)` joins them for an answer that is no stream.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from octavo.engine.inputs import Prompt
from octavo.errors import InvalidRequestError, RequestError
from octavo.log import get_logger
from octavo.outputs import CompletionOutput
from octavo.parsers.base import Opening, ReasoningParser, ToolParser
from octavo.parsers.forced import NamedCall, RequiredCalls, named_schema, required_schema, strict_tag
from octavo.parsers.pieces import Piece, ReasoningDelta
from octavo.parsers.recognise import recognised_reasoning_parser, recognised_tool_parser
from octavo.parsers.registry import REASONING_PARSERS, TOOL_PARSERS
from octavo.parsers.reply import ReplyParser
from octavo.parsers.tools import ToolRequest
from octavo.sampling_params import ReasoningMarkers, SamplingParams, StructuredOutputsParams
from octavo.server.generation import Outputs
from octavo.server.settings import ServerSettings
from octavo.tokenizer.chat_template import knows_tools
from octavo.tokenizer.detokenizer import IncrementalDetokenizer

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine
    from octavo.tokenizer.base import Tokenizer

logger = get_logger(__name__)

_NUM_LAST_TOKENS = 64  # of a prompt, in which it opens the reply
OWN_FORMAT = "hermes"  # of the calls that octavo describes to models whose template says nothing of tools


@dataclass(frozen=True, slots=True)
class ReplyFormats:
    """The formats of the model that is served; None: none, or none that is known."""

    tools: type[ToolParser] | None
    reasoning: type[ReasoningParser] | None

    @classmethod
    def choose(cls, engine: AsyncEngine, settings: ServerSettings) -> ReplyFormats:
        """Those that the settings name; "auto" looks at the chat template.

        Raises:
            ConfigError: a name that no parser has.
        """
        template = _templates(engine)
        tools, reasoning = settings.tool_call_parser, settings.reasoning_parser
        if tools == "auto":
            tools = _tool_format(template) or "none"
        if reasoning == "auto":
            reasoning = recognised_reasoning_parser(template) or "none"
        logger.info("format of tool calls: %s; format of reasoning: %s", tools, reasoning)
        return cls(
            None if tools == "none" else TOOL_PARSERS.get(tools),
            None if reasoning == "none" else REASONING_PARSERS.get(reasoning),
        )


def _tool_format(template: str) -> str | None:
    """The format of the calls of a model with this template, octavo's own where the template knows no tools."""
    try:
        if template and not knows_tools(template):
            return OWN_FORMAT
    except InvalidRequestError:  # it is told to those who send messages
        return None
    return recognised_tool_parser(template)


def _templates(engine: AsyncEngine) -> str:
    """The text of the template, or of all of them where there are several; empty: none."""
    own = None if engine.tokenizer is None else engine.tokenizer.chat_template
    if isinstance(own, dict):
        return own.get(engine.chat_template or "") or engine.chat_template or "\n".join(own.values())
    return engine.chat_template or own or ""


class ReplyPlan:
    """How the replies of one request are read.

    Args:
        include_reasoning: False: the reasoning is left out.

    Raises:
        InvalidRequestError: the model is to choose among tools, and the format of its calls is not known.
    """

    def __init__(
        self,
        formats: ReplyFormats,
        tools: ToolRequest,
        prompt: Prompt,
        tokenizer: Tokenizer | None,
        *,
        include_reasoning: bool = True,
    ) -> None:
        if tools.choice.kind == "auto" and formats.tools is None:
            raise InvalidRequestError(
                "this server does not know the format of the model's tool calls, so tool_choice 'auto' can't be used; "
                "start it with --tool-call-parser NAME, or set tool_choice to 'required', to a function or to 'none'",
                param="tool_choice",
            )
        self._tools = tools
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._include_reasoning = include_reasoning
        self._skip_special_tokens = True
        self._holds_to_schemas = False  # the engine does, to those of the tools
        self._tool_parser = formats.tools if tools.choice.kind == "auto" else None
        self._reasoning_parser = formats.reasoning if tokenizer is not None else None
        self._opening = Opening.UNSAID
        if self._reasoning_parser is not None and tokenizer is not None:
            end = prompt.text or tokenizer.decode(prompt.token_ids[-_NUM_LAST_TOKENS:])
            self._opening = self._reasoning_parser.opening(end)

    def prepare(self, params: SamplingParams) -> None:
        """Put into `params` what the reading needs and what the choice of tools demands.

        Raises:
            InvalidRequestError: a call is demanded, and another structure too; or the reasoning is bounded, and its end
                is not known.
        """
        parsers = (self._tool_parser, self._reasoning_parser)
        if any(parser is not None and parser.needs_special_tokens for parser in parsers):
            params.skip_special_tokens = False
        self._skip_special_tokens = params.skip_special_tokens
        params.reasoning_markers = self._markers()
        if params.thinking_token_budget is not None and self._reasoning_parser is None:
            raise InvalidRequestError(
                "thinking_token_budget is given, but this server does not know how the model's reasoning ends; leave "
                "it out, or start the server with --reasoning-parser NAME",
                param="thinking_token_budget",
            )
        structure: dict[str, Any] = {}
        if self._tools.is_forced:
            structure = {"json": self._schema()}
        elif self._tool_parser is not None and params.structured_outputs is None:
            tag = strict_tag(self._tools.tools, self._tool_parser)
            structure = {} if tag is None else {"structural_tag": tag}
        self._holds_to_schemas = bool(structure)
        if not structure:
            return
        if params.structured_outputs is not None:
            raise InvalidRequestError(
                "tool_choice demands a call, and the request demands another form of the output too; leave one out",
                param="tool_choice",
            )
        # White space costs tokens, and is what a small or hot model loses itself in.
        params.structured_outputs = StructuredOutputsParams(**structure, whitespace_pattern=" ?")

    async def outputs(self, outputs: Outputs) -> Outputs:
        """The engine's outputs of this request, whose errors about the tools' schemas name the tools."""
        async with aclosing(outputs):
            try:
                async for item in outputs:
                    yield item
            except RequestError as error:
                if not self._holds_to_schemas or not (error.param or "").startswith("structured_outputs"):
                    raise
                raise InvalidRequestError(
                    f"the schemas of the tools can't be enforced: {error}", param="tools"
                ) from None

    def reader(self) -> ReplyReader:
        """What reads one choice."""
        reasoning = None if self._reasoning_parser is None else self._reasoning_parser(self._opening)
        tools: ToolParser | None = None
        by_name = self._tools.by_name
        if self._tools.choice.kind == "required":
            tools = RequiredCalls(by_name)
        elif self._tools.choice.kind == "named":
            tools = NamedCall(by_name)
        elif self._tool_parser is not None:
            tools = self._tool_parser(by_name)
            if tools.reads_reasoning:
                reasoning = None
        tells_reasoning = reasoning is not None or (tools is not None and tools.reads_reasoning)
        return ReplyReader(
            ReplyParser(reasoning, tools, parallel=self._tools.parallel),
            count=_TokenOffsets(self._detokenizer()) if tells_reasoning else None,
            include_reasoning=self._include_reasoning,
        )

    def _schema(self) -> dict[str, object]:
        by_name = self._tools.by_name
        if self._tools.choice.kind == "named":
            return named_schema(next(iter(by_name.values())))
        return required_schema(by_name, parallel=self._tools.parallel)

    def _markers(self) -> ReasoningMarkers | None:
        """Where the reasoning ends, as the engine needs it."""
        parser, tokenizer = self._reasoning_parser, self._tokenizer
        if parser is None or tokenizer is None or self._opening is Opening.CLOSED:
            return None
        begins_inside = self._opening is Opening.INSIDE or parser.begins_inside

        def ids(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)

        return ReasoningMarkers(
            start_token_ids=[] if begins_inside else ids(parser.start_tag),
            end_token_ids=ids(parser.end_tag),
            budget_end_token_ids=None if parser.budget_end is None else ids(parser.budget_end),
        )

    def _detokenizer(self) -> IncrementalDetokenizer:
        assert self._tokenizer is not None
        return IncrementalDetokenizer(
            self._tokenizer, self._prompt.token_ids, skip_special_tokens=self._skip_special_tokens
        )


class _TokenOffsets:
    """Where in the text each token ends."""

    def __init__(self, detokenizer: IncrementalDetokenizer) -> None:
        self._push = detokenizer.push
        self._offset = 0
        self._ends: list[int] = []

    def add(self, token_ids: list[int]) -> None:
        for token_id in token_ids:
            self._offset += len(self._push(token_id))
            self._ends.append(self._offset)

    def num_within(self, begin: float, end: float) -> int:
        """How many tokens lie in a part of the text."""
        first = bisect_right(self._ends, begin) if begin else 0
        return bisect_right(self._ends, end) - first


class ReplyReader:
    """One choice of a request, output by output."""

    def __init__(self, parser: ReplyParser, *, count: _TokenOffsets | None, include_reasoning: bool) -> None:
        self._parser = parser
        self._count = count
        self._include_reasoning = include_reasoning

    def read(self, completion: CompletionOutput) -> list[Piece]:
        """The pieces that an output adds; all of them, if it is the whole."""
        pieces = self._parser.feed(completion.text)
        if completion.finish_reason is not None:
            pieces += self._parser.finish()
        if self._count is not None:
            self._count.add(completion.token_ids)
        if not self._include_reasoning:
            pieces = [piece for piece in pieces if not isinstance(piece, ReasoningDelta)]
        return pieces

    def finish_reason(self, completion: CompletionOutput) -> str | None:
        """Why it ended: "tool_calls" where it stopped by itself and has some, else as the engine says."""
        return (
            "tool_calls" if completion.finish_reason == "stop" and self._parser.num_calls else completion.finish_reason
        )

    @property
    def tells_reasoning(self) -> bool:
        """Whether reasoning is told from the answer."""
        return self._count is not None

    @property
    def num_reasoning_tokens(self) -> int:
        """How many tokens, of those read so far, are reasoning or its tags."""
        if self._count is None:
            return 0
        spans = self._parser.spans
        ends = [*spans[1::2], math.inf] if len(spans) % 2 else spans[1::2]
        return sum(self._count.num_within(begin, end) for begin, end in zip(spans[::2], ends, strict=True))
