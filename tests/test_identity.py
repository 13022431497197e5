"""The same value has the same digest on every machine, forever."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.identity import call_key, canonical_json, child_identity, digest, group_identity, source_identity

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
PLAIN = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def reordered(value: Any, rng: random.Random) -> Any:
    """The same value with the keys of every mapping in another order."""
    if isinstance(value, dict):
        items = [(key, reordered(item, rng)) for key, item in value.items()]
        rng.shuffle(items)
        return dict(items)
    return [reordered(item, rng) for item in value] if isinstance(value, list) else value


def integral(value: Any) -> Any:
    """The same value with every float that is an integer written as one."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: integral(item) for key, item in value.items()}
    return [integral(item) for item in value] if isinstance(value, list) else value


@given(PLAIN, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value: Any, rng: random.Random) -> None:
    assert canonical_json(reordered(value, rng)) == canonical_json(value)


@given(PLAIN)
def test_the_form_of_an_integer_does_not_matter(value: Any) -> None:
    assert canonical_json(integral(value)) == canonical_json(value)


@given(PLAIN)
def test_reading_canonical_json_gives_the_value_back(value: Any) -> None:
    assert canonical_json(orjson.loads(canonical_json(value))) == canonical_json(value)
    assert orjson.loads(canonical_json(value)) == integral(value)


@given(st.text(max_size=8), st.text(max_size=8))
def test_texts_are_equal_only_where_every_character_is(one: str, other: str) -> None:
    assert (canonical_json(one) == canonical_json(other)) == (one == other)


def test_unicode_is_not_normalised() -> None:
    assert canonical_json("é") != canonical_json("e\u0301")
    assert canonical_json({"ключ": "😀"}) == '{"ключ":"😀"}'.encode()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1.0, b"1"),
        (-0.0, b"0"),
        (True, b"true"),
        (2**53 + 1, b"9007199254740993"),
        (2**70, b'{"$int":"1180591620717411303424"}'),
        (float("nan"), b'{"$float":"nan"}'),
        (float("-inf"), b'{"$float":"-inf"}'),
        (b"\x00\xff", b'{"$bytes":"00ff"}'),
        ((1, [2]), b"[1,[2]]"),
        ({"b": 1, "a": None}, b'{"a":null,"b":1}'),
        ({2: "x"}, b'{"2":"x"}'),
        ({3, 1, 2}, b'{"$set":["1","2","3"]}'),
        (Decimal("1.50"), b'{"$decimal":"1.50"}'),
        (date(2025, 1, 2), b'{"$date":"2025-01-02"}'),
        (datetime(2025, 1, 2, 3, tzinfo=UTC), b'{"$datetime":"2025-01-02 03:00:00+00:00"}'),
        (UUID(int=1), b'{"$uuid":"00000000-0000-0000-0000-000000000001"}'),
        (np.int32(7), b"7"),
        (np.array([1.5, 2.0]), b"[1.5,2]"),
    ],
)
def test_the_written_form_is_fixed(value: Any, written: bytes) -> None:
    assert canonical_json(value) == written


def test_a_value_without_a_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no canonical form"):
        canonical_json({"a": [object()]})


def test_digests_are_fixed_forever() -> None:
    """A change here makes every call log ever written worthless."""
    parent = source_identity(b'{"a":1}', "unit", 2)
    assert digest(b"a", b"b").hex() == "d51c4358721e322d978d1e38e26d8a00"
    assert parent.hex() == "21f2489093282e68f7b215a685bdd43f"
    assert child_identity(parent, "step", 3).hex() == "7f11d2fa2c092b007ce47e91d3cd4342"
    assert group_identity("step", b'{"k":1}').hex() == "82615a576a9d7c96832200ddd204203a"
    assert call_key("step", parent, 1, 2, digest(b"request")).hex() == "2a01dd57b3d57fbdf5b7c5afbde2736d"


@given(st.lists(st.binary(max_size=3), max_size=4), st.lists(st.binary(max_size=3), max_size=4))
def test_borders_between_parts_count(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_every_part_of_a_call_matters() -> None:
    row, request = digest(b"row"), digest(b"request")
    keys = {
        call_key("step", row, 0, 0, request),
        call_key("other", row, 0, 0, request),
        call_key("step", digest(b"x"), 0, 0, request),
        call_key("step", row, 1, 0, request),
        call_key("step", row, 0, 1, request),
        call_key("step", row, 0, 0, digest(b"y")),
    }
    assert len(keys) == 6
