"""Templates and expressions: compiled once, refused before the run, sandboxed."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import RowError, SpecError
from raypipe.steps.prompts.templates import Expression, Template, variables


def test_a_template_renders_columns():
    template = Template("{% for tag in tags %}{{ tag }},{% endfor %} {{ text | upper }} {{ range(3) | list }}")
    assert template.render({"tags": ["a", "b"], "text": "x"}) == "a,b, X [0, 1, 2]"


def test_null_is_empty_text_and_a_missing_column_is_an_error():
    template = Template("[{{ a }}{% if a %}!{% endif %}]")
    assert template.render({"a": None}) == "[]"
    with pytest.raises(RowError, match=r"'a' is undefined \(the row has 'b', 'c'\)") as caught:
        template.render({"b": 1, "c": 2})
    assert caught.value.kind == "template"


def test_columns_hide_global_functions_and_rows_do_not_leak_into_each_other():
    template = Template("{% set x = range %}{{ x }}")
    assert template.render({"range": 7}) == "7"
    assert template.render({"other": 7}).startswith("<function")


def test_template_syntax_in_a_value_stays_as_it_is():
    assert Template("{{ a }}").render({"a": "{{ b }}"}) == "{{ b }}"


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("{{ a.b }}", {"a": {}}),
        ("{{ a + 1 }}", {"a": "x"}),
        ("{{ 1 / a }}", {"a": 0}),
        ("{{ a[5] }}", {"a": [1]}),
        ("{{ a.__class__.__mro__ }}", {"a": 1}),
        ("{{ range(10 ** 9) }}", {}),
    ],
)
def test_what_goes_wrong_at_run_time_fails_the_row(text, row):
    with pytest.raises(RowError) as caught:
        Template(text).render(row)
    assert caught.value.kind == "template"


def test_a_broken_template_names_its_line():
    with pytest.raises(SpecError, match=r"template: line 2: unexpected '}'"):
        Template("ok\n{{ a }")
    with pytest.raises(SpecError, match="No filter named 'shout'"):
        Template("{{ a | shout }}")


def test_variables_are_those_that_come_from_the_row():
    text = "{% set x = topic %}{{ x }} {% for i in items %}{{ i }}{{ loop.index }}{% endfor %}{{ range(n) }}"
    assert variables(text) == {"topic", "items", "n"}


def test_a_template_travels_as_its_text():
    template = pickle.loads(pickle.dumps(Template("{{ a }}")))
    assert template.render({"a": 1}) == "1"
    assert pickle.loads(pickle.dumps(Expression("a > 1")))({"a": 2}) is True


def test_expressions():
    holds = Expression('score > 3 and language == "en"')
    assert holds.variables == {"score", "language"}
    assert holds({"score": 4, "language": "en"}) is True
    assert holds({"score": 3, "language": "en"}) is False
    assert Expression("text[:3] == 'abc'")({"text": "abcd"}) is True


@pytest.mark.parametrize("text", ["score >", "score > 3 }} x {{ 1", "", "a b"])
def test_a_broken_expression_is_refused(text):
    with pytest.raises(SpecError, match="expression: line 1"):
        Expression(text)


@pytest.mark.parametrize(("text", "row"), [("score > 3", {"score": None}), ("score", {}), ("a.b > 1", {"a": {}})])
def test_an_expression_that_does_not_fit_fails_the_row(text, row):
    with pytest.raises(RowError) as caught:
        Expression(text)(row)
    assert caught.value.kind == "template"


@settings(deadline=None)
@given(st.text())
def test_values_are_rendered_as_they_are(value):
    assert Template("{{ instruction }}").render({"instruction": value}) == value


@settings(deadline=None)
@given(st.text(alphabet="{}%#-| abc().[]\n'\""))
def test_any_text_compiles_or_is_refused(text):
    try:
        template = Template(text)
    except SpecError:
        return
    assert template.text == text


@given(
    text=st.text(alphabet="a {}\n%", max_size=20),
    row=st.dictionaries(
        st.sampled_from(["a", "b"]), st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.integers())
    ),
)
def test_a_template_that_only_names_columns_renders_as_any_other(text: str, row: dict[str, Any]) -> None:
    safe = text.replace("{", "").replace("%", "")
    plain = safe + "{{ a }}" + safe + "{{b}}"
    by_jinja = plain.replace("{{ a }}", "{% if true %}{{ a }}{% endif %}")
    for name in ("a", "b"):
        row.setdefault(name, None)
    assert Template(plain).render(row) == Template(by_jinja).render(row)
