"""Source: text that comes in pieces, and the steps that read it.

A parser is written as if all its text were there. Each step is a generator: it yields when it needs text that has not
come, and goes on where it was when there is more. So what a parser finds does not depend on how the text was cut.
Whatever it reads is consumed at once, and what is held back is never longer than a tag: the work is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

_T = TypeVar("_T")
Steps = Generator[None, None, _T]  # yields to ask for more text, returns what was read
Write = Callable[[str], object]

SPACE = re.compile(r"[ \t\r\n]*")


def nowhere(text: str) -> None:
    """Takes text that belongs to nothing."""


class Trimmed:
    """Writes text without the white space at its beginning and its end."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._begun = False
        self._space: list[str] = []

    def __call__(self, text: str) -> None:
        if not self._begun:
            text = text.lstrip()
        stripped = text.rstrip()
        if stripped:
            self._begun = True
            self._write("".join(self._space) + stripped)
            self._space.clear()
        if len(stripped) < len(text):
            self._space.append(text[len(stripped) :])


class Tags:
    """Strings to look for. None may be a part of another, except its end: else what is found would depend on cuts."""

    def __init__(self, *tags: str) -> None:
        for tag in tags:
            for other in tags:
                assert tag == other or tag not in other or other.endswith(tag), (tag, other)
        self.longest = max(map(len, tags))
        self.pattern = re.compile("|".join(re.escape(tag) for tag in sorted(tags, key=len, reverse=True)))
        self.beginnings = {tag[:length] for tag in tags for length in range(len(tag))}

    def num_held(self, text: str, start: int) -> int:
        """How many characters at the end of `text[start:]` may be the beginning of a tag."""
        for length in range(min(self.longest - 1, len(text) - start), 0, -1):
            if text[-length:] in self.beginnings:
                return length
        return 0


class Source:
    def __init__(self) -> None:
        self.ended = False
        self._text = ""
        self._at = 0
        self._num_dropped = 0
        self._held: list[str] | None = None

    # ---- the side that has the text ----

    def add(self, text: str) -> None:
        self._num_dropped += self._at
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        """No more text comes."""
        self.ended = True

    # ---- the side that reads it ----

    @property
    def offset(self) -> int:
        """How many characters have been read."""
        return self._num_dropped + self._at

    def hold(self) -> None:
        """Keep what is read from here on, for `release`."""
        self._held = []

    def release(self) -> str:
        """What was read since `hold`."""
        held, self._held = self._held, None
        return "".join(held or ())

    def skip(self, num_chars: int = 1) -> None:
        """Pass over characters that were seen."""
        self._take(self._at + num_chars, nowhere)

    def peek(self) -> Steps[str]:
        """The next character, "" at the end."""
        while self._at == len(self._text):
            if self.ended:
                return ""
            yield
        return self._text[self._at]

    def char(self) -> Steps[str]:
        """The next character, read; "" at the end."""
        found = yield from self.peek()
        if found:
            self.skip()
        return found

    def until(self, tags: Tags, write: Write) -> Steps[str]:
        """Write the text before the first of `tags`. That tag, which is read; "" if the text ends before."""
        while True:
            match = tags.pattern.search(self._text, self._at)
            if match is not None:
                self._take(match.start(), write)
                self._take(match.end(), nowhere)
                return match.group()
            held = 0 if self.ended else tags.num_held(self._text, self._at)
            self._take(len(self._text) - held, write)
            if self.ended:
                return ""
            yield

    def tag(self, tags: Tags) -> Steps[str]:
        """The one of `tags` that comes next, which is read; "" if none does."""
        while True:
            match = tags.pattern.match(self._text, self._at)
            if match is not None:
                self._take(match.end(), nowhere)
                return match.group()
            rest = self._text[self._at : self._at + tags.longest]
            if self.ended or rest not in tags.beginnings:
                return ""
            yield

    def run(self, chars: re.Pattern[str], write: Write = nowhere) -> Steps[None]:
        """Write as many characters as the pattern, which is of the form `[...]*`, takes."""
        while True:
            match = chars.match(self._text, self._at)
            assert match is not None
            self._take(match.end(), write)
            if self._at < len(self._text) or self.ended:
                return
            yield

    def rest(self, write: Write) -> Steps[None]:
        """Write all that comes."""
        while True:
            self._take(len(self._text), write)
            if self.ended:
                return
            yield

    def _take(self, end: int, write: Write) -> None:
        if end > self._at:
            text = self._text[self._at : end]
            self._at = end
            if self._held is not None:
                self._held.append(text)
            write(text)
