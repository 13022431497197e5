"""Patterns that others wrote: what they find is what Python finds, and no text makes them run on."""

from __future__ import annotations

import pickle
import re
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import RowError
from raypipe.security.patterns import Pattern, compile_pattern

PATTERNS = [
    r"\bfoo\b", r"\d+", r"Score:\s*(\d+)", r"^(yes|no)$", r"(?i)straße|É", r"(?P<a>\w+)\s+(?P<b>\w+)", r"[^\W\d_]+",
    r"\S+", r"[^\s,]+", r"(?m)^- (.*)$", r"(?s)<a>(.*?)</a>", r"a{2,3}?", r"(a|b)*c?", r"(?:x|)(y)?", r"\D\W", r"[\W_]",
    r"[a-z\d-]+", r"\Aab\Z", r"(?x) a \  b # c", r"(?i:a)b", r"[\]\[\\^-]", r"\x41\u00e9\U0001F600", r"(?a)\w+", r"[]]",
    r"(?a)\bé", r"\.\*\\", r"(a)?b\1?", r"(?<=Answer: ).*", r"(?i)[^a]", r"(?:)*",
]  # fmt: skip
MEGABYTE = 10**6


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab cfoy1é٣_-\n\tA,.É\u00a0\u2028🙂ß:<>/]\\[*^", max_size=14))
def test_a_pattern_finds_what_python_finds(pattern: str, text: str) -> None:
    ours, theirs = Pattern(pattern), re.compile(pattern)
    for said in (text, f"{text}foo Score: 12", f"Answer: {text}", "yes\n"):
        for how in ("search", "fullmatch"):
            found, wanted = getattr(ours, how)(said), getattr(theirs, how)(said)
            assert (found is None) == (wanted is None)
            assert found is None or (found.whole, found.groups) == (wanted[0], wanted.groups())


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(a+)+$", "a" * 35 + "b"),
        (r"(?P<x>(a|aa)+)$", "a" * MEGABYTE + "b"),
        (r"\s*x", " " * MEGABYTE),
        (r"\w+\s*:", "é" * MEGABYTE),
        (r"(.*)(.*)(.*)(.*)x", "a" * MEGABYTE),
        (r"(?i)(x+x+)+y", "x" * MEGABYTE),
    ],
    ids=lambda said: said[:20],
)
def test_a_pattern_takes_linear_time(pattern: str, text: str) -> None:
    begun = time.perf_counter()
    assert Pattern(pattern).search(text) is None
    assert time.perf_counter() - begun < 5


def test_what_is_not_linear_ends_at_its_deadline_and_lets_others_work() -> None:
    pattern, turns = Pattern(r"(?=a)(a|aa)+$"), 0
    failures: list[RowError] = []

    def search() -> None:
        try:
            pattern.search("a" * 60 + "b")
        except RowError as error:
            failures.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    while thread.is_alive():
        turns += 1
        time.sleep(0.01)
    assert not pattern.is_linear
    assert failures[0].kind == "pattern" and "took longer than 2 s on a text of 61 characters" in str(failures[0])
    assert turns > 20


@pytest.mark.parametrize(
    "pattern",
    ["(", "(" * 15_000, "a" * 30_000, "a{99999999999}", "((a{1000}){1000}){1000}", "(a{1000}){1000}", "(?P<x>)(?P<x>)"],
    ids=len,
)
def test_what_is_no_pattern_is_said_at_once(pattern: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(ValueError, match=r"."):
        compile_pattern(pattern)
    assert time.perf_counter() - begun < 5


def test_a_pattern_travels() -> None:
    pattern = compile_pattern(r"(?P<x>\d+)")
    again = pickle.loads(pickle.dumps(pattern))
    assert again == pattern and hash(again) == hash(pattern) and again.search("a12").groups == ("12",)
