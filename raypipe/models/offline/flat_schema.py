"""Flattens a JSON Schema: references are followed, `allOf` is merged, one of `anyOf` and `oneOf` is chosen.

Knows nothing of what a value for it looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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


@dataclass
class Effort:
    """What is left of the work that one answer may take: schemas can ask for more than there is time or memory."""

    left: int = _MOST_PARTS

    def spend(self, parts: int = 1) -> None:
        """Raises CallError when so much is not left."""
        self.left -= parts
        if self.left < 0:
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
            start = turn % len(options)
            ordered = sorted(options[start:] + options[:start], key=lambda option: _preference(option, is_tight))
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


def _preference(schema: Any, is_tight: bool) -> int:
    """Values come before null; where the end is wanted, null comes first and what nests last."""
    if not isinstance(schema, Mapping):
        return 0
    words = cast("Mapping[str, Any]", schema)
    is_null = words.get("type") == "null" or words.get("const", 0) is None
    if is_null or not is_tight:
        return int(is_null and not is_tight)
    text = str(words)
    return 1 + 2 * ("$ref" in text) + ("properties" in text or "items" in text)


def _merged(one: Flat, other: Flat) -> Flat:
    both = {**one, **other}
    for word in one.keys() & other.keys() & _MERGE.keys():
        both[word] = _MERGE[word](one[word], other[word])
    return both


def _shared_types(one: Any, other: Any) -> list[str]:
    first, second = ([types] if isinstance(types, str) else list(types) for types in (one, other))
    common = [kind for kind in first if kind in second]
    if "integer" not in common and "integer" in first + second and "number" in first + second:
        common.append("integer")
    return common


_MERGE: dict[str, Callable[[Any, Any], Any]] = {
    "required": lambda one, other: [*one, *(name for name in other if name not in one)],
    "properties": lambda one, other: (
        {**one, **other} | {name: {"allOf": [one[name], other[name]]} for name in one.keys() & other.keys()}
    ),
    "enum": lambda one, other: [value for value in one if value in other],
    "type": _shared_types,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}
