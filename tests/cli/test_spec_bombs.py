"""A pipeline file that is a bomb is refused soon and with a short message, whatever it would blow up."""

from __future__ import annotations

import json
import time
from pathlib import Path

import orjson
import pytest

from raypipe.contracts.declaration import Spec
from raypipe.errors import RowError, SpecError, Violation
from tests.cli.conftest import Command

SOON_S = 20
STEP = "name: bomb\nsteps:\n  - {{type: LoadDataFromDicts, data: [{{a: 1}}]}}\n  - {{type: TextGeneration, {option}}}\n"


def laughs(levels: int = 30) -> str:
    """Each level stands for ten of the one below."""
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, levels)]
    return "\n".join(lines)


def laughs_in_place(levels: int = 30) -> str:
    """The same as one value, whose anchors stand where it is used."""
    lists = [f"&a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, levels)]
    return f"[&a0 [lol], {', '.join(lists)}]"


def merges(levels: int = 30) -> str:
    lines = ["m0: &m0 {k: v}"]
    lines += [f"m{level}: &m{level} {{<<: [{', '.join([f'*m{level - 1}'] * 10)}]}}" for level in range(1, levels)]
    return "\n".join(lines)


BOMBS = {
    "aliases": laughs(),
    "aliases in an option": laughs() + "\n" + STEP.format(option="num_generations: *a29"),
    "aliases inside an option": STEP.format(option="num_generations: " + laughs_in_place()),
    "aliases as keys": laughs(8) + "\n? *a7\n: 1\n",
    "merged aliases": merges(),
    "an alias inside itself": "name: &a [*a]\nsteps: []\n",
    "nested lists": "name: " + "[" * 100_000,
    "nested lists, closed": "name: " + "[" * 5000 + "]" * 5000,
    "nested mappings": "name: " + "{a: " * 5000 + "}" * 5000,
    "nested blocks": "\n".join(" " * depth + "a:" for depth in range(2000)),
    "nested JSON": '{"name": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "nested JSON, less": '{"name": ' + "[" * 500 + "]" * 500 + "}",
    "keys of JSON": "{" + ", ".join(f'"k{number}": 1' for number in range(60_000)) + ', "k59999": 2}',
    "a number in base 60": "name: 1" + ":59" * 200_000,
    "a long number": "name: " + "9" * 100_000,
    "a long float": "name: " + "9" * 100_000 + ".5",
    "a long text": STEP.format(option="num_generations: " + "x" * 1_000_000),
    "a long key": STEP.format(option="x" * 100_000 + ": 1"),
    "a long number in JSON": '{"name": ' + "9" * 100_000 + "}",
    "a pattern": STEP.format(option="parse: regex, pattern: '((a{1000}){1000}){1000}'"),
    "a schema": STEP.format(option="structured_output: {allOf: [{$ref: 'http://127.0.0.1:9/'}]}"),
    "a schema in a circle": STEP.format(option="structured_output: {$ref: '#'}"),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=list(BOMBS))
@pytest.mark.parametrize("command_name", ["validate", "plan", "dry-run"])
def test_it_is_refused_soon(command: Command, command_name: str, content: str) -> None:
    Path("bomb.yaml").write_text(content)
    begun = time.perf_counter()
    result = command(command_name, "bomb.yaml")
    assert time.perf_counter() - begun < SOON_S
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output and len(result.output) < 6000


TEMPLATES = {
    "template": "{{ 9 ** (9 ** 9) }}{{ a }}",
    "system_prompt": "{{ 'x' * 9999999999 }}{{ a }}",
    "when": "9 ** (9 ** 9) > a",
}


@pytest.mark.parametrize("option", TEMPLATES)
def test_a_template_is_no_bomb(command: Command, option: str) -> None:
    """It is compiled and checked at once; its rows fail, each with a sentence."""
    options = {"template": "{{ a }}", option: TEMPLATES[option]}
    content = STEP.format(option=f"name: write, llm: {{uri: offline/x}}, {json.dumps(options)[1:-1]}")
    Path("bomb.yaml").write_text(content)
    begun = time.perf_counter()
    assert command("validate", "bomb.yaml").exit_code == 0
    result = command("dry-run", "bomb.yaml")
    assert time.perf_counter() - begun < 2 * SOON_S
    assert "(template)" in result.output and len(result.output) < 6000


def test_a_setting_is_no_bomb_either(command: Command) -> None:
    Path("sound.yaml").write_text(STEP.format(option="template: '{{ a }}', name: write"))
    result = command("validate", "sound.yaml", "--set", "write.num_generations=" + "[" * 10_000)
    assert result.exit_code == 1 and len(result.output) < 6000


def test_aliases_that_repeat_a_little_are_fine(command: Command) -> None:
    content = (
        "name: small\nmodels:\n  a: &a {uri: offline/x, temperature: 0.5}\n  b: {<<: *a, temperature: 0.7}\nsteps:\n"
        "  - {type: LoadDataFromDicts, data: [{a: 1}]}\n  - {type: TextGeneration, llm: b, template: '{{ a }}'}\n"
    )
    Path("small.yaml").write_text(content)
    assert command("validate", "small.yaml").exit_code == 0


class Counted(Spec):
    """One number."""

    count: int = 1


def test_messages_are_short_whatever_they_tell_of() -> None:
    rows = [{"text": "x" * 1000, "inner": [list(range(1000))] * 1000} for _ in range(1000)]
    bomb: list[object] = [1]
    for _ in range(60):
        bomb = [bomb, bomb]
    for value in (rows, bomb, {"a": bomb}, "x" * 10_000_000):
        begun = time.perf_counter()
        with pytest.raises(SpecError) as caught:
            Counted(count=value)  # pyright: ignore[reportArgumentType]
        assert len(str(caught.value)) < 300 and time.perf_counter() - begun < 5
    assert len(str(RowError("x" * 1_000_000))) < 5000
    assert len(str(SpecError.of("a", "x" * 1_000_000))) < 3000
    many = SpecError(violations=[Violation("a", "wrong")] * 10_000)
    assert len(many.violations) == 10_000 and str(many).endswith("… and 9800 more")


@pytest.mark.parametrize("depth", [60, 900, 100_000])
@pytest.mark.parametrize("shape", ["[{}]", '{{"a": {}}}'])
def test_a_line_that_is_nested_too_deeply_is_said(command: Command, depth: int, shape: str) -> None:
    before, after = shape.format("|").split("|")
    Path("rows.jsonl").write_text(f'{{"a": {before * depth}1{after * depth}}}\n')
    steps = [{"type": "LoadDataFromFiles", "path": "rows.jsonl"}, {"type": "KeepColumns", "columns": ["a"]}]
    Path("deep.json").write_bytes(orjson.dumps({"name": "deep", "steps": steps}))
    result = command("run", "deep.json", "--engine", "local", "--out", "out")
    assert result.exit_code == 1
    assert "line 1 is not JSON" in result.stderr and ("deep" in result.stderr or "depth" in result.stderr)
