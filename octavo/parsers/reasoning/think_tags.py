"""Reasoning between two tags, which comes first if it comes at all.

    <think>
    Let me see.
    </think>

    The answer.

White space next to the tags belongs to neither side. A reasoning that does not end has no answer. Tags that come later
are text like any other, except an end tag that is the only one: the model has opened its reasoning without a tag.
"""

from __future__ import annotations

from octavo.parsers.base import ReasoningParser
from octavo.parsers.source import SPACE, Steps, Tags, Trimmed


class ThinkParser(ReasoningParser):
    """<think>, if the prompt or the model writes it."""

    start_tag = "<think>"
    end_tag = "</think>"

    def read(self) -> Steps[None]:
        source, end = self.source, Tags(self.end_tag)
        source.hold()
        yield from source.run(SPACE)
        opens = yield from source.tag(Tags(self.start_tag))
        held = source.release()
        if opens or self.inside:
            self.spans.append(0)
            tag = yield from source.until(end, Trimmed(self.reasoning))
            self.spans.append(source.offset)
        else:
            self.content(held)
            tag = "" if self.closed else (yield from source.until(end, self.content))
        if tag:
            yield from source.run(SPACE)
        yield from source.rest(self.content)


class DeepSeekR1Parser(ThinkParser):
    """The reply begins within the reasoning, whether or not a tag says so."""

    begins_inside = True


class GraniteParser(ThinkParser):
    start_tag = "Here is my thought process:"
    end_tag = "Here is my response:"


class MistralParser(ThinkParser):
    needs_special_tokens = True
    start_tag = "[THINK]"
    end_tag = "[/THINK]"


class SeedParser(ThinkParser):
    start_tag = "<seed:think>"
    end_tag = "</seed:think>"


class Gemma4Parser(ThinkParser):
    needs_special_tokens = True
    start_tag = "<|channel>thought\n"
    end_tag = "<channel|>"
