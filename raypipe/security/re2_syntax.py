"""Writes a Python regular expression in the syntax of RE2, where it means the same there.

Knows nothing of texts. Works on the tree that Python's own parser makes, in which flags, escapes and comments are
resolved. RE2's classes are ASCII, Python's Unicode: for texts beyond ASCII they are written out, and `\\b` cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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


class Untranslatable(Exception):
    """RE2 has no words for it, or others."""


def to_re2(pattern: str, *, is_ascii: bool) -> str:
    """The pattern for RE2, for texts of ASCII or for any. Raises Untranslatable."""
    try:
        tree = _tree(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise Untranslatable from error
    flags = int(tree.state.flags)
    if flags & ~_SEEN_FLAGS:
        raise Untranslatable
    try:
        return _Writer(is_ascii).sequence(tree, flags)
    except RecursionError:
        raise Untranslatable from None


def expanded_size(pattern: str) -> int:
    """How many parts a sound pattern has once its counts are written out, as engines do that try alternatives."""
    return _size(_tree(pattern))


def _tree(pattern: str) -> Any:
    return cast("Any", re)._parser.parse(pattern)


def _size(found: Any) -> int:
    """Of a node or of nodes: trees hold both, side by side."""
    if not isinstance(found, tuple | list) and not hasattr(found, "data"):
        return 1
    if isinstance(found, tuple) and len(found) == 2 and str(found[0]).endswith("_REPEAT"):
        fewest, _, nodes = found[1]
        return 1 + max(1, fewest) * _size(nodes)
    return sum(map(_size, getattr(found, "data", found)))


class _Writer:
    """Writes one tree; each kind of node has a method of its name."""

    def __init__(self, is_ascii: bool) -> None:
        self._is_ascii = is_ascii

    def sequence(self, nodes: Any, flags: int) -> str:
        """Nodes one after the other, each of which stands for itself."""
        return "".join(self._node(str(kind), value, flags) for kind, value in nodes)

    def _node(self, kind: str, value: Any, flags: int) -> str:
        write: Callable[[Any, int], str] | None = getattr(self, f"_{kind.lower()}", None)
        if write is None:
            raise Untranslatable
        return write(value, flags)

    def _literal(self, code: int, flags: int) -> str:
        return _cased(_sign(code), flags)

    def _not_literal(self, code: int, flags: int) -> str:
        return _cased(f"[^{_sign(code)}]", flags)

    def _any(self, _: Any, flags: int) -> str:
        return r"(?s:.)" if flags & re.DOTALL else r"[^\n]"

    def _in(self, parts: Sequence[tuple[Any, Any]], flags: int) -> str:
        negated = "^" if str(parts[0][0]) == "NEGATE" else ""
        rest = parts[len(negated) :]
        if len(rest) == 1 and str(rest[0][1]).startswith("CATEGORY_NOT_"):
            negated = "" if negated else "^"
            rest = [(rest[0][0], str(rest[0][1]).replace("_NOT_", "_"))]
        inner = "".join(self._class_part(str(kind), value, flags) for kind, value in rest)
        return _cased(f"[{negated}{inner}]", flags)

    def _class_part(self, kind: str, value: Any, flags: int) -> str:
        if kind == "LITERAL":
            return _sign(value)
        if kind == "RANGE":
            return f"{_sign(value[0])}-{_sign(value[1])}"
        if kind == "CATEGORY":
            return self._category(value, flags)
        raise Untranslatable

    def _category(self, category: Any, flags: int) -> str:
        classes = _ASCII_CLASSES if self._is_narrow(flags) else _ANY_CLASSES
        inner = classes.get(str(category).removeprefix("CATEGORY_"))
        if inner is None:
            raise Untranslatable
        return inner

    def _is_narrow(self, flags: int) -> bool:
        return self._is_ascii or bool(flags & re.ASCII)

    def _branch(self, value: Any, flags: int) -> str:
        return f"(?:{'|'.join(self.sequence(branch, flags) for branch in value[1])})"

    def _subpattern(self, value: Any, flags: int) -> str:
        group, added, removed, nodes = value
        inner = self.sequence(nodes, (flags | added) & ~removed)
        return f"(?:{inner})" if group is None else f"({inner})"

    def _max_repeat(self, value: Any, flags: int) -> str:
        fewest, most, nodes = value
        has_end = str(most) != "MAXREPEAT"
        if max(fewest, most if has_end else 0) > _MOST_REPEATS:
            raise Untranslatable
        return f"(?:{self.sequence(nodes, flags)}){{{fewest},{most if has_end else ''}}}"

    def _min_repeat(self, value: Any, flags: int) -> str:
        return self._max_repeat(value, flags) + "?"

    def _at(self, place: Any, flags: int) -> str:
        name = str(place)
        if name in ("AT_BEGINNING", "AT_END") and flags & re.MULTILINE:
            return "(?m:^)" if name == "AT_BEGINNING" else "(?m:$)"
        if name in ("AT_BOUNDARY", "AT_NON_BOUNDARY") and self._is_narrow(flags):
            return r"\b" if name == "AT_BOUNDARY" else r"\B"
        ends = {"AT_BEGINNING": r"\A", "AT_BEGINNING_STRING": r"\A", "AT_END": r"\z", "AT_END_STRING": r"\z"}
        if name not in ends:
            raise Untranslatable
        return ends[name]


def _cased(text: str, flags: int) -> str:
    return f"(?i:{text})" if flags & re.IGNORECASE else text


def _sign(code: int) -> str:
    if 0xD800 <= code <= 0xDFFF:
        raise Untranslatable
    return chr(code) if chr(code).isalnum() and code < 128 else f"\\x{{{code:x}}}"
