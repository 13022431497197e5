"""Writes a text that a regular expression accepts.

Knows no look-around, back references or flags: for those, and for what the lengths rule out, there is no text.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

from raypipe.errors import RowError
from raypipe.security.patterns import compile_pattern

_LETTERS = string.ascii_lowercase
_CLASSES = {
    "d": string.digits,
    "w": string.ascii_lowercase + string.digits,
    "s": " ",
    "D": _LETTERS,
    "W": "-",
    "S": _LETTERS,
}
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_ANYTHING = string.ascii_letters + string.digits + " -_.,:;!?/@#"
_REPEATS = {"?": (0, 1), "*": (0, None), "+": (1, None)}
_BOUNDS = re.compile(r"\{(\d+)(,(\d*))?\}")
_GROUP_START = re.compile(r"\?(?::|P?<[A-Za-z_]\w*>)")
_STRIDE = 7
_LONGEST = 100_000
"""Characters of a text: counts inside counts ask for more than there is memory."""


class _NoTextError(Exception):
    """The pattern has a part that no text is written for."""


def text_for(pattern: str, turn: int, shortest: int = 0, longest: int | None = None) -> str | None:
    """A text that `pattern` finds something in, of `shortest` to `longest` characters; `None`: none was found."""
    for eagerness in (2, 1, 0, 5, 12, shortest):
        try:
            text = _Writer(pattern, turn, eagerness).alternatives()
            is_accepted = compile_pattern(pattern).search(text) is not None
        except (_NoTextError, ValueError, RowError, RecursionError):
            return None
        if is_accepted and shortest <= len(text) and (longest is None or len(text) <= longest):
            return text
    return None


@dataclass
class _Writer:
    """Reads the pattern once from left to right and writes what it asks for."""

    _pattern: str
    _turn: int
    _eagerness: int
    _at: int = 0

    def alternatives(self) -> str:
        """One of the branches up to the end of the pattern, or of the group."""
        branches = [""]
        while self._at < len(self._pattern) and self._pattern[self._at] != ")":
            if self._next_is("|"):
                branches.append("")
                continue
            branches[-1] += self._repeated()
            if len(branches[-1]) > _LONGEST:
                raise _NoTextError
        return branches[self._turn % len(branches)]

    def _repeated(self) -> str:
        """One atom with its quantifier. The texts of an atom are used in turn, so that digits differ."""
        texts = self._atom()
        fewest, most = self._quantifier()
        count = fewest + self._eagerness if most is None else min(most, max(fewest, self._eagerness))
        self._turn += 1
        if count * max(map(len, texts)) > _LONGEST:
            raise _NoTextError
        return "".join(texts[(self._turn + _STRIDE * index) % len(texts)] for index in range(count))

    def _atom(self) -> list[str]:
        sign = self._take()
        if sign == "(":
            return [self._group()]
        if sign == "[":
            return list(self._class())
        if sign == "\\":
            return self._escape()
        if sign == ".":
            return list(_LETTERS)
        return [""] if sign in "^$" else [sign]

    def _group(self) -> str:
        start = _GROUP_START.match(self._pattern, self._at)
        if start:
            self._at = start.end()
        elif self._pattern[self._at : self._at + 1] == "?":
            raise _NoTextError
        written = self.alternatives()
        if not self._next_is(")"):
            raise _NoTextError
        return written

    def _escape(self) -> list[str]:
        sign = self._take()
        if sign in "bBAZ":
            return [""]
        if sign.isdigit() or sign in "xuUNpPkK":
            raise _NoTextError
        return list(_CLASSES.get(sign) or _CONTROL.get(sign, sign))

    def _class(self) -> str:
        is_negated = self._next_is("^")
        signs = ""
        while not (signs and self._pattern.startswith("]", self._at)):
            signs += self._class_part()
        self._at += 1
        if not is_negated:
            return signs
        left = "".join(sign for sign in _ANYTHING if sign not in signs)
        if not left:
            raise _NoTextError
        return left

    def _class_part(self) -> str:
        sign = self._take()
        signs = "".join(self._escape()) if sign == "\\" else sign
        is_range = self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at)
        if len(signs) != 1 or not is_range:
            return signs
        self._at += 1
        end = self._take()
        end = self._take() if end == "\\" else end
        return "".join(map(chr, range(ord(signs), min(ord(end), ord(signs) + 127) + 1)))

    def _quantifier(self) -> tuple[int, int | None]:
        bounds = _BOUNDS.match(self._pattern, self._at)
        if bounds:
            self._at = bounds.end()
            fewest, comma, most = int(bounds[1]), bounds[2], bounds[3]
            found = (fewest, int(most) if most else None) if comma else (fewest, fewest)
        elif self._pattern[self._at : self._at + 1] in _REPEATS and self._at < len(self._pattern):
            found = _REPEATS[self._take()]
        else:
            return 1, 1
        self._next_is("?")
        return found

    def _take(self) -> str:
        if self._at >= len(self._pattern):
            raise _NoTextError
        self._at += 1
        return self._pattern[self._at - 1]

    def _next_is(self, sign: str) -> bool:
        is_next = self._pattern.startswith(sign, self._at)
        self._at += is_next
        return is_next
