"""Values that a user's code may hand over, as recipes: plain data that says how to make each where it is needed."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import io
import pathlib
import re
import threading
import types
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import strategies as st
from pydantic import BaseModel

Recipe = tuple[str, Any]


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Flag(enum.Flag):
    A = 1
    B = 2


class Model(BaseModel):
    a: int = 1
    b: list[str] = []


@dataclasses.dataclass
class Data:
    a: int = 1
    b: Any = None


class Pair(NamedTuple):
    left: int
    right: str


class Rude:
    """Answers every question with an exception."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attribute")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __len__(self) -> int:
        return 3 << 30

    def __iter__(self) -> Any:
        raise RuntimeError("no items")


class Liar:
    """Says that it is a text."""

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return str


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Table(dict[str, Any]):
    pass


class Endless:
    """A sequence without an end."""

    def __getitem__(self, index: int) -> int:
        return index

    def __len__(self) -> int:
        return 3


class Array:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no array")

    def tolist(self) -> Any:
        raise RuntimeError("no list")

    def item(self) -> Any:
        raise RuntimeError("no item")


def _cycle() -> Any:
    made: list[Any] = [1]
    made.append(made)
    return made


def _deep(levels: int, of: Callable[[Any], Any]) -> Any:
    made: Any = 1
    for _ in range(levels):
        made = of(made)
    return made


LEAVES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "true": lambda: True,
    "zero": lambda: 0,
    "int": lambda: 7,
    "negative": lambda: -(2**63),
    "huge": lambda: 2**64,
    "larger": lambda: 10**400,
    "float": lambda: 0.5,
    "whole float": lambda: 1.0,
    "minus zero": lambda: -0.0,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "large float": lambda: 1e308,
    "text": lambda: "text",
    "empty text": lambda: "",
    "blank": lambda: "  \n",
    "json": lambda: '{"a": [1, null]}',
    "null text": lambda: "null",
    "zero byte": lambda: "a\0b",
    "emoji": lambda: "\U0001f600é",
    "surrogate": lambda: "half \ud83d",
    "rtl": lambda: "\u202eabc",
    "long": lambda: "x" * 100_000,
    "bytes": lambda: b"\x00\xff",
    "bytearray": lambda: bytearray(b"ab"),
    "memoryview": lambda: memoryview(b"ab"),
    "complex": lambda: 1 + 2j,
    "fraction": lambda: fractions.Fraction(1, 3),
    "decimal": lambda: decimal.Decimal("1.10"),
    "decimal nan": lambda: decimal.Decimal("NaN"),
    "date": lambda: dt.date(2026, 1, 2),
    "first date": lambda: dt.date.min,
    "datetime": lambda: dt.datetime(2026, 1, 2, 3, 4, 5, 6),
    "last datetime": lambda: dt.datetime.max,
    "aware": lambda: dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=45))),
    "time": lambda: dt.time(1, 2, 3),
    "timedelta": lambda: dt.timedelta(days=-1, microseconds=1),
    "longest": lambda: dt.timedelta.max,
    "uuid": lambda: uuid.UUID(int=5),
    "path": lambda: pathlib.Path("a/b"),
    "enum": lambda: Colour.RED,
    "int enum": lambda: Number.ONE,
    "flag": lambda: Flag.A | Flag.B,
    "model": lambda: Model(a=1, b=["x"]),
    "model class": lambda: Model,
    "dataclass": lambda: Data(1, [2]),
    "namedtuple": lambda: Pair(1, "r"),
    "text subclass": lambda: Text("sub"),
    "int subclass": lambda: Whole(3),
    "dict subclass": lambda: Table(a=1),
    "counter": lambda: collections.Counter("aab"),
    "ordered": lambda: collections.OrderedDict(b=1, a=2),
    "defaultdict": lambda: collections.defaultdict(list, a=[1]),
    "deque": lambda: collections.deque([1, 2]),
    "proxy": lambda: types.MappingProxyType({"a": 1}),
    "namespace": lambda: types.SimpleNamespace(a=1),
    "set": lambda: {1, 2},
    "frozenset": lambda: frozenset({"a"}),
    "mixed set": lambda: {1, "a", None},
    "tuple": lambda: (1, 2),
    "empty tuple": lambda: (),
    "range": lambda: range(3),
    "empty list": list,
    "empty dict": dict,
    "keys": lambda: {"a": 1}.keys(),
    "items": lambda: {"a": 1}.items(),
    "values": lambda: {"a": 1}.values(),
    "int keys": lambda: {1: "a", None: "b", (1, 2): "c"},
    "clashing keys": lambda: {1: "a", "1": "b"},
    "rude key": lambda: {"a": Rude()},
    "generator": lambda: (number for number in range(3)),
    "iterator": lambda: iter([1]),
    "map": lambda: map(str, [1]),
    "endless": Endless,
    "coroutine function": lambda: _coroutine,
    "lambda": lambda: lambda: 1,
    "class": lambda: Rude,
    "module": lambda: re,
    "object": object,
    "rude": Rude,
    "liar": Liar,
    "lock": threading.Lock,
    "file": io.StringIO,
    "pattern": lambda: re.compile("a+"),
    "match": lambda: re.match("a", "a"),
    "exception": lambda: ValueError("as a value"),
    "type": lambda: int,
    "ellipsis": lambda: ...,
    "not implemented": lambda: NotImplemented,
    "numpy int": lambda: np.int64(5),
    "numpy bool": lambda: np.bool_(True),
    "numpy float": lambda: np.float32(0.1),
    "numpy half": lambda: np.float16(0.1),
    "numpy nan": lambda: np.float64("nan"),
    "numpy text": lambda: np.str_("np"),
    "numpy bytes": lambda: np.bytes_(b"np"),
    "numpy date": lambda: np.datetime64("2026-01-02T03:04:05"),
    "numpy nat": lambda: np.datetime64("NaT"),
    "numpy delta": lambda: np.timedelta64(5, "s"),
    "numpy void": lambda: np.void(b"ab"),
    "numpy array": lambda: np.arange(3),
    "numpy matrix": lambda: np.zeros((100, 100)),
    "numpy empty": lambda: np.array([]),
    "numpy scalar array": lambda: np.array(5),
    "numpy objects": lambda: np.array([1, "a", None], dtype=object),
    "numpy records": lambda: np.array([(1, "a")], dtype=[("x", "i4"), ("y", "U1")]),
    "numpy complex": lambda: np.array([1j]),
    "numpy masked": lambda: np.ma.masked_array([1, 2], mask=[True, False]),
    "series": lambda: pd.Series([1, 2]),
    "frame": lambda: pd.DataFrame({"a": [1]}),
    "index": lambda: pd.Index([1]),
    "timestamp": lambda: pd.Timestamp("2026-01-02T03:04:05.000000001"),
    "nat": lambda: pd.NaT,
    "na": lambda: pd.NA,
    "categorical": lambda: pd.Categorical(["a"]),
    "interval": lambda: pd.Interval(0, 1),
    "period": lambda: pd.Period("2026-01"),
    "arrow scalar": lambda: pa.scalar(5),
    "arrow array": lambda: pa.array([1, None]),
    "arrow table": lambda: pa.table({"a": [1]}),
    "broken array": Array,
    "cycle": _cycle,
    "deep list": lambda: _deep(10_000, lambda inner: [inner]),
    "deep dict": lambda: _deep(10_000, lambda inner: {"a": inner}),
    "deep enough": lambda: _deep(60, lambda inner: [inner]),
    "empty struct": lambda: {"meta": {}},
    "empty structs": lambda: [{}, {}],
    "nested empty": lambda: {"a": [{"b": {}}]},
    "wide dict": lambda: {f"key {number}": number for number in range(500)},
    "ragged": lambda: [[1], [], [[2]], None, "x"],
    "mixed": lambda: [1, "a", None, 0.5, True, b"x"],
    "large ints": lambda: [2**63, -1],
    "dates": lambda: [dt.date(2026, 1, 2), dt.datetime(2026, 1, 2)],
}


async def _coroutine() -> None:
    """A coroutine that nobody awaits is never made: only its function is handed over."""


PLAIN = frozenset(
    {"none", "true", "zero", "int", "negative", "float", "minus zero", "large float", "text", "empty text", "blank"}
    | {"json", "null text", "zero byte", "emoji", "rtl", "long", "empty list"}
)
"""Leaves that come out as they went in, wherever JSON can say them."""

KEYS = ["a", "b", "", "with space", "~x", "_row_id", "a.b", "é", "0", "very long " * 30]


def recipes(leaves: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Recipe]:
    """Recipes of leaves and of lists, mappings, tuples and sets of them."""
    leaf = st.tuples(st.just("leaf"), leaves if leaves is not None else st.sampled_from(sorted(LEAVES)))
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.tuples(st.just("list"), st.lists(inner, max_size=4)),
            st.tuples(st.just("dict"), st.lists(st.tuples(st.sampled_from(KEYS), inner), max_size=4)),
            st.tuples(st.just("tuple"), st.lists(inner, max_size=3)),
            st.tuples(st.just("dataclass"), st.lists(inner, max_size=1)),
        ),
        max_leaves=6,
    )


def make(recipe: Recipe) -> Any:
    """The value of a recipe."""
    kind, what = recipe
    if kind == "leaf":
        return LEAVES[what]()
    if kind == "dict":
        return {key: make(inner) for key, inner in what}
    made = [make(inner) for inner in what]
    if kind == "dataclass":
        return Data(1, made)
    return tuple(made) if kind == "tuple" else made


def is_plain(recipe: Recipe) -> bool:
    """Whether JSON says the value as it is."""
    kind, what = recipe
    if kind == "leaf":
        return what in PLAIN
    if kind == "dict":
        return bool(what) and all(is_plain(inner) for _, inner in what)
    return kind == "list" and bool(what) and all(is_plain(inner) for inner in what)


class SilentError(Exception):
    """An exception without a text that can be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class OddError(Exception):
    """An exception that cannot be pickled, with an argument that cannot be said."""

    def __init__(self, one: Any, two: Any) -> None:
        super().__init__(Rude())
        self.one, self.two = one, two


ERRORS: dict[str, Callable[[], BaseException]] = {
    "plain": lambda: ValueError("plain"),
    "empty": ValueError,
    "many lines": lambda: ValueError("one\ntwo\r\n\x1b[31mthree\x00"),
    "long": lambda: ValueError("x" * 1_000_000),
    "surrogate": lambda: ValueError("half \ud83d"),
    "silent": SilentError,
    "odd": lambda: OddError(1, 2),
    "rude argument": lambda: ValueError(Rude()),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
    "os": lambda: OSError(28, "No space left on device"),
    "missing": lambda: FileNotFoundError(2, "No such file", "/nowhere"),
    "timeout": TimeoutError,
    "memory": MemoryError,
    "recursion": RecursionError,
    "stop": StopIteration,
    "async stop": StopAsyncIteration,
    "key": lambda: KeyError(("a", Rude())),
    "assertion": AssertionError,
    "group": lambda: ExceptionGroup("several", [ValueError("a"), OSError("b")]),
    "exit": lambda: SystemExit(3),
    "interrupt of a library": lambda: KeyboardInterrupt("from a library"),
    "broken pipe": BrokenPipeError,
    "connection": ConnectionResetError,
    "system": lambda: SystemError("bad"),
    "not implemented": NotImplementedError,
}
