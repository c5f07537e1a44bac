"""What a request says about the form of its output, and the check of it: StructuredOutputsParams, ReasoningMarkers.

Names are vLLM's. Whether a schema, a regex or a grammar makes sense is found out where it is compiled (`structured/`);
this module looks at types only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from octavo.errors import InvalidRequestError, shown, unknown_name

# Exactly one of these is given.
CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


def _fail(name: str, value: Any, allowed: str) -> InvalidRequestError:
    param = f"structured_outputs.{name}"
    return InvalidRequestError(f"{param} must be {allowed}, got {shown(value)}", param=param)


@dataclass(kw_only=True, slots=True)
class StructuredOutputsParams:
    """The form that an output must have: exactly one constraint, and options for JSON.

    Raises:
        InvalidRequestError: (a ValueError) naming the field, its value and what is allowed, or an unknown field.
    """

    json: str | dict[str, Any] | None = None  # a JSON schema, as text or as a dict
    regex: str | None = None  # matched by the whole output
    choice: list[str] | None = None  # one of these
    grammar: str | None = None  # Lark or GBNF; begins at `start` or `root`
    json_object: bool | None = None  # True: any JSON object
    structural_tag: str | dict[str, Any] | None = None  # free text with structures between tags, in JSON
    disable_any_whitespace: bool = False  # JSON without optional white space
    disable_additional_properties: bool = (
        False  # objects have the properties that the schema names, unless it says more
    )
    # A regex for the white space between JSON's tokens. None: a few spaces, or one line break and its indentation.
    whitespace_pattern: str | None = None

    if not TYPE_CHECKING:

        @staticmethod
        def _reject_unknown(given: Mapping[str, Any]) -> None:
            valid = [f.name for f in fields(StructuredOutputsParams)]
            for name in given:
                if name not in valid:
                    param = f"structured_outputs.{name}"
                    raise InvalidRequestError(unknown_name("field of structured_outputs", name, valid), param=param)

    def __post_init__(self) -> None:
        if self.json_object is False:
            self.json_object = None
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) != 1:
            what = f"got {' and '.join(given)}" if given else "got none"
            raise InvalidRequestError(
                f"structured_outputs must have exactly one of {', '.join(CONSTRAINTS)}; {what}",
                param="structured_outputs",
            )
        if self.json_object is not None and self.json_object is not True:
            raise _fail("json_object", self.json_object, "True")
        for name in ("json", "structural_tag"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, dict) or (isinstance(value, str) and value.strip())):
                raise _fail(name, value, "a dict, or JSON text that is not empty")
        for name in ("regex", "grammar"):
            value = getattr(self, name)
            if not (value is None or (isinstance(value, str) and value.strip())):
                raise _fail(name, value, "a string that is not empty")
        self._check_choice()
        for name in ("disable_any_whitespace", "disable_additional_properties"):
            if not isinstance(getattr(self, name), bool):
                raise _fail(name, getattr(self, name), "True or False")
        if not (self.whitespace_pattern is None or isinstance(self.whitespace_pattern, str)):
            raise _fail("whitespace_pattern", self.whitespace_pattern, "None or a regex")

    def _check_choice(self) -> None:
        choice = self.choice
        if choice is None:
            return
        allowed = "a list of at least one string, none of them empty"
        if isinstance(choice, str) or not isinstance(choice, Sequence) or not choice:
            raise _fail("choice", choice, allowed)
        if not all(isinstance(item, str) and item for item in choice):
            raise _fail("choice", choice, allowed)
        self.choice = list(dict.fromkeys(choice))

    def as_text(self) -> StructuredOutputsParams:
        """The same with JSON as text, which goes through any channel: a schema may hold integers of any size.

        Raises:
            InvalidRequestError: it can't be written as JSON.
        """
        given = getattr(self, self.kind)
        if not isinstance(given, dict):
            return self
        param = f"structured_outputs.{self.kind}"
        try:
            text = json.dumps(given)
        except (TypeError, ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise InvalidRequestError(f"{param} can't be written as JSON: {reason}", param=param) from None
        as_text: dict[str, Any] = {self.kind: text}
        return replace(self, **as_text)

    @property
    def kind(self) -> str:
        """The name of the constraint that is given."""
        return next(name for name in CONSTRAINTS if getattr(self, name) is not None)


@dataclass(kw_only=True, slots=True)
class ReasoningMarkers:
    """How to tell the reasoning of an output from its answer, by token ids.

    A structure applies to what comes after the reasoning, and `thinking_token_budget` bounds it. Whoever knows the
    model's format sets this; the engine does not.
    """

    end_token_ids: list[int]  # the reasoning ends with these, at least one
    # The reasoning begins with these, at the very start of the output; an output that begins otherwise has none.
    # Empty: the output begins inside the reasoning.
    start_token_ids: list[int] = field(default_factory=list)
    # What is written when the budget is used up; ends with end_token_ids. None: end_token_ids alone.
    budget_end_token_ids: list[int] | None = None

    def __post_init__(self) -> None:
        for name in ("end_token_ids", "start_token_ids", "budget_end_token_ids"):
            value = getattr(self, name)
            if name == "budget_end_token_ids" and value is None:
                continue
            if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
                raise InvalidRequestError(
                    f"reasoning_markers.{name} must be a list of token ids, got {shown(value)}",
                    param="reasoning_markers",
                )
        if not self.end_token_ids:
            raise InvalidRequestError("reasoning_markers.end_token_ids must not be empty", param="reasoning_markers")
        forced = self.forced_end_token_ids
        if forced[-len(self.end_token_ids) :] != self.end_token_ids:
            raise InvalidRequestError(
                f"reasoning_markers.budget_end_token_ids must end with end_token_ids, got {shown(forced)}",
                param="reasoning_markers",
            )

    @property
    def forced_end_token_ids(self) -> list[int]:
        """What is written when the budget is used up."""
        return self.end_token_ids if self.budget_end_token_ids is None else self.budget_end_token_ids


if not TYPE_CHECKING:
    # A dataclass answers an unknown field with a TypeError that knows no nearest name.
    _generated_init = StructuredOutputsParams.__init__

    def _checked_init(self: StructuredOutputsParams, **given: Any) -> None:
        """See the class."""
        StructuredOutputsParams._reject_unknown(given)
        _generated_init(self, **given)

    StructuredOutputsParams.__init__ = _checked_init
