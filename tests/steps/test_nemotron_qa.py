"""The shipped preference recipe: every answer is bounded, every column is written before it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raypipe.chat import LLM
from raypipe.steps import TextGeneration, resolve

CONFIGS = Path(__file__).parents[2] / "configs"
SPEC = yaml.safe_load((CONFIGS / "nemotron_qa.yaml").read_text())
CHARACTERS_A_TOKEN = 4


def made():
    steps = []
    for options in SPEC["steps"]:
        fields = dict(options)
        kind = resolve(fields.pop("type"))
        if "llm" in fields:
            fields |= {"llm": LLM(**SPEC["models"][fields["llm"]]), "base_dir": str(CONFIGS)}
        steps.append(kind(**fields))
    return steps


def longest(schema):
    """Most characters that JSON under the schema takes, with a space after each separator."""
    kind = schema["type"]
    if kind == "object":
        parts = schema["properties"].items()
        return 2 + sum(len(name) + 6 + longest(part) for name, part in parts)
    if kind == "array":
        return 2 + schema["maxItems"] * (2 + longest(schema["items"]))
    if kind == "string":
        return 2 + schema["maxLength"]
    assert kind == "integer"
    assert 0 <= schema["minimum"] <= schema["maximum"] <= 9
    return 1


def test_every_column_is_there_when_it_is_read():
    columns = ()
    for step in made():
        assert step.problems() == []
        assert set(step.reads()) <= set(columns), step.name
        columns = step.columns_after(columns)
    assert columns[:6] == ("prompt", "chosen", "rejected", "scores", "chosen_score", "rejected_score")


@pytest.mark.parametrize(
    "step", [step for step in made() if isinstance(step, TextGeneration)], ids=lambda step: step.name
)
def test_every_answer_is_bounded_and_in_english_ends_before_max_tokens(step):
    assert longest(step.structured_output) <= CHARACTERS_A_TOKEN * step.llm.max_tokens
