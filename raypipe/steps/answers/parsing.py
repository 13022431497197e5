"""Turns a model's text into a value.

Knows nothing of which columns the value becomes. A parser takes the text and returns a value, a list,
a mapping or a tuple; text that it cannot use fails its row, never the run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from inspect import isgenerator
from typing import Any, cast

from raypipe.contracts.imports import imported
from raypipe.errors import RowError, SpecError, nearest, shorten
from raypipe.security.patterns import Pattern, compile_pattern
from raypipe.security.untrusted_text import load_json
from raypipe.steps.answers.json_repair import repair_json

Parser = Callable[[str], Any]

_BULLETS = re.compile(r"\A\s*(?:(?:[-*+\u2022\u2023\u2013]|\(?\d{1,3}[.)])\s+)*")
_FENCE = re.compile(r"```[\w-]*[^\S\n]*\n(.*?)```", re.DOTALL)
_TAG = re.compile(r"<(/?)([A-Za-z_][\w.-]*)>")
_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_SHOWN = 80
_PARSE_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a parser of the user's own raises on text of a form it does not know."""


def unparsable(text: str, wanted: str) -> RowError:
    """The failure of a row whose completion is not what was asked for."""
    shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return RowError(f"the completion has no {wanted}: {shown!r}", kind="parse")


def parser(parse: str | Parser, *, pattern: str | None = None, names: Sequence[str] = ()) -> Parser:
    """The parser called `parse`: a name of `PARSERS`, `tags`, `regex`, a dotted path, or a function.

    `names` are the tags wanted, `pattern` belongs to `regex`. Raises SpecError when there is no such parser.
    """
    if pattern is not None and parse != "regex":
        raise SpecError.of("pattern", "belongs to parse='regex'; leave it out or set parse='regex'")
    if not isinstance(parse, str):
        return _guard(parse)
    if parse == "regex":
        return _pattern_parser(parser_pattern(pattern))
    if parse == "tags":
        return _tag_parser(tuple(names))
    if parse in PARSERS:
        return PARSERS[parse]
    if "." in parse or ":" in parse:
        return _guard(imported(parse))
    hint = nearest(parse, [*PARSERS, "tags", "regex"])
    problem = f"{parse!r} is not a parser{hint}; your own is written module:function"
    raise SpecError.of("parse", problem)


def as_json(text: str) -> Any:
    """The JSON value in the text, which may stand in a fence or need repair."""
    found = read_json(text)
    if found is not None:
        return found
    raise unparsable(text, "JSON value")


def as_json_list(text: str) -> list[Any]:
    """The JSON list in the text; an object with a single list in it stands for that list."""
    found = read_json(text)
    if isinstance(found, dict):
        inner = list(cast(dict[str, Any], found).values())
        found = inner[0] if len(inner) == 1 else None
    if isinstance(found, list):
        return cast(list[Any], found)
    raise unparsable(text, "JSON list")


def as_comma_list(text: str) -> list[str]:
    """Items between commas, without quotes, bullets, numbers and the full stop at the end."""
    bare = text.strip().removesuffix(".")
    parts = bare.split(",") if "," in bare else bare.splitlines()
    unquoted = (_BULLETS.sub("", " ".join(part.split()).strip(_QUOTES), count=1).strip() for part in parts)
    items = [item for one in unquoted if (item := one.strip(_QUOTES).strip())]
    if not items:
        raise unparsable(text, "list of items between commas")
    return items


def as_lines(text: str) -> list[str]:
    """Lines that are not blank, without bullets and numbers."""
    whole = (line for line in text.splitlines() if not line.lstrip().startswith("```"))
    lines = [bare for line in whole if (bare := _BULLETS.sub("", line, count=1).strip())]
    if not lines:
        raise unparsable(text, "line of text")
    return lines


PARSERS: dict[str, Parser] = {
    "text": str.strip,
    "json": as_json,
    "json_list": as_json_list,
    "comma_list": as_comma_list,
    "lines": as_lines,
}
"""Parsers that need no settings."""

TYPES = {"text": "string", "comma_list": "list<string>", "lines": "list<string>", "tags": "string", "regex": "string"}
"""Arrow type of the value, or of each of its columns, where a parser's name decides it."""


def read_json(text: str, *, repair: bool = True) -> Any:
    """The JSON value in the text, `None` when there is none; a repaired value is always a list or an object.

    What comes back can be stored: no lone surrogates, no numbers over 64 bits, not nested too deeply.
    """
    for candidate in (text, *_FENCE.findall(text)):
        try:
            return load_json(candidate)
        except ValueError:
            continue
    return repair_json(text) if repair else None


def _tag_parser(names: tuple[str, ...]) -> Parser:
    def as_tags(text: str) -> dict[str, str]:
        """The text in each `<tag>…</tag>`; of equal tags the last, which is where models correct themselves."""
        found: dict[str, str] = {}
        opened: dict[str, int] = {}
        for tag in _TAG.finditer(text):
            closes, name = tag.groups()
            if not closes:
                opened.setdefault(name, tag.end())
            elif name in opened:
                found[name] = text[opened.pop(name) : tag.start()].strip()
        missing = [name for name in names or ("…",) if name not in found]
        if missing and (names or not found):
            raise unparsable(text, f"<{missing[0]}>…</{missing[0]}>")
        return {name: found[name] for name in names} if names else found

    return as_tags


def parser_pattern(pattern: str | None) -> Pattern:
    """Raises SpecError when `pattern` is missing or no regular expression."""
    if pattern is None:
        raise SpecError.of("pattern", "is required with parse='regex'")
    try:
        return compile_pattern(pattern)
    except ValueError as error:
        problem = f"{shorten(repr(pattern))} is not a regular expression: {error}"
        raise SpecError.of("pattern", problem) from None


def _pattern_parser(pattern: Pattern) -> Parser:
    def as_match(text: str) -> Any:
        found = pattern.search(text)
        if found is None:
            raise unparsable(text, f"match of {pattern.pattern!r}")
        if pattern.groupindex:
            return {name: found.groups[number - 1] for name, number in pattern.groupindex.items()}
        return found.groups if pattern.groups > 1 else (*found.groups, found.whole)[0]

    cast(Any, as_match).may_take_long = not pattern.is_linear
    return as_match


def _guard(function: Any) -> Parser:
    """A parser of the user's own whose errors fail the row as unparsable text."""
    if not callable(function):
        raise SpecError.of("parse", f"{function!r} cannot be called; name a function")

    def parsed(text: str) -> Any:
        try:
            value = function(text)
            value = list(cast(Any, value)) if isgenerator(value) else value
        except _PARSE_ERRORS as error:
            raise unparsable(text, f"parsable form ({type(error).__name__}: {error})") from None
        if value is None:
            raise unparsable(text, "value for the parser")
        return value

    cast(Any, parsed).may_take_long = True
    return parsed


def mapped(value: Any, names: Sequence[str]) -> dict[str, Any]:
    """A parsed value as the columns `names`: a mapping by key, a tuple or list in order.

    Raises RowError (`parse`) when it does not fit.
    """
    if isinstance(value, Mapping):
        keyed = cast(Mapping[str, Any], value)
        missing = [name for name in names if name not in keyed]
        if missing:
            had = ", ".join(repr(key) for key in keyed) or "nothing"
            raise RowError(f"the parsed completion has no {missing[0]!r}, only {had}", kind="parse")
        return {name: keyed[name] for name in names}
    values = cast(Sequence[Any], value) if isinstance(value, list | tuple) else (value,)
    if len(values) != len(names):
        problem = f"the parsed completion has {len(values)} values for {len(names)} columns ({', '.join(names)})"
        raise RowError(problem, kind="parse")
    return dict(zip(names, values, strict=True))
