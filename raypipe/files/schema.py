"""The form of a pipeline file; anything else is refused. Knows nothing of which types of steps and models there are.

    name: my-pipeline
    models:
      writer: {uri: openai/gpt-4o-mini, temperature: 0.7}
    steps:
      - {name: seed, type: LoadDataFromFiles, path: topics.jsonl}
      - {name: answers, type: TextGeneration, llm: writer, template: "{{ topic }}"}

Steps follow each other in the order of the file; `after: [names]` says otherwise.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from raypipe.contracts.declaration import violations
from raypipe.errors import CallError, SpecError, Violation, shorten
from raypipe.security.permissions import Allowances, Permissions, check_allowances, parse_key_pairs, resolve_folders
from raypipe.security.secrets import redact_address
from raypipe.security.untrusted_text import DEEPEST, PlainLoader, check_depth


class StepSpec(BaseModel):
    """One step of a file: its type, its place, and options that its type will check."""

    model_config = ConfigDict(extra="allow")

    type: str
    name: str | None = None
    after: list[str] | None = None
    routes: list[dict[str, Any]] = Field(default_factory=list)
    """Choices among the steps behind it: `to` names them, the other options are those of a routing."""

    @field_validator("after", mode="before")
    @classmethod
    def _as_list(cls, after: Any) -> Any:
        return [after] if isinstance(after, str) else after

    @property
    def options(self) -> dict[str, Any]:
        """What the step's own type understands, its name included."""
        named = {} if self.name is None else {"name": self.name}
        return named | dict(self.__pydantic_extra__ or {})


class PipelineSpec(BaseModel):
    """A whole file."""

    model_config = ConfigDict(extra="forbid")

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


def place(number: int, name: object) -> str:
    """How messages call the step that stands at index `number`."""
    return f"step {name!r}" if name else f"step {number + 1} of the file"


_FETCH_TIMEOUT_S = 30.0
_LARGEST_SPEC_BYTES = 16 << 20


def is_url(spec: str | Path) -> bool:
    """Whether a pipeline is to be fetched."""
    return isinstance(spec, str) and spec.startswith(("http://", "https://"))


def folder_of(path: str | Path) -> Path:
    """The folder that relative paths in a pipeline's file start from."""
    return Path.cwd() if is_url(path) else Path(path).absolute().parent


def permissions_for(
    path: str | Path, allow_import: Sequence[str] = (), *, is_foreign: bool = False, **allowed: Unpack[Allowances]
) -> Permissions:
    """What the file at `path` may reach: by itself what is in its folder, from a URL nothing.

    `is_foreign`: it is here and nobody says that it is the user's own, as in a run folder. Raises SpecError.
    """
    check_allowances({"allow_import": allow_import, **allowed})
    own = [] if is_url(path) else [folder_of(path)]
    hosts = tuple(host.lower() for host in allowed.get("allow_hosts", ()))
    return Permissions(
        tuple(allow_import),
        resolve_folders([*own, *allowed.get("allow_files", ())]),
        parse_key_pairs(allowed.get("allow_keys", ())),
        hosts if is_url(path) or is_foreign else None,
    )


def read_spec(path: str | Path) -> PipelineSpec:
    """The file at `path`, a path or a URL (YAML or JSON). Raises SpecError with all violations."""
    if is_url(path):
        return parse_spec(_fetched(str(path)), redact_address(str(path), every=True))
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "not a text file"
        raise SpecError.of(str(path), f"cannot be read: {said}") from None
    return parse_spec(text, str(path))


def _fetched(url: str) -> str:
    from raypipe.storage.http import fetch_file

    try:
        return fetch_file(url, _FETCH_TIMEOUT_S, _LARGEST_SPEC_BYTES).text
    except CallError as error:
        raise SpecError.of(redact_address(url, every=True), f"cannot be fetched: {error}") from None


def parse_spec(text: str, where: str) -> PipelineSpec:
    """A file's text; `where` names it in messages. Raises SpecError with all violations."""
    try:
        plain = _plain(text)
    except yaml.YAMLError as error:
        raise SpecError.of(where, f"is neither YAML nor JSON: {_said(error)}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError.of(where, f"cannot be read: {error}") from None
    if not isinstance(plain, Mapping):
        problem = f"holds {_kind(plain)}, not a mapping with the keys name, models and steps"
        raise SpecError.of(where, problem)
    return spec_of(cast(Mapping[Any, Any], plain), where)


def spec_of(plain: Mapping[Any, Any], where: str) -> PipelineSpec:
    """A mapping as a pipeline. Raises SpecError with all violations."""
    problems = _key_violations(plain, where)
    steps = plain.get("steps")
    if isinstance(steps, list):
        for number, step in enumerate(cast(list[Any], steps)):
            problems += _step_violations(number, step)
        # What is wrong with the steps is known, each by its name.
        plain = {**plain, "steps": [] if problems else steps}
    try:
        made = PipelineSpec.model_validate({key: value for key, value in plain.items() if isinstance(key, str)})
    except ValidationError as error:
        problems = violations(error, where, list(PipelineSpec.model_fields)) + problems
    else:
        if not problems:
            return made
    raise SpecError(violations=problems)


def _step_violations(number: int, step: Any) -> list[Violation]:
    if not isinstance(step, Mapping):
        return [Violation(place(number, None), f"is {_kind(step)}, not a mapping with the keys name and type")]
    options = cast(Mapping[Any, Any], step)
    where = place(number, options.get("name"))
    if problems := _key_violations(options, where):
        return problems
    try:
        StepSpec.model_validate(options)
    except ValidationError as error:
        return violations(error, where, list(StepSpec.model_fields))
    return []


def _key_violations(plain: Mapping[Any, Any], where: str) -> list[Violation]:
    wrong = [shorten(repr(key), 80) for key in plain if not isinstance(key, str)]
    return [Violation(where, f"key {key} is not text; put it in quotes") for key in wrong]


def _kind(value: Any) -> str:
    """What a value is that should be a mapping."""
    names = {type(None): "nothing", str: "text", bool: "yes or no", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")


def _said(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    said = ", ".join(text for text in (error.context, error.problem) if text)
    return f"line {mark.line + 1}, column {mark.column + 1}: {said}"


class _Loader(PlainLoader):
    """Safe YAML in which a key given twice is an error, not a silent loss."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # What PyYAML comes to for a value that its tag does not fit, such as `!!timestamp no`.
            problem = f"{shorten(repr(node.value), 80)} cannot be read as {node.tag.rpartition(':')[2]} ({error})"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            problem = f"key {shorten(repr(key.value), 80)} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        seen.add(str(key.value))
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_value(text: str) -> Any:
    """One value, read as YAML; text that is not YAML stands for itself."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError):
        return text


def _plain(text: str) -> Any:
    # YAML takes most of JSON but neither tabs nor a character that is escaped as two surrogates.
    if text.lstrip().startswith("{"):
        try:
            plain = json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError:
            pass
        except RecursionError:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
        else:
            check_depth(plain)
            return plain
    return yaml.load(text, Loader=_Loader)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"key {shorten(repr(twice), 80)} is given twice")
    return made
