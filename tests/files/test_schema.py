"""A file says what it may say, or is refused with everything that is wrong in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raypipe.errors import SpecError
from raypipe.files.model_choices import choose_in_spec, read_choice
from raypipe.files.overrides import override_spec, read_override
from raypipe.files.schema import parse_spec, read_spec

TEXT = """
name: small
models:
  writer: openai/gpt-4o-mini
  judge: {uri: openai/gpt-4o, temperature: 0.0, base_url: "http://localhost:1/v1", extra: {top_k: 1}}
steps:
  - {name: seed, type: LoadDataFromDicts, data: [{a: 1}]}
  - {name: ask, type: TextGeneration, llm: writer, template: "{{ a }}", after: seed}
"""


def refused(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "file.yaml")
    return str(caught.value)


def test_a_file_is_read() -> None:
    spec = parse_spec(TEXT, "file.yaml")
    assert spec.models["writer"] == {"uri": "openai/gpt-4o-mini"}
    assert [one.name for one in spec.steps] == ["seed", "ask"]
    assert spec.steps[1].after == ["seed"]
    assert spec.steps[1].options == {"name": "ask", "llm": "writer", "template": "{{ a }}"}


def test_json_says_the_same(tmp_path: Path) -> None:
    spec = parse_spec(TEXT, "file.yaml")
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.model_dump(), indent="\t", ensure_ascii=True))
    assert read_spec(path) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds nothing, not a mapping with the keys name, models and steps"),
        ("- 1", "holds a list, not a mapping"),
        ("a: [", "is neither YAML nor JSON"),
        ("name: x\nname: y\nsteps: []", "key 'name' is given twice"),
        ('{"name": "x", "name": "y", "steps": []}', "key 'name' is given twice"),
        ("name: x", "option 'steps' is required"),
        ("name: x\nstep: []\nsteps: []", "unknown option 'step' (did you mean 'steps'?)"),
        ("name: ../x\nsteps: []", "option 'name'"),
        ("name: x\nsteps: [1]", "step 1 of the file: is a number, not a mapping with the keys name and type"),
        ("name: x\nsteps: [{name: a}]", "step 'a': option 'type' is required"),
        ("name: x\nsteps: [{type: A, 1: 2}]", "key 1 is not text"),
        ("name: x\nsteps: [{type: A, after: 3}]", "option 'after'"),
        ("name: !!python/object:os.system x\nsteps: []", "is neither YAML nor JSON"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    assert said in refused(text)


def test_all_violations_come_at_once() -> None:
    said = refused("nme: x\nsteps: [{name: a}, 3, {type: A, after: 3}]")
    for part in ("'nme'", "'name' is required", "step 'a'", "step 2 of the file", "step 3 of the file"):
        assert part in said


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nothing\.yaml: cannot be read: No such file"):
        read_spec(tmp_path / "nothing.yaml")


def test_an_option_is_changed_and_the_file_stays() -> None:
    spec = parse_spec(TEXT, "file.yaml")
    changed = override_spec(spec, [read_override("ask.num_generations=3")])
    assert changed.steps[1].options["num_generations"] == 3
    assert "num_generations" not in spec.steps[1].options
    assert override_spec(spec, [read_override("ask.template={{ a }}!")]).steps[1].options["template"] == "{{ a }}!"
    for setting, said in [
        ("ask", "is not written step.option=value or models.name.option=value"),
        ("sed.x=1", "did you mean 'seed'?"),
    ]:
        with pytest.raises(SpecError, match=said.replace("?", r"\?")):
            override_spec(spec, [read_override(setting)])


def test_a_replaced_model_keeps_what_is_not_its_own() -> None:
    spec = choose_in_spec(parse_spec(TEXT, "file.yaml"), read_choice("judge=ollama/llama3.1", "model"))
    assert spec.models["judge"] == {"uri": "ollama/llama3.1", "temperature": 0.0}
    assert spec.models["writer"] == {"uri": "openai/gpt-4o-mini"}
    every = choose_in_spec(spec, read_choice("offline/stand-in", "model"))
    assert {options["uri"] for options in every.models.values()} == {"offline/stand-in"}
    with pytest.raises(SpecError, match=r"the pipeline has no model 'juge' \(did you mean 'judge'\?\)"):
        choose_in_spec(spec, read_choice("juge=offline/x", "model"))


def test_a_model_is_reached_elsewhere() -> None:
    spec = choose_in_spec(parse_spec(TEXT, "file.yaml"), read_choice("writer=http://localhost:8000/v1", "base_url"))
    assert spec.models["writer"]["base_url"] == "http://localhost:8000/v1"
    assert spec.models["judge"]["base_url"] == "http://localhost:1/v1"
