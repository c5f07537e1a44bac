"""Values in other spellings than JSON's, written as JSON while they are read: Python's literals, and Gemma's.

No recursion and no `eval`: open brackets are on a stack of our own. A value that breaks is closed where it broke, so
that what was written is JSON all the same; one that the text cuts off stays open.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from octavo.parsers.json_text import json_string
from octavo.parsers.source import SPACE, Source, Steps, Tags, Write

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_LONGEST_NUMBER = 64  # of those that Python has to read
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_ESCAPED = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0",
    "\\": "\\", "'": "'", '"': '"', "/": "/", "\n": "",
}  # fmt: skip
_NUM_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_LISTS = re.compile(r"[\[(]*")
_CLOSING = {"[": "]", "(": ")"}


@dataclass(frozen=True, slots=True)
class Spelling:
    """How values are written.

    Attributes:
        quotes: the characters around strings with escapes.
        raw_quotes: tags around strings without escapes.
        word: what numbers, names and bare keys consist of, `[...]*`.
    """

    quotes: str
    raw_quotes: Tags | None
    word: re.Pattern[str]


PYTHON = Spelling("'\"", None, re.compile(r"[\w.+\-]*"))
GEMMA = Spelling('"', Tags("<escape>", '<|"|>'), re.compile(r"[^\[\]{}(),:\"<]*"))
_TRIPLE = Tags("'''", '"""')
_ESCAPE_OR_END = {quote: Tags(quote, "\\") for quote in ("'", '"', "'''", '"""')}
_END = {quote: Tags(quote) for quote in ("<escape>", '<|"|>')}


def literal(source: Source, write: Write, spelling: Spelling, *, before: str = "") -> Steps[bool]:
    """Read the value that begins here and write it as JSON, after the text `before`; nothing if there is no value.

    Returns:
        False: it breaks, or the text ends within it.
    """
    stack: list[str] = []  # the brackets that close what is open
    while True:
        char = yield from _next(source)
        if char not in stack[-1:]:
            if stack[-1:] == ["}"]:
                key = yield from _key(source, char, spelling)
                if key is None:
                    return (yield from _broken(source, stack, write))
                before += key
                char = yield from _next(source)
            if char == "{":
                source.skip()
                stack.append("}")
                write(before + "{")
                before = ""
                continue
            if char in ("[", "("):
                opened: list[str] = []
                yield from source.run(_LISTS, opened.append)
                text = "".join(opened)
                stack += [_CLOSING[bracket] for bracket in text]
                write(before + "[" * len(text))
                before = ""
                continue
            if not (yield from _scalar(source, char, before, write, spelling)):
                return (yield from _broken(source, stack, write))
            if not stack:
                return True
            char = yield from _next(source)
        before = ", "
        while char in stack[-1:]:
            source.skip()
            write("}" if stack.pop() == "}" else "]")
            if not stack:
                return True
            char = yield from _next(source)
        if char != ",":
            return (yield from _broken(source, stack, write))
        source.skip()


def as_json(text: str) -> str | None:
    """A Python literal, which is the whole text, as JSON; None: it is none."""
    source, written = Source(), list[str]()
    source.add(text.strip())
    source.end()
    try:
        next(literal(source, written.append, PYTHON))
    except StopIteration as stop:
        if stop.value and source.offset == len(text.strip()):
            return "".join(written)
    return None


def _next(source: Source) -> Steps[str]:
    yield from source.run(SPACE)
    return (yield from source.peek())


def _broken(source: Source, stack: list[str], write: Write) -> Steps[bool]:
    if (yield from source.peek()):
        for closing in reversed(stack):
            write("}" if closing == "}" else "]")
    return False


def _key(source: Source, char: str, spelling: Spelling) -> Steps[str | None]:
    """A key and its colon, as JSON; None: there is none."""
    texts: list[str] = []
    if not (yield from _scalar(source, char, "", texts.append, spelling)):
        return None
    if (yield from _next(source)) != ":":
        return None
    source.skip()
    key = "".join(texts)
    return f"{key}: " if key.startswith('"') else f'"{json_string(key)}": '


def _scalar(source: Source, char: str, before: str, write: Write, spelling: Spelling) -> Steps[bool]:
    """A string, a number or a word as JSON, after the text `before`. False: there is none, or the text ends in it."""
    if spelling.raw_quotes is not None and (quote := (yield from source.tag(spelling.raw_quotes))):
        write(f'{before}"')
        end = yield from source.until(_END[quote], lambda text: write(json_string(text)))
        if end:
            write('"')
        return bool(end)
    if char and char in spelling.quotes:
        quote = (yield from source.tag(_TRIPLE)) or (yield from source.char())
        write(f'{before}"')
        if not (yield from _quoted(source, quote, write)):
            return False
        write('"')
        return True
    texts: list[str] = []
    yield from source.run(spelling.word, texts.append)
    word = "".join(texts).strip()
    if word:
        write(before + _word(word))
    return bool(word)


def _quoted(source: Source, quote: str, write: Write) -> Steps[bool]:
    """The rest of a string in Python's escapes, without the quotes. False: the text ends within it."""
    while tag := (yield from source.until(_ESCAPE_OR_END[quote], lambda text: write(json_string(text)))):
        if tag != "\\":
            return True
        char = yield from source.char()
        if not char:
            return False
        if char in _NUM_HEX_DIGITS:
            write((yield from _by_number(source, char)))
        else:
            write(json_string(_ESCAPED.get(char, f"\\{char}")))
    return False


def _by_number(source: Source, kind: str) -> Steps[str]:
    """A character that is written by its number, as JSON has it; what is no number as it stands."""
    digits = ""
    while len(digits) < _NUM_HEX_DIGITS[kind]:
        char = yield from source.peek()
        if not char or char not in "0123456789abcdefABCDEF":
            return json_string(f"\\{kind}{digits}")
        source.skip()
        digits += char
    number = int(digits, 16)
    if number < 0x10000:
        return f"\\u{number:04x}"
    return json_string(chr(number) if number <= 0x10FFFF else f"\\{kind}{digits}")


def _word(word: str) -> str:
    """A number or a name as JSON."""
    if word in _WORDS:
        return _WORDS[word]
    if _NUMBER.fullmatch(word):
        return word
    if len(word) <= _LONGEST_NUMBER and (word[0].isdigit() or word[0] in "+-."):
        for read in (lambda text: int(text, 0), float):
            try:
                number = read(word)
            except ValueError:
                continue
            if math.isfinite(number):
                return json.dumps(number)
    return f'"{json_string(word)}"'
