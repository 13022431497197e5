"""I am what a file may say; I refuse anything else.

I do not know which types of steps there are, nor which models: I know the form of a file.

    name: my-pipeline
    models:
      writer: {uri: openai/gpt-4o-mini, temperature: 0.7}
    steps:
      - {name: seed, type: LoadDataFromFiles, path: topics.jsonl}
      - {name: answers, type: TextGeneration, llm: writer, template: "{{ topic }}"}

Steps follow each other in the order of the file; `after: [names]` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, Field, ValidationError, field_validator

from raypipe.errors import SpecError, Violation, nearest
from raypipe.spec import Spec, violations


class StepSpec(Spec):
    """One step of a file: its type, its place, and options that its type will check."""

    model_config = ConfigDict(extra="allow")

    type: str
    name: str | None = None
    after: list[str] | None = None

    @field_validator("after", mode="before")
    @classmethod
    def _as_list(cls, after: Any) -> Any:
        return [after] if isinstance(after, str) else after

    @property
    def options(self) -> dict[str, Any]:
        """What the step's own type understands, its name included."""
        named = {} if self.name is None else {"name": self.name}
        return named | dict(self.__pydantic_extra__ or {})


class PipelineSpec(Spec):
    """A whole file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]*$")
    description: str = ""
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of `LLM`, by the name steps use."""
    steps: list[StepSpec]

    @field_validator("models", mode="before")
    @classmethod
    def _uris(cls, models: Any) -> Any:
        if not isinstance(models, Mapping):
            return models
        return {name: {"uri": model} if isinstance(model, str) else model for name, model in models.items()}


def read_spec(path: Path) -> PipelineSpec:
    """The file at `path` (YAML or JSON). Raises SpecError with all violations."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "not a text file"
        raise SpecError(violations=[Violation(str(path), f"cannot be read: {said}")]) from None
    return parse_spec(text, str(path))


def parse_spec(text: str, where: str) -> PipelineSpec:
    """A file's text; `where` names it in messages. Raises SpecError with all violations."""
    try:
        plain = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise SpecError(violations=[Violation(where, f"is neither YAML nor JSON: {said}")]) from None
    except (ValueError, RecursionError) as error:
        raise SpecError(violations=[Violation(where, f"holds a value that cannot be read: {error}")]) from None
    if not isinstance(plain, Mapping):
        problem = f"holds {type(plain).__name__}, not a mapping with the keys name, models and steps"
        raise SpecError(violations=[Violation(where, problem)])
    return spec_of(plain, where)


def spec_of(plain: Mapping[Any, Any], where: str) -> PipelineSpec:
    """A mapping as a pipeline. Raises SpecError with all violations."""
    try:
        return PipelineSpec.model_validate(plain)
    except ValidationError as error:
        raise SpecError(violations=violations(error, where, list(PipelineSpec.model_fields))) from None
    except TypeError as error:
        raise SpecError(violations=[Violation(where, f"holds a key that is no text: {error}")]) from None


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error, not a silent loss."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen and isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
        seen.add(str(key.value))
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def with_setting(spec: PipelineSpec, setting: str) -> PipelineSpec:
    """The file with one option changed: `step.option=value`, the value read as YAML. Raises SpecError."""
    place, equals, text = setting.partition("=")
    step, dot, option = place.partition(".")
    where = f"--set {setting}"
    if not (equals and dot and step and option):
        raise SpecError(violations=[Violation(where, "is not written step.option=value")])
    names = [one.name or one.type for one in spec.steps]
    if step not in names:
        raise SpecError(violations=[Violation(where, f"there is no step {step!r}{nearest(step, names)}")])
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        value = text
    steps = [one.model_dump(exclude_none=True) for one in spec.steps]
    _put(steps[names.index(step)], option.split("."), value, where)
    return spec_of(spec.model_dump() | {"steps": steps}, where)


def _put(options: dict[str, Any], path: Sequence[str], value: Any, where: str) -> None:
    for part in path[:-1]:
        inner = options.setdefault(part, {})
        if not isinstance(inner, dict):
            raise SpecError(violations=[Violation(where, f"option {part!r} has no options of its own")])
        options = inner
    options[path[-1]] = value


def with_model(spec: PipelineSpec, choice: str) -> PipelineSpec:
    """The file with a model replaced: `NAME=provider/model`, or `provider/model` for all. Raises SpecError."""
    name, equals, uri = choice.partition("=")
    where = f"--model {choice}"
    if not equals:
        name, uri = "", choice
    if name and name not in spec.models:
        hint = nearest(name, list(spec.models))
        raise SpecError(violations=[Violation(where, f"the pipeline has no model {name!r}{hint}")])
    models = {
        other: _other_model(options, uri) if name in ("", other) else options for other, options in spec.models.items()
    }
    return spec.model_copy(update={"models": models})


_OF_ONE_MODEL = ("base_url", "api_key_env", "options", "extra")
"""Options that belong to the model that was there and not to its replacement."""


def _other_model(options: dict[str, Any], uri: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _OF_ONE_MODEL} | {"uri": uri}
