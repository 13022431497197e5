"""Step types by name: cheap to import, found or refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

import raypipe.steps
from raypipe.contracts.step import Step
from raypipe.errors import SpecError
from raypipe.steps import REGISTRY, Filter, resolve, step
from raypipe.steps.tasks import TextGeneration


@step(outputs=["shout"])
def shouted(row):
    return {"shout": row["text"].upper()}


def test_importing_the_steps_loads_nothing_heavy():
    code = (
        "import sys, raypipe.steps as s; s.resolve;"
        "heavy = {'pyarrow', 'jinja2', 'jsonschema', 'json_repair', 'ray'} & set(sys.modules); assert not heavy, heavy;"
        "from raypipe.steps import LoadDataFromFiles; LoadDataFromFiles('x.csv');"
        "assert 'pyarrow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_all_names_exist():
    for name in raypipe.steps.__all__:
        assert getattr(raypipe.steps, name) is not None


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_registered_type_is_a_step_of_that_name(name):
    found = resolve(name)
    assert issubclass(found, Step)
    assert found.__name__ == name


def test_dotted_paths_work_where_names_do():
    assert resolve("raypipe.steps.columns.filter:Filter") is Filter
    assert resolve("raypipe.steps.llm.text_generation.TextGeneration") is TextGeneration
    assert resolve(f"{__name__}:shouted") is shouted


def test_a_misspelt_type_is_answered_with_the_nearest():
    with pytest.raises(SpecError, match=r"step type 'TextGenration': is unknown \(did you mean 'TextGeneration'\?\)"):
        resolve("TextGenration")


def test_what_is_no_step_is_refused():
    with pytest.raises(SpecError, match="is not a step but a function"):
        resolve("json:dumps")
    with pytest.raises(SpecError, match="is not a step but a type"):
        resolve("pathlib:Path")
    with pytest.raises(SpecError, match="nothing to import there"):
        resolve("no_such_package:Step")


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="did you mean 'Filter'"):
        raypipe.steps.Fliter  # noqa: B018
