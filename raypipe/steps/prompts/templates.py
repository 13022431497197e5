"""Turns a row into text or into a verdict by a Jinja template or expression.

Knows nothing of what the text is for. Templates come from configuration files, so they run in a bounded sandbox; a
variable that the row does not have is an error, a null is empty text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jinja2
from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.runtime import Context

from raypipe.errors import RowError, SpecError, shorten
from raypipe.row import Values
from raypipe.steps.prompts.sandbox import MOST_CHARACTERS, check_length, environment, joined, undeclared
from raypipe.steps.prompts.template_costs import begin

_RENDER_ERRORS = (
    *(TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError),
)


class _Compiled:
    """What is compiled of a text, and travels to workers as that text."""

    __slots__ = ("text",)
    text: str

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text,)


class Template(_Compiled):
    """A compiled template. It travels to workers as its text. Raises SpecError naming the line of text that is none."""

    __slots__ = ("_globals", "_parts", "_template")

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = _parts(text)
        self._template: jinja2.Template = _compile("template", environment().from_string, text)
        self._globals = dict(self._template.globals)

    def render(self, row: Values) -> str:
        """Raises RowError (`template`) when the row does not fit."""
        if self._parts is not None:
            texts: list[str] = []
            for part, name in self._parts:
                value = part if name is None else row.get(name, part)
                if value is _MISSING:
                    break
                texts.append(value if type(value) is str else "" if value is None else str(value))
            else:
                if sum(map(len, texts)) > MOST_CHARACTERS:
                    problem = f"the text has more than {MOST_CHARACTERS >> 20} Mi characters"
                    raise _row_error(ValueError(problem), row)
                return "".join(texts)
        begin()
        try:
            # `Template.render` would walk through layered globals for every row, which takes longer than rendering.
            context = Context(self._template.environment, {**self._globals, **row}, None, self._template.blocks)
            return joined(self._template.root_render_func(context))
        except _RENDER_ERRORS as error:
            raise _row_error(error, row) from None


class Expression(_Compiled):
    """A compiled expression over the columns of a row, such as `score > 3 and language == "en"`.

    It travels to workers as its text. Raises SpecError for text that is no expression.
    """

    __slots__ = ("_value", "variables")

    def __init__(self, text: str) -> None:
        self.text = text
        compile_text = partial(environment().compile_expression, undefined_to_none=False)
        self._value: Callable[[Values], Any] = _compile("expression", compile_text, text)
        self.variables = variables("{{ " + text + " }}")

    def __call__(self, row: Values) -> bool:
        """Whether it holds. Raises RowError (`template`) when the row does not fit."""
        begin()
        try:
            return bool(self._value(row))
        except _RENDER_ERRORS as error:
            raise _row_error(error, row) from None


@lru_cache(maxsize=256)
def variables(text: str) -> frozenset[str]:
    """Names that the template takes from the row. Raises SpecError when `text` is no template."""
    return _compile("template", lambda text: undeclared(environment().parse(text)), text)


def first_variable(*texts: str) -> tuple[str, ...]:
    """The name that the first of the templates with any takes from the row first; none where none takes any."""
    for text in texts:
        names = variables(text)
        tree: nodes.Template = _compile("template", environment().parse, text)
        for place in tree.find_all(nodes.Name):
            if place.name in names:
                return (place.name,)
    return ()


_MISSING: Any = object()


def _parts(text: str) -> list[tuple[Any, str | None]] | None:
    """Texts, and names of columns, of which a template is put together; `None` when it does more than that."""
    found: list[tuple[Any, str | None]] = []
    for node in _compile("template", environment().parse, text).body:
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


def _compile(what: str, compile_text: Callable[[str], Any], text: str) -> Any:
    try:
        check_length(text)
        return compile_text(text)
    except TemplateSyntaxError as error:
        problem = f"line {error.lineno}: {shorten((error.message or 'cannot be read').rstrip('.'))}"
    except (RecursionError, MemoryError):
        problem = "is nested too deeply"
    except (SyntaxError, ValueError, OverflowError) as error:
        # Python, into which Jinja compiles, knows at most 20 loops inside each other and numbers of 4,300 digits.
        problem = f"cannot be compiled: {shorten(str(error))}"
    raise SpecError.of(what, problem)


def _row_error(error: Exception, row: Values) -> RowError:
    listed = ", ".join(repr(name) for name in row)
    problem = "it is nested too deeply" if isinstance(error, RecursionError) else str(error) or type(error).__name__
    return RowError(f"{shorten(problem)} (the row has {shorten(listed) or 'no columns'})", kind="template")
