"""Flattens a JSON Schema: references are followed, `allOf` is merged, one of `anyOf` and `oneOf` is chosen.

Knows nothing of what a value for it looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast
from urllib.parse import unquote

from raypipe.errors import CallError, Retry

MOST_LEVELS = 40
"""Deepest nesting and longest chain of references that is followed."""
_MOST_PARTS = 50_000
"""Values, parts of a schema and hundreds of characters in one answer: about a second."""

Flat = dict[str, Any]


def impossible(problem: str) -> CallError:
    """The refusal that a real endpoint gives a schema it cannot follow."""
    return CallError(f"the schema cannot be followed: {problem}", "rejected", Retry.NEVER, None, 400)


class Effort:
    """What is left of the work that one answer may take: schemas can ask for more than there is time or memory."""

    def __init__(self) -> None:
        self._left = _MOST_PARTS

    def spend(self, parts: int = 1) -> None:
        """Raises CallError when so much is not left."""
        self._left -= parts
        if self._left < 0:
            raise impossible("it asks for too much")


def flat_schema(schema: Any, root: Any, turn: int, is_tight: bool, effort: Effort, level: int = 0) -> Flat:
    """`schema` without references and combinations. `is_tight` prefers what ends soonest.

    Raises CallError for a reference to nothing or without end, for `false`, and where it takes too much effort.
    """
    effort.spend()
    if level > MOST_LEVELS:
        raise impossible("it has no end")
    if schema is False:
        raise impossible("it has a part that allows nothing")
    flat: Flat = dict(cast("Mapping[str, Any]", schema)) if isinstance(schema, Mapping) else {}
    reference = flat.pop("$ref", None)
    parts = [_target(reference, root)] if reference else []
    for part in [*parts, *flat.pop("allOf", [])]:
        flat = _merged(flat, flat_schema(part, root, turn, is_tight, effort, level + 1))
    for word in ("anyOf", "oneOf"):
        options = flat.pop(word, None)
        if options:
            ordered = _by_preference(options, turn, is_tight)
            flat = _fitting(flat, (flat_schema(option, root, turn, is_tight, effort, level + 1) for option in ordered))
    return flat


def _fitting(flat: Flat, options: Iterator[Flat]) -> Flat:
    for option in options:
        joined = _merged(flat, option)
        if joined.get("type") != [] and joined.get("enum") != []:
            return joined
    raise impossible("no part of anyOf or oneOf fits the rest")


def _target(reference: str, root: Any) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(name) if isinstance(found, list) else name]
        except (LookupError, TypeError, ValueError):
            raise impossible(f"$ref {reference!r} points to nothing") from None
    if not reference.startswith("#"):
        raise impossible(f"$ref {reference!r} points outside")
    return found


def _by_preference(options: list[Any], turn: int, is_tight: bool) -> list[Any]:
    """Values before null and in turn; where the end is wanted, null and plain values first."""
    start = turn % len(options)
    rotated = options[start:] + options[:start]
    return sorted(rotated, key=_size) if is_tight else sorted(rotated, key=_is_null)


def _is_null(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    words = cast("Mapping[str, Any]", schema)
    return words.get("type") == "null" or words.get("const", 0) is None


def _size(schema: Any) -> int:
    if not isinstance(schema, Mapping) or _is_null(schema):
        return 0
    text = str(cast("Mapping[str, Any]", schema))
    return 1 + 2 * ("$ref" in text) + ("properties" in text or "items" in text)


def _merged(one: Flat, other: Flat) -> Flat:
    both = {**one, **other}
    for word in one.keys() & other.keys() & _MERGE.keys():
        both[word] = _MERGE[word](one[word], other[word])
    return both


def _united(one: list[Any], other: list[Any]) -> list[Any]:
    return [*one, *(item for item in other if item not in one)]


def _shared(one: list[Any], other: list[Any]) -> list[Any]:
    return [item for item in one if item in other]


def _shared_types(one: Any, other: Any) -> list[str]:
    first, second = types_of(one), types_of(other)
    common = _shared(first, second)
    if "integer" not in common and "integer" in first + second and "number" in first + second:
        common.append("integer")
    return common


def types_of(types: str | list[str]) -> list[str]:
    return [types] if isinstance(types, str) else list(types)


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    shared = {name: {"allOf": [one[name], other[name]]} for name in one.keys() & other.keys()}
    return {**one, **other, **shared}


_MERGE: dict[str, Callable[[Any, Any], Any]] = {
    "required": _united,
    "properties": _joined,
    "enum": _shared,
    "type": _shared_types,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}
