"""I find the pipeline that a command line names, with the changes that it asks for.

I do not know what is done with it. A YAML or JSON file is changed before its steps are made, so that an option
may come from the command line alone; the steps of a Python file are there already and are exchanged for others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raypipe.cli.python_files import is_python, load_pipeline
from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import change_first, first_of
from raypipe.contracts.step import Runs, Step
from raypipe.errors import SpecError, nearest
from raypipe.files.overrides import made_again
from raypipe.files.schema import (
    Choice,
    PipelineSpec,
    Setting,
    StepSpec,
    folder_of,
    permissions_for,
    read_choice,
    read_setting,
    read_spec,
    with_base_url,
    with_model,
    with_setting,
)
from raypipe.graph.compile import name_steps
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
        said += [read_setting(text).value for text in self.settings]
        choices = [*(read_choice(text, "model") for text in self.models), *_addresses(self.base_urls)]
        return allowed.trusting(*said, *(choice.value for choice in choices))


def pipeline_of(wanted: Wanted) -> Pipeline:
    """The pipeline as it is wanted. Raises SpecError."""
    if is_python(wanted.spec):
        pipeline = _changed(load_pipeline(wanted.spec), wanted)
        choices = _choices(wanted)
    else:
        permissions = wanted.permissions()
        with permitted(permissions):
            spec = _changed_file(read_spec(wanted.spec), wanted)
        pipeline = Pipeline.from_spec(spec, folder_of(wanted.spec), permissions)
        # A step of a type of one's own may bring a model that the file does not name.
        choices = [choice for choice in _choices(wanted) if not choice.name]
    for choice in choices:
        pipeline = _with_choice(pipeline, choice)
    return pipeline


def _choices(wanted: Wanted) -> list[Choice]:
    models = [read_choice(text, "model") for text in wanted.models]
    return models + _addresses(wanted.base_urls)


def _addresses(base_urls: Sequence[str]) -> list[Choice]:
    return [read_choice(text, "base_url") for text in base_urls]


# A file.


def _changed_file(spec: PipelineSpec, wanted: Wanted) -> PipelineSpec:
    if wanted.input is not None:
        spec = _file_with_input(spec, wanted.input)
    changes: list[tuple[Callable[[PipelineSpec, str], PipelineSpec], Sequence[str]]] = [
        (with_model, wanted.models),
        (with_base_url, wanted.base_urls),
        (with_setting, wanted.settings),
    ]
    for change, texts in changes:
        for text in texts:
            spec = change(spec, text)
    return spec


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


# A Python file.


def _changed(pipeline: Pipeline, wanted: Wanted) -> Pipeline:
    if wanted.input is not None:
        loaders = [name for name, step in _named(pipeline).items() if step.runs is Runs.SOURCE]
        _check_one_loader(loaders, wanted.input)
        from raypipe.steps import LoadDataFromFiles

        loader = LoadDataFromFiles(name=loaders[0], path=[absolute(wanted.input)])
        pipeline = pipeline.replaced({loaders[0]: loader})
    for text in wanted.settings:
        pipeline = _with_setting(pipeline, read_setting(text))
    return pipeline


def _named(pipeline: Pipeline) -> dict[str, Step]:
    names, _ = name_steps(pipeline.steps)
    return {names[id(step)]: step for step in pipeline.steps}


def _with_setting(pipeline: Pipeline, setting: Setting) -> Pipeline:
    step = _step(pipeline, setting.step, setting.where)
    value: Any = setting.value
    if setting.path == ("llm",) and isinstance(value, str):
        value = LLM(value)
    return pipeline.replaced({setting.step: made_again(step, setting.path, value, setting.where)})


def _step(pipeline: Pipeline, name: str, where: str) -> Step:
    steps = _named(pipeline)
    if name not in steps:
        raise SpecError.of(where, f"there is no step {name!r}{nearest(name, list(steps))}")
    return steps[name]


def _with_choice(pipeline: Pipeline, choice: Choice) -> Pipeline:
    """Models exchanged in all steps, or in the step that the choice names."""
    if choice.name and _step(pipeline, choice.name, choice.where).llm is None:
        raise SpecError.of(choice.where, f"step {choice.name!r} asks no model")
    asking = {name: step for name, step in _named(pipeline).items() if step.llm is not None and choice.is_for(name)}
    return pipeline.replaced({name: _with_llm(step, choice) for name, step in asking.items()})


def _with_llm(step: Step, choice: Choice) -> Step:
    def change(llm: LLM) -> LLM:
        return LLM(**choice.applied({name: getattr(llm, name) for name in llm.model_fields_set}))

    assert step.llm is not None
    # Another model takes the place of a whole pool; an address is that of the first.
    changed = change(first_of(step.llm)) if choice.option == "model" else change_first(step.llm, change)
    return step.model_copy(update={"llm": changed})
