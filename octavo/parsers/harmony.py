"""Harmony, the format of gpt-oss: a reply is a row of messages, each to a channel, some to a function.

    <|channel|>analysis<|message|>Let me look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather \
<|constrain|>json<|message|>{"city": "Rome"}<|call|>

"analysis" is reasoning, "final" is content, and so is "commentary" to nobody. Both kinds of parsers read it; that of
tool calls reads all of it alone.
"""

from __future__ import annotations

import re

from octavo.parsers.base import Parser, ToolParser
from octavo.parsers.json_arguments import call_with_json
from octavo.parsers.source import SPACE, Steps, Tags

_HEADER_END = Tags("<|message|>", "<|end|>", "<|return|>", "<|call|>")
_BODY_END = Tags("<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|channel|>")
_OPENING = Tags("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "to=")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")


def read_messages(parser: Parser) -> Steps[None]:
    """Read a row of messages. Where the parser is not one of tool calls, those are content."""
    source = parser.source
    num_content = num_reasoning = 0
    pending = ""  # the tag that began this message already
    while True:
        begin = source.offset - len(pending)
        if not pending:
            yield from source.run(SPACE)
            pending = yield from source.tag(_OPENING)
        if pending in ("<|end|>", "<|return|>", "<|call|>"):
            pending = ""
            continue
        header = [pending]
        if pending and pending != "<|message|>":
            tag = yield from source.until(_HEADER_END, header.append)
            if tag != "<|message|>":
                pending = ""
                if tag:
                    continue
                return
        elif not (yield from source.peek()):
            return
        text = "".join(header)
        channel, recipient = _CHANNEL.search(text), _RECIPIENT.search(text)
        if recipient is not None and isinstance(parser, ToolParser):
            pending = yield from call_with_json(parser, recipient.group(1).removeprefix("functions."), _BODY_END)
        elif channel is not None and channel.group(1) == "analysis":
            if num_reasoning:
                parser.reasoning("\n")
            parser.spans.append(begin)
            num_before = source.offset
            pending = yield from source.until(_BODY_END, parser.reasoning)
            parser.spans.append(source.offset)
            num_reasoning += source.offset > num_before
        else:
            if num_content:
                parser.content("\n")
            pending = yield from source.until(_BODY_END, parser.content)
            num_content += 1
        if not pending:
            return
        if pending not in ("<|start|>", "<|channel|>"):
            pending = ""
