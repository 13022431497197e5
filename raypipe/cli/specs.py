"""Finds the pipeline that a command line names, with the changes that it asks for.

Knows nothing of what is done with it. A YAML or JSON file is changed before its steps are made, so that an option
may come from the command line alone; the steps of a Python file are there already and are exchanged for others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raypipe.cli.python_files import is_python, load_pipeline
from raypipe.contracts.step import Runs
from raypipe.errors import SpecError
from raypipe.files.model_choices import ModelChoice, choose_in_spec, choose_in_steps, read_choice
from raypipe.files.overrides import override_spec, read_override
from raypipe.files.schema import PipelineSpec, StepSpec, folder_of, permissions_for, read_spec
from raypipe.pipeline import Pipeline
from raypipe.security.permissions import Permissions, permitted
from raypipe.security.secrets import redact_address
from raypipe.steps import resolve


@dataclass(frozen=True)
class Wanted:
    """SPEC and the options that change it."""

    spec: str
    input: str | None = None
    settings: Sequence[str] = ()
    models: Sequence[str] = ()
    base_urls: Sequence[str] = ()
    allow_import: Sequence[str] = ()
    """Modules that a file may import from."""
    allow_files: Sequence[str] = ()
    """Folders that it may read below, beside its own."""
    allow_keys: Sequence[str] = ()
    """`NAME=HOST`: keys with the hosts that they may be sent to."""
    allow_hosts: Sequence[str] = ()
    """Hosts that a file from elsewhere may name."""
    is_foreign: bool = False
    """The file is of a run folder, which anybody may have written."""

    def permissions(self) -> Permissions:
        """What the file may reach; what stands on the command line is the user's own. Raises SpecError."""
        allowed = permissions_for(
            self.spec,
            self.allow_import,
            is_foreign=self.is_foreign,
            allow_files=self.allow_files,
            allow_keys=self.allow_keys,
            allow_hosts=self.allow_hosts,
        )
        said: list[Any] = [absolute(self.input)] if self.input is not None else []
        said += [read_override(text).value for text in self.settings]
        return allowed.trusting(*said, *(choice.value for choice in self.choices()))

    def choices(self) -> list[ModelChoice]:
        """What `--model` and `--base-url` say."""
        models = [read_choice(text, "model") for text in self.models]
        return models + [read_choice(text, "base_url") for text in self.base_urls]


def pipeline_of(wanted: Wanted) -> Pipeline:
    """The pipeline as it is wanted. Raises SpecError."""
    overrides = [read_override(text) for text in wanted.settings]
    if is_python(wanted.spec):
        pipeline = _with_input(load_pipeline(wanted.spec), wanted.input)
        for choice in wanted.choices():
            pipeline = pipeline.replaced(dict(choose_in_steps(pipeline.named_steps(), choice)))
        return pipeline.with_overrides(overrides)
    permissions = wanted.permissions()
    with permitted(permissions):
        spec = read_spec(wanted.spec)
        spec = spec if wanted.input is None else _file_with_input(spec, wanted.input)
        for choice in wanted.choices():
            spec = choose_in_spec(spec, choice)
        spec = override_spec(spec, overrides)
    pipeline = Pipeline.from_spec(spec, folder_of(wanted.spec), permissions)
    # A step of a custom type may bring a model that the file does not name.
    written = {one.name or one.type for one in spec.steps if "llm" in one.options}
    for choice in wanted.choices():
        own = {name: step for name, step in pipeline.named_steps().items() if name not in written}
        pipeline = pipeline if choice.name else pipeline.replaced(dict(choose_in_steps(own, choice)))
    return pipeline


def _file_with_input(spec: PipelineSpec, path: str) -> PipelineSpec:
    loaders = {number: one.name or one.type for number, one in enumerate(spec.steps) if _is_loader(one)}
    _check_one_loader(list(loaders.values()), path)
    steps = list(spec.steps)
    number = next(iter(loaders))
    steps[number] = StepSpec.model_validate(
        {"name": steps[number].name, "type": "LoadDataFromFiles", "path": [absolute(path)]}
    )
    return spec.model_copy(update={"steps": steps})


def _is_loader(one: StepSpec) -> bool:
    try:
        return resolve(one.type).runs is Runs.SOURCE
    except SpecError:
        return False


def _check_one_loader(names: Sequence[str], path: str) -> None:
    if len(names) == 1:
        return
    listed = ", ".join(repr(name) for name in names) or "none"
    problem = f"takes the place of the one loader of a pipeline, but this one has {len(names)} ({listed})"
    hint = (
        f"; name the file with --set {names[0]}.path={redact_address(path)}"
        if names
        else "; add one, such as LoadDataFromFiles"
    )
    raise SpecError.of(f"--input {redact_address(path)}", problem + hint)


def absolute(path: str) -> str:
    """A path as it is found from any folder; an address stays as it is."""
    return path if "://" in path else os.path.abspath(path)


def _with_input(pipeline: Pipeline, path: str | None) -> Pipeline:
    if path is None:
        return pipeline
    loaders = [name for name, step in pipeline.named_steps().items() if step.runs is Runs.SOURCE]
    _check_one_loader(loaders, path)
    from raypipe.steps import LoadDataFromFiles

    return pipeline.replaced({loaders[0]: LoadDataFromFiles(name=loaders[0], path=[absolute(path)])})
