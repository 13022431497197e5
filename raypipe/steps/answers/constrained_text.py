"""Holds an answer to a form that is not JSON: a regular expression, one of several texts, a grammar.

Knows nothing of how it is asked for. A model that decodes under the form cannot leave it; the answer of any other is
checked, except against a grammar, which only the model reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from raypipe.concurrency.user_code import UserCodeThread
from raypipe.contracts.llm import Request
from raypipe.errors import RowError, SpecError
from raypipe.security.patterns import Pattern, compile_pattern
from raypipe.steps.answers.schemas import Node
from raypipe.steps.prompts.to_text import quoted

FORMS = ("regex", "choice", "grammar")
"""The names of the forms, which no JSON Schema has among its keywords."""
_WHERE = "structured_output"


class TextForm:
    """A form ready to check answers: `{"regex": …}`, `{"choice": […]}` or `{"grammar": …}`."""

    again = "the corrected text"
    """What is asked for where an answer does not fit."""
    json_schema: Node = {"type": "string"}  # noqa: RUF012 (nobody changes it)
    """What can be known of an answer before it is there."""

    def __init__(self, form: Mapping[str, Any]) -> None:
        """Raises SpecError for anything else."""
        if len(form) != 1:
            raise SpecError.of(_WHERE, f"has {' and '.join(map(repr, form))}; an answer has one form, keep one of them")
        self.declared: dict[str, Any] = dict(form)
        self._pattern = _compile(form["regex"]) if "regex" in form else None
        self.beside = UserCodeThread("checks")
        self.may_take_long = self._pattern is not None and not self._pattern.is_linear
        self._choices = _choices(form["choice"]) if "choice" in form else ()
        grammar = form.get("grammar", "-")
        if not isinstance(grammar, str) or not grammar.strip():
            problem = f"has the grammar {quoted(grammar)}; write it as text, in the syntax of xgrammar or Lark"
            raise SpecError.of(_WHERE, problem)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextForm) and self.declared == other.declared

    def __hash__(self) -> int:
        return hash(repr(self.declared))

    def asked(self, request: Request) -> Request:
        """The request for an answer of this form."""
        # Those who decode under a pattern know no flags; one that has some is only checked.
        is_sent = self._pattern is None or self._pattern.flags == re.UNICODE
        return request._replace(form=self.declared if is_sent else None)

    def validate(self, text: str, *, repair: bool = True) -> str:
        """The answer; space around it is left out where that makes it fit. Raises RowError (`schema`)."""
        pattern, choices = self._pattern, self._choices
        for answer in (text, text.strip()) if repair else (text,):
            fits = not choices or answer in choices if pattern is None else pattern.fullmatch(answer) is not None
            if fits:
                return answer
        wanted = "is none of the choices" if pattern is None else f"does not match {pattern.pattern!r}"
        raise RowError(f"the completion {wanted}: {quoted(text)}", kind="schema")


def form_of(form: Any) -> TextForm | None:
    """The form that a mapping of nothing but forms declares; `None` for a JSON Schema. Raises SpecError."""
    is_form = isinstance(form, Mapping) and bool(form) and not form.keys() - set(FORMS)
    return TextForm(cast("Mapping[str, Any]", form)) if is_form else None


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
