"""Templates that others wrote: whatever they compute, repeat or write, they end soon and say why."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pytest

from raypipe.errors import RowError, SpecError
from raypipe.steps.columns.filter import predicate
from raypipe.steps.prompts.templates import Expression, Template, first_variable, variables

SOON_S = 15
"""Each takes a second or two, on a machine that is busy with other tests."""
LONG = "x" * 2_000_000

COMPUTED = [
    "9 ** (9 ** 9)", "9 ** 9 ** 9999", "2 ** 10000000", "n ** n ** n", "'x' * 9999999999", "9999999999 * 'x'",
    "[1] * 9999999999", "(1,) * 9999999999", "10 ** 9999 * 10 ** 9999",
    "'%9999999999d' % 1", "'%.999999999f' % 1", "'%*d' % (999999999, 1)", "'%(a)999999999d' % {'a': 1}",
    "'%999999999s' | format('x')", "('%99999999d' * 100) % ((1,) * 100)",
    "'{:9999999999}'.format(1)", "'{:>{w}}'.format(1, w=9999999999)", "'{a:999999999}'.format_map({'a': 1})",
    "'x'.center(9999999999)", "'x'.ljust(9999999999)", "'x'.rjust(9999999999)", "'1'.zfill(9999999999)",
    "'\\t'.expandtabs(9999999999)", "'x' | center(9999999999)", "'x' | center(width=9999999999)",
    "'a\\nb' | indent(9999999999)", "text | replace('x', text)", "text.replace('x', text)", "text.replace('', text)",
    "text | join(text)", "text.join(text)", "[text, text] * 100000 | join", "text.join(range(9999) | map('string'))",
    "text.translate({120: text})", "text | trim('y' * 99999 + 'x')", "text.strip('y' * 999999 + 'x')",
    "text.rfind('y' + text)", "[1] | batch(9999999999, 0) | list", "[1] | slice(9999999999) | list",
    "3 | round(9999999999)", "3 | round(-9999999999)", "3.5 | round(9999999999, 'ceil')", "[1] | tojson(9999999999)",
    "(5).to_bytes(9999999999, 'big')", "lipsum(9999999)", "range(99999) | map('center', 99999) | join",
    "range(99999) | list | string * 999", "text | wordwrap(1, wrapstring=text)", "text | urlize",
    "text.encode('punycode')", "[[0] * 9999] * 9999 | sum(start=[])", "text | list | unique | list | length * text",
    "lipsum(n=999999)", "lipsum(n=9999999, html=False)", "lipsum(99, False, 0, 9999999)", "('a b ' * 800000) | urlize",
]  # fmt: skip
REPEATED = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if j < 0 %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ text }}{% endfor %}",
    "{% for i in range(99999) %}" + "constant " * 9999 + "{% endfor %}",
    "{% macro m() %}{% for i in range(99999) %}" + "constant " * 9999 + "{% endfor %}{% endmacro %}{{ m() }}",
    "{% for i in range(99999) %}{% if text == text ~ '' %}{% endif %}{% endfor %}",
    "{% for i in range(99999) %}{% if 'y' in text %}{% endif %}{% endfor %}",
    "{% for i in range(99999) %}{% if text | upper %}{% endif %}{% endfor %}",
    "{% for i in range(99999) %}{% if text[1:] %}{% endif %}{% endfor %}",
    "{% set ns = namespace(a='x') %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}{{ ns.a }}",
    "{% set ns = namespace(a='x') %}{% for i in range(99) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a }}",
    "{% set ns = namespace(a=[1]) %}{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a }}",
    "{% set ns = namespace(a=[1]) %}{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}"
    "{{ ns.a | tojson }}",
    "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] %}"
    "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
    "{% set ns = namespace(a=(1,)) %}{% for i in range(99) %}{% set ns.a = (ns.a, ns.a) %}{% endfor %}"
    "{{ {ns.a: 1} | length }}",
    "{% set ns = namespace(a=7) %}{% for i in range(99) %}{% set ns.a = ns.a * ns.a %}{% endfor %}{{ ns.a }}",
    "{% set l = [1] %}{% for i in range(99) %}{% if l.extend(l) %}{% endif %}{% endfor %}",
    "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) ~ m(n - 1) }}{% else %}x{% endif %}{% endmacro %}{{ m(60) }}",
    "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call m() %}" * 15 + "{{ text }}" + "{% endcall %}" * 15,
    "{% for i in [[]] recursive %}{{ loop([i]) }}{{ loop([i]) }}{% endfor %}",
    "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
    "{% set c %}{{ text }}{% endset %}{% for i in range(9999) %}{{ c }}{% endfor %}",
    "{% for i in range(9999) %}{% filter upper %}{{ text }}{% endfilter %}{% endfor %}",
    "{{ text }}" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("expression", COMPUTED, ids=lambda said: said[:40])
def test_what_computes_too_much_fails_its_row(expression: str) -> None:
    begun = time.perf_counter()
    row = {"n": 99, "text": LONG}
    for used in (Template(f"{{{{ {expression} }}}}").render, Expression(expression)):
        with pytest.raises(RowError) as caught:
            used(row)
        assert caught.value.kind == "template" and 10 < len(str(caught.value)) < 400
    assert time.perf_counter() - begun < SOON_S


@pytest.mark.parametrize("template", REPEATED, ids=lambda said: said[:60])
def test_what_repeats_too_much_fails_its_row(template: str) -> None:
    begun = time.perf_counter()
    variables(template), first_variable(template)
    compiled = Template(template)
    with pytest.raises(RowError) as caught:
        compiled.render({"n": 99, "text": LONG})
    assert caught.value.kind == "template" and 10 < len(str(caught.value)) < 400
    assert time.perf_counter() - begun < SOON_S


@pytest.mark.parametrize("expression", COMPUTED[:8], ids=lambda said: said[:40])
def test_nothing_is_computed_when_it_is_compiled(expression: str) -> None:
    begun = time.perf_counter()
    for text in (f"{{{{ {expression} }}}}", f"{{% if {expression} %}}a{{% endif %}}", f"{{% set a = {expression} %}}"):
        Template(text)
        variables(text)
    predicate(expression)
    assert time.perf_counter() - begun < SOON_S


@pytest.mark.parametrize(
    "template",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "[" * 500 + "]" * 500 + " }}",
        "{{ " + "not " * 5000 + "1 }}",
        "{{ " + "1 + " * 5000 + "1 }}",
        "{{ " + "-" * 5000 + "1 }}",
        "{{ a" + ".a" * 5000 + " }}",
        "{{ a" + "|upper" * 5000 + " }}",
        "{% if a %}" * 500 + "{% endif %}" * 500,
        "{% for a in b %}" * 50 + "{% endfor %}" * 50,
        "{{ a }}" * 100_000,
        "{% if a %}{% endif %}" * 100_000,
        "{{ " + "1" * 1_000_000 + " }}",
        "{{ 0x" + "f" * 1_000_000 + " ** 9 }}",
        "x" * (17 << 20),
        "{% for a in b %}",
        "{{ a | nothing }}",
    ],
    ids=lambda said: said[:30],
)
def test_what_cannot_be_compiled_is_said_soon(template: str) -> None:
    begun = time.perf_counter()
    for compiled in (Template, variables, first_variable):
        with suppress(SpecError):
            compiled(template)
    with pytest.raises((SpecError, RowError)) as caught:
        Template(template).render({"a": 1, "b": [1]})
    assert len(str(caught.value)) < 400
    assert time.perf_counter() - begun < 2 * SOON_S


@pytest.mark.parametrize(
    ("template", "row", "text"),
    [
        ("{{ 'a' * 3 }}{{ 2 ** 10 }}{{ 7 // 2 }}{{ 7 % 4 }}", {}, "aaa102433"),
        ("{{ '%05.1f|%s' % (2, 'x') }} {{ '%s of 7000000000' | format(3) }}", {}, "002.0|x 3 of 7000000000"),
        ("{{ '{0:>6}|{a:02d}|{0!r}'.format('x', a=3) }}", {}, "     x|03|'x'"),
        ("{{ 'x'.center(5) }}|{{ 'x' | center(3) }}|{{ 'a\nb' | indent }}", {}, "  x  | x |a\n    b"),
        ("{{ 'a-b' | replace('-', '+') }}{{ xs | join(', ') }}{{ xs | map('string') | join }}", {"xs": [1, 2]},
         "a+b1, 212"),
        ("{% for x in xs if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% else %}none{% endfor %}",
         {"xs": [1, 2, 3]}, "1/2:2 2/2:3 "),
        ("{% for x in xs %}{{ x.a }}{% endfor %}{% for x in [] %}{% else %}none{% endfor %}", {"xs": [{"a": 1}]},
         "1none"),
        ("{% for x in xs recursive %}{{ x.n }}{{ loop(x.inner) }}{% endfor %}",
         {"xs": [{"n": 1, "inner": [{"n": 2, "inner": []}]}]}, "12"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}"
         "{% macro c() %}{{ caller() }}{% endmacro %}{{ m(1) }}{% call c() %}!{% endcall %}",
         {}, "<1>!"),
        ("{% set ns = namespace(n=0) %}{% for x in xs %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}",
         {"xs": [1, 2]}, "3"),
        ("{{ 'yes' if a is defined and a is not none else 'no' }}{{ b | default('d') }}", {"a": None}, "nod"),
        ("{{ xs | selectattr('n', '>', 1000000000) | list | length }}", {"xs": [{"n": 2_000_000_000}]}, "1"),
        ("{{ '<p>a<!-- b -->  c &amp; d</p>' | striptags }}", {}, "a c & d"),
        ("{{ xs | tojson(2) }}{{ xs | batch(2, 0) | list }}{{ 2.345 | round(1) }}", {"xs": [1]},
         "[\n  1\n][[1, 0]]2.3"),
        ("{{ {'a': 1}['a'] }}{{ xs[0:1] }}{{ 'b' in 'abc' }}", {"xs": [1, 2]},
         "1[1]True"),
        ("{{ none }}{{ a }}", {"a": None}, ""),
    ],
)  # fmt: skip
def test_sound_templates_say_what_they_said(template: str, row: dict[str, Any], text: str) -> None:
    assert Template(template).render(row) == text


def test_a_template_of_a_million_characters_is_fine() -> None:
    template = Template("{% if text %}{{ text | upper }}{{ text | length }}{% endif %} " + "examples " * 100_000)
    assert len(template.render({"text": LONG})) > 2_900_000
