"""What user code hands over becomes what it means, or is refused; it is never printed."""

from __future__ import annotations

import collections
import dataclasses
import enum
import io
import math
from array import array
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pydantic
import pytest

from raypipe.values import exact
from raypipe.values.plain import MOST_DEPTH, NotPlainError, to_plain


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: Any


@dataclasses.dataclass(slots=True)
class Held:
    name: str
    inner: Any = None


class Answer(pydantic.BaseModel):
    text: str
    colour: Colour = Colour.RED


class Text(str):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")


class Number(int):
    def __int__(self) -> int:
        raise RuntimeError("no number")

    __index__ = __int__


class Bag(dict[Any, Any]):
    def items(self) -> Any:
        raise RuntimeError("no items")


class Lying:
    """Says of itself what is not so."""

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError("no class")


class Boasting(Sequence[int]):
    """Claims 3 GiB of items and has two."""

    def __len__(self) -> int:
        return 3 * 2**30

    def __getitem__(self, index: Any) -> Any:
        if index > 1:
            raise IndexError
        return index


def subclass(base: type) -> type:
    return type(f"My{base.__name__}", (base,), {})


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (np.arange(100 * 100).reshape(100, 100), [list(range(at, at + 100)) for at in range(0, 10_000, 100)]),
        (np.float32(0.5), 0.5),
        (np.int64(2), 2),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(3), 3),
        (np.array(["a", None, {"b": np.int8(1)}], object), ["a", None, {"b": 1}]),
        (np.datetime64("2025-01-02"), date(2025, 1, 2)),
        (np.array(["2025-01-02"], "datetime64[ns]"), [datetime(2025, 1, 2)]),
        (np.datetime64("2025-01-02T00:00:00.000000001"), "2025-01-02T00:00:00.000000001"),
        (np.datetime64("NaT"), None),
        (np.timedelta64(1, "s"), timedelta(seconds=1)),
        (np.array([(1, 2.5)], [("a", int), ("b", float)]), [{"a": 1, "b": 2.5}]),
        (np.ma.masked_array([1, 2], [True, False]), [None, 2]),
        (np.longdouble(0.5), 0.5),
        (Answer(text="a"), {"text": "a", "colour": "red"}),
        ([Answer(text="a")], [{"text": "a", "colour": "red"}]),
        (Held("a", Held("b")), {"name": "a", "inner": {"name": "b", "inner": None}}),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Point(1, Path("a/b")), {"x": 1, "y": "a/b"}),
        (PurePosixPath("/a"), "/a"),
        (date(2025, 1, 2), date(2025, 1, 2)),
        ({1, 2}, {1, 2}),
        (frozenset({1}), frozenset({1})),
        ((1, (2,)), (1, (2,))),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        ({"a": 1}.items(), [("a", 1)]),
        (range(3), [0, 1, 2]),
        (collections.deque([1, 2]), [1, 2]),
        (array("i", [1, 2]), [1, 2]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.UserDict({"a": 1}), {"a": 1}),
        (collections.UserList([1]), [1]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (bytearray(b"a"), b"a"),
        (memoryview(b"a"), b"a"),
        (Text("a"), "a"),
        (Number(3), 3),
        (Bag(a=1), {"a": 1}),
        (subclass(float)(-0.0), -0.0),
        (subclass(list)([1]), [1]),
        (subclass(bytes)(b"a"), b"a"),
        (subclass(datetime)(2025, 1, 2, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC)),
        (Boasting(), [0, 1]),
        ({1: "a", (1, 2): "b", Colour.RED: "c", None: "d"}, {1: "a", (1, 2): "b", "red": "c", None: "d"}),
        (2**70, 2**70),
        ("half \ud83d", "half \ud83d"),
        (Decimal("1.50"), Decimal("1.50")),
        (True, True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_becomes_what_it_means_and_travels_as_it_is(value: Any, meant: Any) -> None:
    made = to_plain(value)
    assert (type(made), repr(made)) == (type(meant), repr(meant))
    assert repr(exact.loads(exact.dumps(made))) == repr(made)


def test_frames_of_pandas_become_what_they_mean() -> None:
    pandas = pytest.importorskip("pandas")
    assert to_plain(pandas.Series([1, 2])) == [1, 2]
    assert to_plain(pandas.Series(["a", None], dtype="string")) == ["a", None]
    assert to_plain(pandas.Timestamp("2025-01-02", tz="UTC")) == datetime(2025, 1, 2, tzinfo=UTC)
    assert type(to_plain(pandas.Timestamp("2025-01-02"))) is datetime
    assert to_plain(pandas.Timedelta("1s")) == timedelta(seconds=1)
    assert to_plain([pandas.NaT, pandas.NA]) == [None, None]
    assert to_plain(pandas.DataFrame({"a": [1, 2]})) == [{"a": 1}, {"a": 2}]
    assert to_plain(pandas.Index(["a"])) == ["a"]
    assert to_plain(pandas.Categorical(["a", "b"])) == ["a", "b"]
    assert to_plain(pandas.Period("2025-01")) == "2025-01"


def test_tensors_of_torch_become_lists() -> None:
    torch = pytest.importorskip("torch")
    assert to_plain(torch.tensor([[1.5], [2.5]], requires_grad=True)) == [[1.5], [2.5]]
    assert to_plain({"x": torch.tensor(3)}) == {"x": 3}
    assert to_plain(torch.zeros(2, dtype=torch.bfloat16)) == [0.0, 0.0]
    assert to_plain(torch.zeros(2, 3).shape) == [2, 3]


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def holding_itself() -> list[Any]:
    value: list[Any] = [1]
    value.append({"inside": value})
    return value


def laughing() -> list[Any]:
    """Small, and beyond all bounds once it is taken apart."""
    value: list[Any] = ["ha"] * 10
    for _ in range(20):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "a object"),
        ((n for n in ()), "a generator"),
        (iter([]), "a list_iterator"),
        (len, "a builtin_function_or_method"),
        (lambda: 0, "a function"),
        (io.StringIO(), "a StringIO"),
        (Lying(), "a Lying"),
        (1j, "a complex"),
        (np.array([1j]), "a ndarray"),
        (Fraction(1, 2), "a Fraction"),
        (Answer, "a ModelMetaclass"),
        (ValueError("x"), "a ValueError"),
        (..., "a ellipsis"),
        (deep(10_000), f"a value nested more than {MOST_DEPTH} deep"),
        (holding_itself(), "a list that holds itself"),
        (10**6000, "an integer of 19,932 bits"),
        (np.lib.stride_tricks.as_strided(np.zeros(1), (2**40,), (0,)), "an array of 1,099,511,627,776 values"),
        (range(10**12), "a value with more than 5,000,000 others in it"),
        (laughing(), "a value with more than 5,000,000 others in it"),
        ({Colour.RED: 1, "red": 2}, "a mapping with two keys that are 'red'"),
        ([1, {"a": object()}], "a object"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_means_no_plain_value_is_refused(value: Any, said: str) -> None:
    with pytest.raises(NotPlainError) as caught:
        to_plain(value)
    assert str(caught.value) == said


def test_a_mapping_of_its_own_kind_is_read_by_its_keys() -> None:
    class Squares(Mapping[str, int]):
        def __getitem__(self, key: str) -> int:
            return int(key) ** 2

        def __iter__(self) -> Any:
            return iter("12")

        def __len__(self) -> int:
            return 3 * 2**30

    assert to_plain(Squares()) == {"1": 1, "2": 4}


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, -0.0, 2**64, -(2**63) - 1, {"$": 1}, {"v": {"$": "x"}}]
)
def test_a_value_that_json_cannot_say_is_read_back_as_it_was(value: Any) -> None:
    assert repr(exact.loads(exact.dumps(value))) == repr(value)


@pytest.mark.parametrize("text", [b'{"$":"os.system","v":"true"}', b'{"$":"tuple"}', b'{"$":[],"v":1}', b"\x80\x04."])
def test_a_text_that_nobody_wrote_makes_no_value(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        exact.loads(text)
