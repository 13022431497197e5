"""Holds an answer to a form that is not JSON: a regular expression, one of several texts, a grammar.

Knows nothing of how it is asked for. A model that decodes under the form cannot leave it; the answer of any other is
checked, except against a grammar, which only the model reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import orjson

from raypipe.concurrency.user_code import UserCodeThread
from raypipe.errors import RowError, SpecError
from raypipe.security.patterns import Pattern, compile_pattern
from raypipe.steps.answers.schemas import Node
from raypipe.steps.prompts.to_text import quoted

FORMS = ("regex", "choice", "grammar")
"""The names of the forms, which no JSON Schema has among its keywords."""
_WHERE = "structured_output"


class Declared:
    """What an answer is held to; equal declarations make equal ones."""

    __slots__ = ("beside", "declared", "json_schema", "may_take_long", "sent")
    again: ClassVar[str]
    """What is asked for where an answer does not fit."""
    declared: Any
    """What it was made of."""
    sent: dict[str, Any]
    """The fields of a request for such an answer."""
    json_schema: Node
    """What can be known of an answer before it is there."""
    may_take_long: bool
    """Whether a check may take longer than an event loop can wait."""
    beside: UserCodeThread
    """Where such a check is made."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Declared) and type(self) is type(other) and self.declared == other.declared

    def __hash__(self) -> int:
        return hash(orjson.dumps(self.json_schema, option=orjson.OPT_SORT_KEYS))


class TextForm(Declared):
    """A form ready to check answers: `{"regex": …}`, `{"choice": […]}` or `{"grammar": …}`."""

    __slots__ = ("_choices", "_pattern")
    again = "the corrected text"

    def __init__(self, form: Mapping[str, Any]) -> None:
        """Raises SpecError for anything else."""
        if len(form) != 1:
            raise SpecError.of(_WHERE, f"has {' and '.join(map(repr, form))}; an answer has one form, keep one of them")
        self.declared, self.json_schema = dict(form), {"type": "string"}
        self._pattern = _compile(form["regex"]) if "regex" in form else None
        # Those who decode under a pattern know no flags; one that has some is only checked.
        is_sent = self._pattern is None or self._pattern.flags == re.UNICODE
        self.sent = {"form": self.declared if is_sent else None}
        self.beside = UserCodeThread("checks")
        self.may_take_long = self._pattern is not None and not self._pattern.is_linear
        self._choices = _choices(form["choice"]) if "choice" in form else ()
        grammar = form.get("grammar", "-")
        if not isinstance(grammar, str) or not grammar.strip():
            problem = f"has the grammar {quoted(grammar)}; write it as text, in the syntax of xgrammar or Lark"
            raise SpecError.of(_WHERE, problem)

    def validate(self, text: str, *, repair: bool = True) -> str:
        """The answer; space around it is left out where that makes it fit. Raises RowError (`schema`)."""
        pattern, choices = self._pattern, self._choices
        for answer in (text, text.strip()) if repair else (text,):
            fits = not choices or answer in choices if pattern is None else pattern.fullmatch(answer) is not None
            if fits:
                return answer
        wanted = "is none of the choices" if pattern is None else f"does not match {pattern.pattern!r}"
        raise RowError(f"the completion {wanted}: {quoted(text)}", kind="schema")


def _compile(pattern: Any) -> Pattern:
    if not isinstance(pattern, str):
        raise SpecError.of(_WHERE, f"has the pattern {quoted(pattern)}, which is not text")
    try:
        return compile_pattern(pattern)
    except ValueError as error:
        raise SpecError.of(
            _WHERE, f"has the pattern {quoted(pattern)}, which is not a regular expression: {error}"
        ) from None


def _choices(given: Any) -> tuple[str, ...]:
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    choices: tuple[Any, ...] = tuple(cast("Sequence[Any]", given)) if listed else ()
    if not choices or not all(isinstance(one, str) and one for one in choices) or len(set(choices)) < len(choices):
        advice = "write a list of different texts, in YAML in quotes: ['yes', 'no']"
        raise SpecError.of(_WHERE, f"has the choice {quoted(given)}; {advice}")
    return choices
