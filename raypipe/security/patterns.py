"""Searches texts with regular expressions that others wrote, in time that grows with the text alone.

Knows nothing of where a pattern or a text comes from. Python's `re` tries alternatives one after the other: a pattern
of a dozen characters may never end, even `\\s*x` takes hours on a megabyte of spaces, and meanwhile no other thread
runs. So it is translated to RE2 (https://github.com/google/re2), whose time is linear, wherever it means the same
there. What RE2 cannot say (look-around, back references, counts over 1,000) or would take otherwise in this text
(`\\b` between letters beyond ASCII, `$` before a last line break) is searched by `regex`, which is Python's syntax
with a deadline and lets other threads work meanwhile.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, cast

from raypipe.errors import RowError, shorten
from raypipe.security.re2_syntax import Untranslatable, expanded_size, to_re2

DEADLINE_S = 2.0
"""Longest that a search without a bound of its own may take."""
_LONGEST_PATTERN = 20_000
_LARGEST = 50_000
"""Parts of a pattern with its counts written out."""
_MOST_WORK = 100_000_000
"""Instructions of the pattern times characters of the text, about half a second: RE2's worst case."""
_MOST_MEMORY_BYTES = 4 << 20


class Match(NamedTuple):
    """What was found: the whole of it, and its groups in order."""

    whole: str
    groups: tuple[str | None, ...]


class Pattern:
    """A regular expression in Python's syntax. It travels to workers as its text."""

    def __init__(self, text: str) -> None:
        """Raises ValueError with the reason why `text` is not a regular expression."""
        if len(text) > _LONGEST_PATTERN:
            raise ValueError(f"it has {len(text)} characters, more than {_LONGEST_PATTERN}")
        try:
            known = re.compile(text)
            size = expanded_size(text)
        except (re.error, OverflowError) as error:
            raise ValueError(str(error)) from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if size > _LARGEST:
            raise ValueError(f"its repetitions make {size} parts of it, more than {_LARGEST}")
        self.pattern = text
        self.flags = known.flags
        self.groups = known.groups
        self.groupindex = dict(known.groupindex)

    # Compiled when they are first needed; `None` where RE2 would mean something else.
    _for_ascii: Any = cached_property(lambda self: _compile_re2(self.pattern, is_ascii=True))
    _for_any: Any = cached_property(lambda self: _compile_re2(self.pattern, is_ascii=False))

    def __reduce__(self) -> tuple[Any, ...]:
        return compile_pattern, (self.pattern,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.pattern == other.pattern

    def __hash__(self) -> int:
        return hash(self.pattern)

    @property
    def is_linear(self) -> bool:
        """Whether most texts are searched in linear time, and not until a deadline."""
        return self._for_ascii is not None

    def search(self, text: str, *, method: str = "search") -> Match | None:
        """The first place that matches. Raises RowError (`pattern`) when that takes too long."""
        linear = self._for_ascii if text.isascii() else self._for_any
        # RE2 knows no `$` that stands before a last line break, and no half of a surrogate pair.
        is_odd = "$" in self.pattern and text.endswith("\n")
        if linear is None or is_odd or len(text) * linear.programsize > _MOST_WORK:
            return self._search_until_deadline(method, text)
        try:
            found = getattr(linear, method)(text)
        except UnicodeEncodeError:
            return self._search_until_deadline(method, text)
        return None if found is None else Match(found[0], found.groups())

    def fullmatch(self, text: str) -> Match | None:
        """The text, if all of it matches. Raises RowError (`pattern`) when that takes too long."""
        return self.search(text, method="fullmatch")

    def _search_until_deadline(self, method: str, text: str) -> Match | None:
        try:
            found = getattr(self._backtracking, method)(text, timeout=DEADLINE_S, concurrent=True)
        except TimeoutError:
            problem = f"the pattern {shorten(repr(self.pattern))} took longer than {DEADLINE_S:g} s on a text of"
            advice = "write it without repetitions inside repetitions, look-around and back references"
            raise RowError(f"{problem} {len(text)} characters; {advice}", kind="pattern") from None
        return None if found is None else Match(found[0], found.groups())

    @cached_property
    def _backtracking(self) -> Any:
        import regex

        try:
            return cast("Any", regex).compile(self.pattern, regex.V0)
        except regex.error as error:
            problem = f"the pattern {shorten(repr(self.pattern))} cannot be searched with a deadline: {error}"
            raise RowError(problem, kind="pattern") from None


@lru_cache(maxsize=512)
def compile_pattern(text: str) -> Pattern:
    """The pattern of `text`, compiled once. Raises ValueError with the reason why it is not a regular expression."""
    return Pattern(text)


def _compile_re2(text: str, *, is_ascii: bool) -> Any:
    """What RE2 makes of the pattern; `None` where it would mean something else or be too large."""
    import re2

    options: Any = re2.Options()
    options.log_errors = False
    options.max_mem = _MOST_MEMORY_BYTES
    try:
        return re2.compile(to_re2(text, is_ascii=is_ascii), options)
    except (Untranslatable, re2.error):
        return None
