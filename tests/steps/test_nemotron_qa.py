"""The shipped preference recipe: every column is written before it is read."""

from __future__ import annotations

from pathlib import Path

import yaml

from raypipe.contracts.llm import LLM
from raypipe.steps import resolve

CONFIGS = Path(__file__).parents[2] / "configs"
SPEC = yaml.safe_load((CONFIGS / "nemotron_qa.yaml").read_text())


def made():
    steps = []
    for options in SPEC["steps"]:
        fields = dict(options)
        kind = resolve(fields.pop("type"))
        if "llm" in fields:
            fields |= {"llm": LLM(**SPEC["models"][fields["llm"]]), "base_dir": str(CONFIGS)}
        steps.append(kind(**fields))
    return steps


def test_every_column_is_there_when_it_is_read():
    columns = ()
    for step in made():
        assert step.problems() == []
        assert set(step.reads()) <= set(columns), step.name
        columns = step.columns_after(columns)
    assert columns[:6] == ("prompt", "chosen", "rejected", "scores", "chosen_score", "rejected_score")
