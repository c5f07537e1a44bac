"""Stop strings found in a text while it grows.

The search is an automaton over all stop strings at once (Aho and Corasick, "Efficient string matching", CACM 18(6),
1975): each character costs a constant time on average, however the text is cut into pieces.
"""

from __future__ import annotations

import re
from functools import lru_cache


class _Automaton:
    """States are the prefixes of the stop strings; 0 is the empty one.

    `depth[s]` is the length of the prefix, and `match[s]` the longest stop string that ends it.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.children: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.match: list[str | None] = [None]
        for string in stop:
            self._insert(string)
        self._fail = [0] * len(self.children)
        self._link()
        self.first = re.compile("[" + "".join(map(re.escape, self.children[0])) + "]")

    def _insert(self, string: str) -> None:
        state = 0
        for char in string:
            if char not in self.children[state]:
                self.children[state][char] = len(self.children)
                self.children.append({})
                self.depth.append(self.depth[state] + 1)
                self.match.append(None)
            state = self.children[state][char]
        self.match[state] = string

    def _link(self) -> None:
        """Point each state to the longest proper suffix that is a state too, from the shortest states on."""
        queue = list(self.children[0].values())
        for state in queue:
            for char, child in self.children[state].items():
                self._fail[child] = self.step(self._fail[state], char)
                if self.match[child] is None:
                    self.match[child] = self.match[self._fail[child]]
                queue.append(child)

    def step(self, state: int, char: str) -> int:
        while state and char not in self.children[state]:
            state = self._fail[state]
        return self.children[state].get(char, 0)


@lru_cache(maxsize=256)
def _automaton(stop: tuple[str, ...]) -> _Automaton:
    return _Automaton(stop)


class StopChecker:
    """Cuts a growing text at its first stop string: the one that is complete first, and of those the longest.

    Text that may be the beginning of a stop string is held back, unless stop strings are part of the output anyway.

    Args:
        stop: the stop strings, none of them empty.
        include_stop_str_in_output: the text ends after the stop string instead of before it.
    """

    __slots__ = ("_automaton", "_held", "_include", "_state")

    def __init__(self, stop: list[str], include_stop_str_in_output: bool) -> None:
        self._automaton = _automaton(tuple(stop)) if stop else None
        self._include = include_stop_str_in_output
        self._state = 0
        self._held = ""

    def push(self, new_text: str) -> tuple[str, str | None]:
        """Take in more text.

        Returns:
            the text that is now certain, and the stop string if one was met: then the text ends there for good.
        """
        automaton = self._automaton
        if automaton is None or not new_text:
            return new_text, None
        text = self._held + new_text
        position, state = len(self._held), self._state
        while position < len(text):
            if not state:
                found = automaton.first.search(text, position)
                if found is None:
                    break
                position = found.start()
            state = automaton.step(state, text[position])
            position += 1
            matched = automaton.match[state]
            if matched is not None:
                self._state, self._held = 0, ""
                return text[: position if self._include else position - len(matched)], matched
        self._state = state
        cut = len(text) if self._include else len(text) - automaton.depth[state]
        self._held = text[cut:]
        return text[:cut], None

    def flush(self) -> str:
        """What is held back: the text has ended, and it was no stop string."""
        held, self._held, self._state = self._held, "", 0
        return held
