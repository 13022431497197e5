"""I turn a row into text or into a verdict by a Jinja template or expression.

I do not know what the text is for. Templates come from configuration files, so they run in Jinja's
sandbox; a variable that the row does not have is an error, a null is empty text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jinja2
from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

from raypipe.errors import RowError, SpecError, Violation
from raypipe.row import Values

_RENDER_ERRORS = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@cache
def _environment() -> SandboxedEnvironment:
    return SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False, finalize=_empty_for_null)


def _empty_for_null(value: Any) -> Any:
    return "" if value is None else value


class Template:
    """A compiled template. It travels to workers as its text."""

    __slots__ = ("_globals", "_parts", "_template", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = _parts(text)
        self._template: jinja2.Template = _compiled("template", _environment().from_string, text)
        self._globals = dict(self._template.globals)

    def __reduce__(self) -> tuple[Any, ...]:
        return compile_template, (self.text,)

    def render(self, row: Values) -> str:
        """Raises RowError (`template`) when the row does not fit."""
        if self._parts is not None:
            texts = [part if name is None else row.get(name, part) for part, name in self._parts]
            if all(text is not _MISSING for text in texts):
                return "".join(["" if text is None else str(text) for text in texts])
        try:
            # `Template.render` would walk through layered globals for every row, which takes longer than rendering.
            context = Context(self._template.environment, {**self._globals, **row}, None, self._template.blocks)
            return "".join(self._template.root_render_func(context))
        except _RENDER_ERRORS as error:
            raise _row_error(error, row) from None


class Expression:
    """A compiled expression over the columns of a row. It travels to workers as its text."""

    __slots__ = ("_value", "text", "variables")

    def __init__(self, text: str) -> None:
        self.text = text
        self._value: Callable[[Values], Any] = _compiled("expression", _expression, text)
        self.variables = variables("{{ " + text + " }}")

    def __reduce__(self) -> tuple[Any, ...]:
        return compile_expression, (self.text,)

    def __call__(self, row: Values) -> bool:
        """Whether it holds. Raises RowError (`template`) when the row does not fit."""
        try:
            return bool(self._value(row))
        except _RENDER_ERRORS as error:
            raise _row_error(error, row) from None


def compile_template(text: str) -> Template:
    """Raises SpecError naming the line when `text` is no template."""
    return Template(text)


def compile_expression(text: str) -> Expression:
    """For example `score > 3 and language == "en"`. Raises SpecError when `text` is no expression."""
    return Expression(text)


def variables(text: str) -> frozenset[str]:
    """Names that the template takes from the row. Raises SpecError when `text` is no template."""
    return frozenset(meta.find_undeclared_variables(_compiled("template", _environment().parse, text)))


def first_variable(*texts: str) -> tuple[str, ...]:
    """The name that the first of the templates with any takes from the row first; none where none takes any."""
    for text in texts:
        names = variables(text)
        for place in _compiled("template", _environment().parse, text).find_all(nodes.Name):
            if place.name in names:
                return (place.name,)
    return ()


def _expression(text: str) -> Callable[[Values], Any]:
    return _environment().compile_expression(text, undefined_to_none=False)


_MISSING: Any = object()


def _parts(text: str) -> list[tuple[Any, str | None]] | None:
    """Texts, and names of columns, of which a template is put together; `None` when it does more than that."""
    found: list[tuple[Any, str | None]] = []
    for node in _compiled("template", _environment().parse, text).body:
        if not isinstance(node, nodes.Output):
            return None
        for part in node.nodes:
            if isinstance(part, nodes.TemplateData):
                found.append((part.data, None))
            elif isinstance(part, nodes.Name):
                found.append((_MISSING, part.name))
            else:
                return None
    return found


def _compiled(what: str, compile_text: Callable[[str], Any], text: str) -> Any:
    try:
        return compile_text(text)
    except TemplateSyntaxError as error:
        problem = f"line {error.lineno}: {(error.message or 'cannot be read').rstrip('.')}"
        raise SpecError(violations=[Violation(what, problem)]) from None
    except RecursionError:
        raise SpecError(violations=[Violation(what, "is nested too deeply")]) from None


def _row_error(error: Exception, row: Values) -> RowError:
    listed = ", ".join(repr(name) for name in row)
    return RowError(f"{error} (the row has {listed or 'no columns'})", kind="template")
