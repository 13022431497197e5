"""Writes a Python regular expression in the syntax of RE2, where it means the same there.

Knows nothing of texts. Works on the tree that Python's own parser makes, in which flags, escapes and comments are
resolved. RE2's classes are ASCII, Python's Unicode: for texts beyond ASCII they are written out, and `\\b` cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

_MOST_REPEATS = 1000
"""RE2 refuses higher counts."""
_ASCII_CLASSES = {
    "DIGIT": "0-9",
    "NOT_DIGIT": r"\x{0}-\x{2f}\x{3a}-\x{10ffff}",
    "SPACE": r"\x{9}-\x{d}\x{1c}-\x{20}",
    "NOT_SPACE": r"\x{0}-\x{8}\x{e}-\x{1b}\x{21}-\x{10ffff}",
    "WORD": "0-9A-Za-z_",
    "NOT_WORD": r"\x{0}-\x{2f}\x{3a}-\x{40}\x{5b}-\x{5e}\x{60}\x{7b}-\x{10ffff}",
}
_ANY_CLASSES = {
    "DIGIT": r"\p{Nd}",
    "NOT_DIGIT": r"\P{Nd}",
    "SPACE": r"\x{9}-\x{d}\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}",
    "WORD": r"\p{L}\p{N}_",
}
_SEEN_FLAGS = re.IGNORECASE | re.MULTILINE | re.DOTALL | re.ASCII | re.VERBOSE | re.UNICODE


_ENDS = {"AT_BEGINNING": r"\A", "AT_BEGINNING_STRING": r"\A", "AT_END": r"\z", "AT_END_STRING": r"\z"}
_parse: Any = cast("Any", re)._parser.parse


class Untranslatable(Exception):
    """RE2 has no syntax for it, or means something else by it."""


def to_re2(pattern: str, *, is_ascii: bool) -> str:
    """The pattern for RE2, for texts of ASCII or for any. Raises Untranslatable."""
    try:
        tree = _parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise Untranslatable from error
    flags = int(tree.state.flags)
    if flags & ~_SEEN_FLAGS:
        raise Untranslatable
    try:
        return _write(tree, flags, is_ascii)
    except RecursionError:
        raise Untranslatable from None


def expanded_size(pattern: str) -> int:
    """How many parts a sound pattern has once its counts are written out, as engines do that try alternatives."""

    def size(found: Any) -> int:
        """Of a node or of nodes: trees hold both, side by side."""
        if not isinstance(found, tuple | list) and not hasattr(found, "data"):
            return 1
        if isinstance(found, tuple) and len(found) == 2 and str(found[0]).endswith("_REPEAT"):
            fewest, _, nodes = found[1]
            return 1 + max(1, fewest) * size(nodes)
        return sum(map(size, getattr(found, "data", found)))

    return size(_parse(pattern))


def _write(nodes: Any, flags: int, is_ascii: bool) -> str:
    """Nodes one after the other, each of which stands for itself."""
    return "".join(_write_node(str(kind), value, flags, is_ascii) for kind, value in nodes)


def _write_node(kind: str, value: Any, flags: int, is_ascii: bool) -> str:
    match kind:
        case "LITERAL" | "NOT_LITERAL":
            text = _escape(value) if kind == "LITERAL" else f"[^{_escape(value)}]"
        case "IN":
            text = _write_class(value, is_ascii or bool(flags & re.ASCII))
        case "ANY":
            return r"(?s:.)" if flags & re.DOTALL else r"[^\n]"
        case "BRANCH":
            return f"(?:{'|'.join(_write(branch, flags, is_ascii) for branch in value[1])})"
        case "SUBPATTERN":
            group, added, removed, nodes = value
            inner = _write(nodes, (flags | added) & ~removed, is_ascii)
            return f"(?:{inner})" if group is None else f"({inner})"
        case "MAX_REPEAT" | "MIN_REPEAT":
            fewest, most, nodes = value
            has_end = str(most) != "MAXREPEAT"
            if max(fewest, most if has_end else 0) > _MOST_REPEATS:
                raise Untranslatable
            repeated = f"(?:{_write(nodes, flags, is_ascii)}){{{fewest},{most if has_end else ''}}}"
            return repeated if kind == "MAX_REPEAT" else repeated + "?"
        case "AT":
            return _write_position(str(value), flags, is_ascii)
        case _:
            raise Untranslatable
    return f"(?i:{text})" if flags & re.IGNORECASE else text


def _write_class(parts: Sequence[tuple[Any, Any]], is_ascii: bool) -> str:
    """What stands in brackets. A class that is negated twice is written without."""
    classes = _ASCII_CLASSES if is_ascii else _ANY_CLASSES
    negated = "^" if str(parts[0][0]) == "NEGATE" else ""
    rest: list[tuple[str, Any]] = [(str(kind), value) for kind, value in parts[len(negated) :]]
    if len(rest) == 1 and str(rest[0][1]).startswith("CATEGORY_NOT_"):
        negated = "" if negated else "^"
        rest = [("CATEGORY", str(rest[0][1]).replace("_NOT_", "_"))]
    inner = ""
    for kind, value in rest:
        name = str(value).removeprefix("CATEGORY_")
        if kind == "LITERAL":
            inner += _escape(value)
        elif kind == "RANGE":
            inner += f"{_escape(value[0])}-{_escape(value[1])}"
        elif kind == "CATEGORY" and name in classes:
            inner += classes[name]
        else:
            raise Untranslatable
    return f"[{negated}{inner}]"


def _write_position(name: str, flags: int, is_ascii: bool) -> str:
    if name in ("AT_BEGINNING", "AT_END") and flags & re.MULTILINE:
        return "(?m:^)" if name == "AT_BEGINNING" else "(?m:$)"
    if name in ("AT_BOUNDARY", "AT_NON_BOUNDARY") and (is_ascii or flags & re.ASCII):
        return r"\b" if name == "AT_BOUNDARY" else r"\B"
    if name not in _ENDS:
        raise Untranslatable
    return _ENDS[name]


def _escape(code: int) -> str:
    if 0xD800 <= code <= 0xDFFF:
        raise Untranslatable
    return chr(code) if chr(code).isalnum() and code < 128 else f"\\x{{{code:x}}}"
