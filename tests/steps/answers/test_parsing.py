"""Parsers: what each finds, and that nothing but RowError comes out of any text."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raypipe.errors import RowError, SpecError
from raypipe.steps.answers.parsing import PARSERS, mapped, parser, read_json


def two_responses(text):
    first, second = text.split("RESPONSE B:")
    return first.removeprefix("RESPONSE A:").strip(), second.strip()


def shouting(text):
    for word in text.split():
        yield word.upper()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("text", "  hello\n", "hello"),
        ("text", "", ""),
        ("json", '{"a": 1}', {"a": 1}),
        ("json", 'Sure!\n```json\n{"a": [1, 2]}\n```\nDone.', {"a": [1, 2]}),
        ("json", "{'a': 1, b: true,}", {"a": 1, "b": True}),
        ("json", "3", 3),
        ("json", '"x"', "x"),
        ("json_list", '["a", "b"]', ["a", "b"]),
        ("json_list", '{"items": ["a"]}', ["a"]),
        ("json_list", "Here: ['a', 'b',]", ["a", "b"]),
        ("json_list", "[]", []),
        ("comma_list", "a, b,c.", ["a", "b", "c"]),
        ("comma_list", "\"Deep Learning\", 'NLP', , U.S. policy", ["Deep Learning", "NLP", "U.S. policy"]),
        ("comma_list", "1. Deep\nlearning, 2) RL", ["Deep learning", "RL"]),
        ("comma_list", "- a\n- b", ["a", "b"]),
        ("comma_list", "alone", ["alone"]),
        ("lines", "1. What?\n2) Why?\n\n- How?\n* When?\n(4) Who?", ["What?", "Why?", "How?", "When?", "Who?"]),
        ("lines", "3.5 is a number\n-5 is cold\n2024 was warm", ["3.5 is a number", "-5 is cold", "2024 was warm"]),
        ("lines", "```\none\n```", ["one"]),
        ("tags", "<a>1</a> and <b>x\ny</b>", {"a": "1", "b": "x\ny"}),
        ("tags", "<a>draft</a> better: <a>final</a>", {"a": "final"}),
        ("tags", "<open> <a><b>in</b></a>", {"b": "in", "a": "<b>in</b>"}),
    ],
)
def test_what_a_parser_finds(name, text, value):
    assert parser(name)(text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("json", "I cannot do that."),
        ("json", ""),
        ("json", "null"),
        ("json_list", '{"a": 1, "b": 2}'),
        ("json_list", "none"),
        ("comma_list", " , ,"),
        ("lines", "\n \n"),
        ("tags", "no tags"),
        ("tags", "<a>never closed"),
    ],
)
def test_text_without_the_wanted_form_fails_the_row(name, text):
    with pytest.raises(RowError) as caught:
        parser(name)(text)
    assert caught.value.kind == "parse"
    assert repr(text[:20])[1:-1] in str(caught.value)


def test_the_message_shows_only_the_start_of_the_text():
    with pytest.raises(RowError) as caught:
        parser("json")("word " * 1000)
    assert len(str(caught.value)) < 150


def test_wanted_tags_must_all_be_there():
    parse = parser("tags", names=["answer", "reason"])
    assert parse("<x>0</x><reason>r</reason><answer>a</answer>") == {"answer": "a", "reason": "r"}
    with pytest.raises(RowError, match="has no <reason>…</reason>"):
        parse("<answer>a</answer>")


def test_patterns():
    assert parser("regex", pattern=r"(?P<a>\d+)-(?P<b>\d+)")("x 1-2") == {"a": "1", "b": "2"}
    assert parser("regex", pattern=r"(\d+)-(\d+)")("x 1-2") == ("1", "2")
    assert parser("regex", pattern=r"score: (\d+)")("score: 7") == "7"
    assert parser("regex", pattern=r"\d+")("score: 7") == "7"
    with pytest.raises(RowError, match="no match"):
        parser("regex", pattern=r"\d+")("none")


@pytest.mark.parametrize(
    ("parse", "pattern", "said"),
    [
        ("jsn", None, "did you mean 'json'"),
        ("regex", None, "is required with parse='regex'"),
        ("regex", "(", "is not a regular expression"),
        ("text", "x", "belongs to parse='regex'"),
        ("no.such.module", None, "nothing to import there"),
        ("math:pi", None, "cannot be called"),
    ],
)
def test_a_parser_that_is_none_is_refused(parse, pattern, said):
    with pytest.raises(SpecError, match=said):
        parser(parse, pattern=pattern)


def test_parsers_of_the_users_own():
    assert parser(two_responses)("RESPONSE A: x RESPONSE B: y") == ("x", "y")
    assert parser(f"{__name__}:two_responses")("RESPONSE A: x RESPONSE B: y") == ("x", "y")
    assert parser(shouting)("a b") == ["A", "B"]
    with pytest.raises(RowError, match="ValueError: not enough values") as caught:
        parser(two_responses)("only one")
    assert caught.value.kind == "parse"
    with pytest.raises(RowError, match="no value"):
        parser(lambda text: None)("x")


def test_values_become_columns():
    assert mapped({"a": 1, "b": 2, "c": 3}, ["b", "a"]) == {"b": 2, "a": 1}
    assert mapped(("x", "y"), ["a", "b"]) == {"a": "x", "b": "y"}
    assert mapped("x", ["a"]) == {"a": "x"}
    with pytest.raises(RowError, match="has no 'b', only 'a'"):
        mapped({"a": 1}, ["a", "b"])
    with pytest.raises(RowError, match="3 values for 2 columns"):
        mapped(["x", "y", "z"], ["a", "b"])


@settings(deadline=None)
@example('{"a": "\\ud800"}')
@example('{"a": NaN}')
@example('{"a": 1' + "0" * 400 + "}")
@example("[" * 5000)
@example('{"a":' * 3000)
@example("<a>" * 5000)
@example("```json\n" * 2000)
@given(st.text() | st.text(alphabet="{}[]<>/\"':,.-*`ab1 \n\\"))
def test_no_text_makes_a_parser_raise_anything_else(text):
    parsers = [parser(name) for name in PARSERS]
    parsers += [
        parser("tags"),
        parser("tags", names=["a"]),
        parser("regex", pattern=r"(?P<x>a+)"),
        parser(two_responses),
    ]
    for parse in parsers:
        assert failure_of(parse, text) in (None, "parse")


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(), st.lists, max_leaves=20))
def test_sound_json_is_read_as_it_is(value):
    import orjson

    assert read_json(orjson.dumps({"value": value}).decode()) == {"value": value}


def failure_of(function, *arguments):
    try:
        function(*arguments)
    except RowError as error:
        return error.kind
    return None
