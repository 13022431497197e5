"""Whatever stands in a header is read as a time within bounds, or as none; nothing is raised."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from raypipe.models.durations import LONGEST_S, number_of, seconds_of
from raypipe.models.http_errors import pause_s
from raypipe.models.quotas import named_quota

NOW = 1_790_000_000.0
"""21 September 2026, 14:13:20 UTC."""

READ: list[tuple[str, float | None]] = [
    ("20", 20.0),
    (" 20 ", 20.0),
    ("1.5", 1.5),
    (".5", 0.5),
    ("+3", 3.0),
    ("-5", 0.0),
    ("0", 0.0),
    ("79200", 79200.0),
    ("6m0s", 360.0),
    ("1h", 3600.0),
    ("2m59.56s", 179.56),
    ("120ms", 0.12),
    ("100µs", 1e-4),
    ("1d2h", 93600.0),
    ('"30s"', 30.0),
    ("1790000030", 30.0),
    ("1790000030.5", 30.5),
    ("1790000030000", 30.0),
    ("1790000030000000", 30.0),
    ("1790000030000000000", 30.0),
    ("1700000000", 0.0),
    ("2026-09-21T14:13:50Z", 30.0),
    ("2026-09-21T16:13:50+02:00", 30.0),
    ("2026-09-21T14:13:50", 30.0),
    ("2026-09-21 14:13:50.500", 30.5),
    ("Mon, 21 Sep 2026 14:13:50 GMT", 30.0),
    ("Mon, 21 Sep 2026 14:13:50", 30.0),
    ("Monday, 21-Sep-26 14:13:50 GMT", 30.0),
    ("Mon Sep 21 14:13:50 2026", 30.0),
    ("Mon, 21 Sep 2026 14:13:50 +0200", 0.0),
    ("Tue, 31 Dec 2999 23:59:59 GMT", 30_713_000_000.0),
    ("99999999999999999999", LONGEST_S),
    ("", None),
    ("soon", None),
    ("nan", None),
    ("NaN", None),
    ("inf", None),
    ("-inf", None),
    ("Infinity", None),
    ("1e400", None),
    ("0x10", None),
    ("1_000", None),
    ("²", None),
    ("٣", None),
    ("१२", None),
    ("9" * 5000, None),
    ("1" * 5000 + "s", None),
    ("20, 30", None),
    ("20;w=60", None),
    ("[20]", None),
    ("5 m", None),
    ("s", None),
    ("2026-13-45T99:99:99Z", None),
    ("Mon, 99 Sep 99999 14:13:50 GMT", None),
    ("\x00", None),
    ("\ud800", None),
]


@pytest.mark.parametrize(("text", "expected"), READ, ids=[ascii(text)[:40] for text, _ in READ])
def test_what_a_header_says(text: str, expected: float | None) -> None:
    found = seconds_of(text, now=NOW)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-3, abs=1e-6))


def test_what_counts_milliseconds_may_name_a_moment_too() -> None:
    assert seconds_of("250", unit_s=0.001, now=NOW) == 0.25
    assert seconds_of("1790000030000", unit_s=0.001, now=NOW) == pytest.approx(30.0)
    assert seconds_of("1790000030", unit_s=0.001, now=NOW) == pytest.approx(30.0)


HEADERS = st.one_of(
    st.text(),
    st.text(alphabet="0123456789.+-eEnaif smhdµu:,TZ/"),
    st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.binary().map(lambda raw: raw.decode("latin-1")),
    st.integers().map(str),
    st.floats().map(str),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")),
)


@given(HEADERS, st.sampled_from([1.0, 0.001]))
@example("0000000000000000000000000001T00:00:00+23:59", 1.0)
def test_no_header_raises_or_names_more_than_can_be(text: str, unit_s: float) -> None:
    found = seconds_of(text, unit_s, now=NOW)
    assert found is None or (type(found) is float and 0 <= found <= LONGEST_S)


@given(st.one_of(st.none(), st.binary(), st.integers(), st.lists(st.text())))
def test_what_is_no_text_says_nothing(value: Any) -> None:
    assert seconds_of(value) is None
    assert number_of(value) is None


NAMES = [
    "Retry-After",
    "retry-after-ms",
    "x-ratelimit-reset",
    "x-ratelimit-remaining",
    "x-ratelimit-reset-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-reset",
    "anthropic-ratelimit-requests-remaining",
]


@given(st.lists(st.tuples(st.sampled_from(NAMES), HEADERS)))
def test_no_headers_raise(headers: list[tuple[str, str]]) -> None:
    """Repeated ones neither."""
    found = pause_s(CIMultiDict(headers))
    assert found is None or 0 <= found <= LONGEST_S
    quota = named_quota(CIMultiDict(headers), "openai")
    assert quota.requests is None or 0 < quota.requests < float("inf")


def test_a_quota_of_which_nothing_is_left_says_when_it_is_whole() -> None:
    assert pause_s({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "6h"}) == 6 * 3600
    assert pause_s({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m59.56s"}) == 179.56
    assert pause_s({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8.64s"}) is None
    assert pause_s({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "6h"}) is None
    assert pause_s({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "6h", "Retry-After": "3"}) == 3
