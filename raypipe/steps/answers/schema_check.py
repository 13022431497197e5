"""Checks values against a JSON Schema (draft 2020-12) in a bounded number of steps, without reaching for anything.

Knows nothing of answers and rows. Schemas come from rows and files: references are followed inside the schema only,
patterns are searched in linear time or until a deadline, and what grows without bound (references that lead in a
circle, nested choices, pairs of items compared) ends with a sentence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import orjson
from referencing import Registry
from referencing.exceptions import NoSuchResource, Unresolvable

from raypipe.errors import shorten
from raypipe.security.patterns import compile_pattern

Node = dict[str, Any]
Keyword = Callable[[Any, Any, Any, Any], Any]

_MOST_STEPS = 1_000_000
"""Keywords looked at for one value: about two seconds."""
_PROBE_STEPS = 100_000
_PROBES = (None, "", 0, [], {})
_DATA = frozenset(("enum", "const", "default", "examples"))
"""Keywords whose values are no schemas."""
_MAPS = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies", "$vocabulary")
)
"""Keywords whose values name schemas, so that their keys are no keywords."""
_PART_OF_A_STEP = 8
_CHARACTERS_OF_A_STEP = 64

_left = threading.local()


class Uncheckable(Exception):
    """No value can be checked against it, or not this one."""


def nodes(schema: Node) -> Iterator[Node]:
    """The schema and every schema in it, under whichever keyword it stands."""
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += cast("list[Any]", node)
        elif isinstance(node, dict):
            yield cast("Node", node)
            for key, value in cast("Node", node).items():
                if key in _MAPS and isinstance(value, dict):
                    waiting += cast("Node", value).values()
                elif key not in _DATA:
                    waiting.append(value)


class SchemaCheck:
    """Tells what of a value a schema does not allow."""

    def __init__(self, schema: Node) -> None:
        """Raises Uncheckable saying why `schema` is none."""
        from jsonschema import Draft202012Validator

        kind = _bounded(Draft202012Validator)
        registry: Any = Registry(retrieve=_refused)  # pyright: ignore[reportCallIssue]
        metaschema = cast("Node", Draft202012Validator.META_SCHEMA)
        error = _first(kind(_of_this_draft(metaschema), registry=registry), schema, _MOST_STEPS)
        if error is not None:
            place = ".".join(str(part) for part in error.absolute_path)
            raise Uncheckable(f"{place or 'its top level'} is not a JSON Schema: {shorten(error.message)}")
        _check_patterns(schema)
        self._validator = kind(_of_this_draft(schema), registry=registry)
        for probe in _PROBES:
            _first(self._validator, probe, _PROBE_STEPS)

    def mismatch(self, value: Any) -> tuple[tuple[Any, ...], str] | None:
        """Place and message of the first thing that is not allowed. Raises Uncheckable, or RowError (`pattern`)."""
        error = _first(self._validator, value, _MOST_STEPS)
        return None if error is None else (tuple(error.absolute_path), error.message)


def _first(validator: Any, value: Any, steps: int) -> Any:
    _left.steps, _left.depth = steps, 0
    try:
        return next(validator.iter_errors(value), None)
    except RecursionError:
        raise Uncheckable("its references lead in a circle, or the value is nested too deeply") from None
    except Unresolvable as error:
        raise Uncheckable(f"refers to {shorten(repr(error.ref))}, which is not in it") from None


def _refused(uri: str) -> Any:
    """Nothing is fetched, neither over HTTP nor from files."""
    raise NoSuchResource(ref=uri)


def _spend(steps: int) -> None:
    _left.steps -= steps
    if _left.steps < 0:
        raise Uncheckable("takes too many steps to check; write it with fewer nested choices and shorter lists")


def _of_this_draft(schema: Node) -> Node:
    """A copy without `$schema`: a part that names another draft would be checked by that draft's keywords."""
    copy = cast("Node", orjson.loads(orjson.dumps(schema)))
    for node in nodes(copy):
        if isinstance(node.get("$schema"), str):
            del node["$schema"]
    return copy


def _check_patterns(schema: Node) -> None:
    found = list(nodes(schema))
    is_unevaluated = any("unevaluatedProperties" in node for node in found)
    for node in found:
        named = list(cast("Node", node.get("patternProperties", {})))
        if named and is_unevaluated:
            raise Uncheckable("has both patternProperties and unevaluatedProperties; write additionalProperties")
        for pattern in (*named, *([node["pattern"]] if isinstance(node.get("pattern"), str) else ())):
            try:
                compile_pattern(pattern)
            except ValueError as error:
                shown = shorten(repr(pattern), 80)
                raise Uncheckable(f"has the pattern {shown}, which is not a regular expression: {error}") from None


def _bounded(kind: Any) -> Any:
    """The validator with counted keywords, and with its own for what takes more than linear time."""
    from jsonschema import validators

    keywords = {name: _counted(keyword) for name, keyword in {**kind.VALIDATORS, **_OWN}.items()}
    # `format` is a note, as in every check that is not told otherwise.
    return cast("Any", validators).extend(kind, keywords)


def _counted(keyword: Keyword) -> Keyword:
    def counted(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
        # An error passes through all that is open, so that what is nested deeper costs more.
        size = sum([len(cast("Any", one)) for one in (wanted, instance) if isinstance(one, list | dict)])
        _spend(1 + (_left.depth + size) // _PART_OF_A_STEP)
        _left.depth += 1
        try:
            for error in keyword(validator, wanted, instance, schema) or ():
                _spend(len(error.message) // _CHARACTERS_OF_A_STEP)
                yield error
        finally:
            _left.depth -= 1

    return counted


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not compile_pattern(pattern).search(instance):
        yield _error(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, wanted: Node, instance: Any, _: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, schema in wanted.items():
            for name, value in cast("Node", instance).items():
                _spend(1)
                if compile_pattern(pattern).search(name):
                    yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, wanted: Any, instance: Any, schema: Node) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    named = cast("Mapping[str, Any]", schema.get("patternProperties", {}))
    patterns = [compile_pattern(one) for one in named]
    known = cast("Mapping[str, Any]", schema.get("properties", {}))
    extras: list[str] = []
    for name in cast("Node", instance):
        _spend(len(patterns) // _PART_OF_A_STEP)
        if name not in known and not any(one.search(name) for one in patterns):
            extras.append(name)
    if isinstance(wanted, dict):
        for name in extras:
            yield from validator.descend(instance[name], wanted, path=name)
    elif not wanted and extras:
        # Worded as jsonschema words it, since recorded calls repeat it to their model.
        listed, is_one = ", ".join(map(repr, sorted(extras))), len(extras) == 1
        if named:
            regexes = ", ".join(map(repr, sorted(named)))
            yield _error(f"{listed} {'does' if is_one else 'do'} not match any of the regexes: {regexes}")
        else:
            verb = "was" if is_one else "were"
            yield _error(f"Additional properties are not allowed ({listed} {verb} unexpected)")


def _unique_items(_: Any, wanted: Any, instance: Any, __: Any) -> Iterator[Any]:
    if not (wanted and isinstance(instance, list)):
        return
    seen: set[bytes] = set()
    for item in cast("list[Any]", instance):
        _spend(1)
        key = orjson.dumps(_equal_numbers(item), option=orjson.OPT_SORT_KEYS)
        if key in seen:
            yield _error(f"{instance!r} has non-unique elements")
            return
        seen.add(key)


def _equal_numbers(value: Any) -> Any:
    """`1.0` is `1` for JSON Schema."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    if isinstance(value, list):
        return [_equal_numbers(one) for one in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {name: _equal_numbers(one) for name, one in cast("Node", value).items()}
    return value


def _enum(_: Any, wanted: list[Any], instance: Any, __: Any) -> Iterator[Any]:
    from jsonschema import _utils  # pyright: ignore[reportPrivateUsage]

    _spend(len(wanted) // 4)
    if not any(cast("Any", _utils).equal(one, instance) for one in wanted):
        yield _error(f"{instance!r} is not one of {wanted!r}")


def _error(message: str) -> Exception:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message)


_OWN: dict[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "enum": _enum,
}
