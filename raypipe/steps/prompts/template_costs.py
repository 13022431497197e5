"""Says what an operation in a template costs, before it is done.

Knows nothing of templates. A unit is a step, or so many characters or items; what would cost more than is left is not
begun. Methods and filters that make much of little (`center`, `replace`, `join`, `%`) are named here with what they
make.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, cast

import re2
from jinja2 import TemplateRuntimeError

MOST_UNITS = 2_000_000
"""Of one rendering: about a second."""
CHARACTERS_A_UNIT = 64
_ITEMS_A_UNIT = 8
_MOST_BITS = 20_000
"""Of a number."""
_MOST_DIGITS = 9
"""Of a width."""
_MOST_PLACES = 400
_WIDEST_INDENT = 32
_NUMBERS_OF_LOREM, _WORDS_OF_LOREM = 3, 100
"""How many paragraphs, and the fewest and the most words in each, which are so many unless the template says so."""
_UNITS_A_LINK = 20
"""Of a word that may be one."""
_CHEAP = frozenset(("append", "add", "pop", "get", "items", "keys", "values", "clear", "setdefault"))
_CODECS = frozenset(("utf-8", "utf8", "utf-16", "utf-32", "ascii", "latin-1", "iso-8859-1"))
_ENDLESS = 1 << 60

Given = tuple[Any, ...]
Named = Mapping[str, Any]


class ExcessError(TemplateRuntimeError):
    """A template asks for more than one rendering may take."""


class _Budget(threading.local):
    left = 0


_budget = _Budget()


def begin() -> None:
    """A rendering begins in this thread."""
    _budget.left = MOST_UNITS


def spend(units: int) -> bool:
    """Takes so much from what is left, and is true: it may stand in a condition. Raises ExcessError for too much."""
    _budget.left -= units
    if _budget.left < 0:
        raise ExcessError("the template computes too much: loops, repetitions or widths are too large")
    return True


def size(value: Any) -> int:
    """What it costs to read a value to its end; of what is contained several times, each time."""
    if isinstance(value, str | bytes):
        return len(value) // CHARACTERS_A_UNIT
    if not isinstance(value, list | tuple | dict | set | frozenset):
        return len(value) // _ITEMS_A_UNIT if isinstance(value, range) else 0
    units, waiting = 0, [cast("Any", value)]
    while waiting and units <= _budget.left:
        one = waiting.pop()
        units += 1
        if isinstance(one, str | bytes):
            units += len(one) // CHARACTERS_A_UNIT
        elif isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
    return units


def made(value: Any) -> Any:
    """A result, which counts as well; one that comes piece by piece counts as it comes."""
    if isinstance(value, Iterator):
        return (one for one in cast("Iterator[Any]", value) if spend(1))
    spend(_length(value))
    return value


def _length(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value) // CHARACTERS_A_UNIT
    return len(cast("list[Any]", value)) // _ITEMS_A_UNIT if isinstance(value, list | tuple | dict) else 0


def of_operator(operator: str, left: Any, right: Any) -> int:
    """What an arithmetic operation costs. Raises ExcessError for numbers that grow too long."""
    if operator == "%" and isinstance(left, str | bytes):
        return _of_percent(left, right)
    if isinstance(left, int) and isinstance(right, int):
        bits = {"**": left.bit_length() * max(right, 1), "*": left.bit_length() + right.bit_length()}
        if bits.get(operator, max(left.bit_length(), right.bit_length())) > _MOST_BITS:
            raise ExcessError(f"a number has more than {_MOST_BITS} bits")
        return 0
    if operator == "*":
        several, count = (left, right) if isinstance(right, int) else (right, left)
        if isinstance(several, str | bytes | list | tuple) and isinstance(count, int):
            part = CHARACTERS_A_UNIT if isinstance(several, str | bytes) else _ITEMS_A_UNIT
            return len(several) * max(count, 0) // part
    return _length(left) + _length(right)


def of_call(name: str, owner: Any, args: Given, kwargs: Named) -> int:
    """What a call costs besides its arguments."""
    given = (*args, *kwargs.values())
    if isinstance(owner, str | bytes):
        return _length(owner) + _of_text_method(name, owner, given)
    if name in ("to_bytes", "generate_lorem_ipsum"):
        numbers = [max(abs(one), 1) for one in given if isinstance(one, int) and not isinstance(one, bool)]
        is_text = name == "generate_lorem_ipsum" and len(numbers) < _NUMBERS_OF_LOREM
        return prod(min(one, _ENDLESS) for one in numbers) * (_WORDS_OF_LOREM if is_text else 1)
    is_whole = isinstance(owner, list | dict | set) and name not in _CHEAP
    return size(owner) if is_whole else 0


def _of_text_method(name: str, text: str | bytes, given: Given) -> int:
    if name in ("center", "ljust", "rjust", "zfill"):
        return _characters(sum(_numbers(given)))
    if name == "expandtabs":
        return _characters(len(text) * max([8, *_numbers(given)]))
    if name == "replace" and len(given) > 1:
        return _of_replacing(text, given[0], given[1])
    if name == "join" and given:
        return _characters(len(text) * _count(given[0]))
    if name == "translate" and given and isinstance(given[0], dict):
        longest = max((len(one) for one in cast("Named", given[0]).values() if isinstance(one, str)), default=1)
        return _characters(len(text) * longest)
    if name in ("strip", "lstrip", "rstrip", "rfind", "rindex", "rsplit", "rpartition") and given:
        return _characters(len(text) * _count(given[0]))
    if name in ("encode", "decode") and given and str(given[0]).lower() not in _CODECS:
        raise ExcessError(f"{str(given[0])[:40]!r} is no encoding here (known: {', '.join(sorted(_CODECS))})")
    return 0


def _at_most(is_more: bool, problem: str) -> int:
    """Nothing, for what is within its bounds. Raises ExcessError otherwise."""
    if is_more:
        raise ExcessError(problem)
    return 0


def _of_longest_word(text: Any) -> int:
    return _characters(max(map(len, str(text).split()), default=0) ** 2)


FILTERS: dict[str, Callable[[Any, Given], int]] = {
    "center": lambda _, given: _characters(sum(_numbers(given))),
    "indent": lambda text, given: _characters(
        (str(text).count("\n") + 1) * max([_longest(given, 4), *_numbers(given)])
    ),
    "replace": lambda text, given: _of_replacing(str(text), *map(str, given[:2])) if len(given) > 1 else 0,
    "join": lambda values, given: _characters(_count(values) * _longest(given, 0)),
    "format": lambda text, given: _of_percent(text, given),
    "batch": lambda _, given: _characters(_ITEMS_A_UNIT * sum(_numbers(given))) if len(given) > 1 else 0,
    "round": lambda _, given: _at_most(
        any(abs(one) > _MOST_PLACES for one in _numbers(given)), f"a number is rounded to at most {_MOST_PLACES} places"
    ),
    "tojson": lambda _, given: _at_most(
        any(one > _WIDEST_INDENT for one in _numbers(given)) or _longest(given, 0) > _WIDEST_INDENT,
        f"JSON is indented by at most {_WIDEST_INDENT}",
    ),
    "wordwrap": lambda text, given: _characters(len(str(text)) * _longest(given, 1)) + _of_longest_word(text),
    "urlize": lambda text, _: _of_longest_word(text) + _UNITS_A_LINK * len(str(text).split()),
    "trim": lambda text, given: _characters(len(str(text)) * _longest(given, 0)),
    "sum": lambda values, given: _count(values) ** 2 if any(isinstance(one, list | tuple) for one in given) else 0,
    "pprint": lambda value, _: 8 * size(value),
}
"""What a filter costs besides what it is given and makes, by its name: of the value, and of its arguments."""


def _of_percent(text: Any, given: Any) -> int:
    """`'%9d' % 1`: the widths that the text or, for `*`, the values name, and each value for each place."""
    shown = text.decode("latin-1") if isinstance(text, bytes) else str(text)
    widths = of_widths(_PERCENT_WIDTHS, shown)
    if "*" in shown:
        values = cast("Given", given) if isinstance(given, tuple) else (given,)
        widths += _characters(sum(abs(one) for one in _numbers(values)))
    return widths + shown.count("%") * (1 + size(given))


def of_widths(pattern: str, spec: str) -> int:
    """What the widths cost that `pattern` finds in a format, such as the 20 of `{:>20}`."""
    widths = re2.findall(pattern, spec)
    if any(len(one) > _MOST_DIGITS for one in widths):
        raise ExcessError(f"a width in a format has more than {_MOST_DIGITS} digits")
    return _characters(sum(map(int, widths)))


WIDTHS = r"[0-9]{3,}"
_PERCENT_WIDTHS = r"([0-9]{3,})(?:\.[0-9]*|\.\*)?[hlL]*[diouxXeEfFgGcrsa%]"


def _of_replacing(text: Any, old: Any, new: Any) -> int:
    if not (isinstance(text, str | bytes) and isinstance(old, str | bytes) and isinstance(new, str | bytes)):
        return 0
    places = len(text) + 1 if not old else text.count(cast("Any", old))
    return _characters(places * len(new))


def _characters(count: int) -> int:
    return min(count, _ENDLESS) // CHARACTERS_A_UNIT


def _numbers(given: Given) -> list[int]:
    return [one for one in given if isinstance(one, int)]


def _count(value: Any) -> int:
    return len(cast("list[Any]", value)) if hasattr(value, "__len__") else 0


def _longest(given: Given, least: int) -> int:
    """Length of the longest text that is given."""
    return max([least, *(len(one) for one in given if isinstance(one, str | bytes))])


def without_tags(value: Any) -> str:
    """Jinja's `striptags` in one pass: without comments and tags, its spaces one each, its entities read."""
    text = str(value.__html__() if hasattr(value, "__html__") else value)
    return html.unescape(" ".join(re2.sub(_COMMENTS_AND_TAGS, "", text).split()))


_COMMENTS_AND_TAGS = r"(?s)<!--.*?-->|<[^>]*>"
