"""Compiles Jinja templates so that what they compute, repeat and write is bounded.

Knows nothing of rows. Jinja's own sandbox keeps a template from reaching out; here every iteration, call, filter,
comparison and piece of output of one rendering also counts on one budget, by the size of what it works on. Nothing is
computed when a template is compiled: Jinja folds constants, and `9 ** 9 ** 9` is one.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator
from functools import cache, wraps
from itertools import islice
from typing import Any, cast

from jinja2 import StrictUndefined, TemplateSyntaxError, meta, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import SandboxedEnvironment, SandboxedFormatter
from jinja2.visitor import NodeTransformer

from raypipe.steps.prompts import template_costs as costs
from raypipe.steps.prompts.template_costs import ExcessError, size, spend

MOST_CHARACTERS = 64 << 20
"""Longest text that a template may write."""
_MOST_TOKENS = 25_000
_LONGEST_TEMPLATE = 16 << 20
_STEP, _WEIGHED = "~step", "~weighed"
"""Names of filters that no template can write."""


@cache
def environment() -> BoundedEnvironment:
    """The one that all templates are compiled in."""
    return BoundedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=False, finalize=_written, optimized=False
    )


def check_length(text: str) -> None:
    """Raises TemplateSyntaxError for a text that would take long to compile."""
    if len(text) > _LONGEST_TEMPLATE:
        raise TemplateSyntaxError(f"it has {len(text)} characters, more than {_LONGEST_TEMPLATE}", 1)
    for number, token in enumerate(islice(environment().lex(text), _MOST_TOKENS + 1)):
        if number == _MOST_TOKENS:
            problem = f"it has more than {_MOST_TOKENS} words and signs; what is repeated belongs into a loop"
            raise TemplateSyntaxError(problem, token[0])


def undeclared(ast: nodes.Template) -> frozenset[str]:
    """Names that a template takes from outside."""
    tracking = _Tracking(ast.environment or environment())
    tracking.optimizer = None
    tracking.visit(ast)
    return frozenset(tracking.undeclared_identifiers)


def joined(parts: Iterable[str]) -> str:
    """What a template wrote. Raises ExcessError when that is too long."""
    written: list[str] = []
    left = MOST_CHARACTERS
    for part in parts:
        left -= len(part)
        if left < 0:
            raise ExcessError(f"the text has more than {MOST_CHARACTERS >> 20} Mi characters")
        written.append(part)
    return "".join(written)


class _Unfolded(CodeGenerator):
    """Leaves what is constant to the rendering, where it counts."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)


class _Tracking(_Unfolded, meta.TrackingCodeGenerator):
    """Finds names, and computes nothing that is constant."""


class BoundedEnvironment(SandboxedEnvironment):
    """Jinja's sandbox, in which everything counts."""

    code_generator_class = _Unfolded
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        filters = {**self.filters, "striptags": costs.without_tags}
        self.filters = {name: _counted(name, work) for name, work in filters.items()}
        self.tests = {name: _counted(f"test {name}", work) for name, work in self.tests.items()}
        self.filters |= {_STEP: spend, _WEIGHED: lambda value: value if spend(size(value)) else None}

    def _generate(self, source: nodes.Template, *names: Any, **options: Any) -> str:
        return super()._generate(_Counting().visit(source), *names, **options)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        spend(1 + costs.of_operator(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if isinstance(__obj, Macro | LoopContext):
            spend(1)
            return super().call(__context, __obj, *args, **kwargs)
        name = getattr(__obj, "__name__", "")
        if name == "join":
            args = tuple(list(cast("Iterator[Any]", one)) if isinstance(one, Iterator) else one for one in args)
        cost = costs.of_call(name, getattr(__obj, "__self__", None), args, kwargs)
        spend(1 + cost + sum(map(size, (*args, *kwargs.values()))))
        return costs.made(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` and `str.format_map` with fields that count."""
        if super().wrap_str_format(value) is None:
            return None
        text = str(value.__self__)

        def formatted(*args: Any, **kwargs: Any) -> str:
            spend(text.count("{"))
            named = args[0] if value.__name__ == "format_map" else kwargs
            return _Formatter(self).vformat(text, () if named is not kwargs else args, named)

        return formatted


class _Formatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        spend(1 + size(value) + costs.of_widths(costs.WIDTHS, format_spec))
        return string.Formatter.format_field(self, value, format_spec)


class _Counting(NodeTransformer):
    """Puts a step into each body that may be repeated, and weighs what operators read whole."""

    def generic_visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        super().generic_visit(node, *args, **kwargs)
        match node:
            case nodes.For() | nodes.Macro() | nodes.CallBlock():
                if isinstance(node, nodes.For) and node.test is not None:
                    node.test = nodes.And(_filtered(nodes.Const(1), _STEP), node.test, lineno=node.lineno)
                # Each time costs a step, and what the body writes as it is.
                texts = (text for one in node.body if isinstance(one, nodes.Output) for text in one.nodes)
                length = sum(len(text.data) for text in texts if isinstance(text, nodes.TemplateData))
                cost = nodes.Const(1 + length // costs.CHARACTERS_A_UNIT)
                node.body = [nodes.ExprStmt(_filtered(cost, _STEP), lineno=1), *node.body]
            case nodes.Compare():
                node.expr = _weighing(node.expr)
                for operand in node.ops:
                    operand.expr = _weighing(operand.expr)
            case nodes.Concat():
                node.nodes = [_weighing(one) for one in node.nodes]
            case nodes.Getitem():
                read = "node" if isinstance(node.arg, nodes.Slice) else "arg"
                setattr(node, read, _weighing(getattr(node, read)))
            case nodes.Pair():
                node.key = _weighing(node.key)
            case _:
                pass
        return node


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=1)


def _weighing(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _filtered(node, _WEIGHED)


def _written(value: Any) -> Any:
    """What is written for a value: nothing for null."""
    if value is None:
        return ""
    spend(size(value))
    return value


def _counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that counts what it is given and what it makes."""
    offset, cost = 1 if hasattr(work, "jinja_pass_arg") else 0, costs.FILTERS.get(name)

    @wraps(work)
    def counted(*args: Any, **kwargs: Any) -> Any:
        if name == "join" and isinstance(args[offset], Iterator):
            args = (*args[:offset], list(args[offset]), *args[offset + 1 :])
        given = args[offset:]
        spend(1 + sum(map(size, (*given, *kwargs.values()))))
        if cost is not None:
            spend(cost(given[0], (*given[1:], *kwargs.values())))
        return costs.made(work(*args, **kwargs))

    return counted
