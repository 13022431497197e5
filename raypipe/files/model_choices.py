"""Replaces models of a pipeline, or the addresses at which they are reached, as `--model` and `--base-url` ask for it.

In a file this happens before its steps are made, since the file may leave its model to the command line; models of
steps that are there are exchanged for others. Knows nothing of what the steps do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import change_members, first_of
from raypipe.contracts.step import Step
from raypipe.errors import SpecError, nearest
from raypipe.files.schema import PipelineSpec, StepSpec
from raypipe.security.secrets import redact_address


@dataclass(frozen=True)
class ModelChoice:
    """An option of the model `name`, or of all models where the name is empty."""

    name: str
    option: Literal["model", "base_url"]
    value: str
    where: str

    def applied(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a model as they are to be."""
        if self.option == "base_url":
            kept = {name: value for name, value in options.items() if name not in _OF_A_SERVER}
            return {**(kept if options.get("serve") else options), "base_url": self.value}
        return {name: value for name, value in options.items() if name not in _OF_ONE_MODEL} | {"uri": self.value}


_OF_ONE_MODEL = (
    *("also", "weight", "base_url", "api_key_env", "options", "extra", "engine", "gpus", "lora", "serve"),
    *("magpie_pre_query_template", "use_magpie_template"),
)
"""Options that belong to the model that was there and not to its replacement."""
_OF_A_SERVER = ("serve", "engine", "gpus")
"""Options that say how a server is started, where none is asked at an address."""


def read_choice(text: str, option: Literal["model", "base_url"]) -> ModelChoice:
    """`NAME=value`, or a value alone. Names have no slash, addresses and models do."""
    name, equals, value = text.partition("=")
    if not equals or "/" in name:
        name, value = "", text
    shown = f"{name}={redact_address(value)}" if name else redact_address(value)
    return ModelChoice(name, option, value, f"--{option.replace('_', '-')} {shown}")


def choose_in_spec(spec: PipelineSpec, choice: ModelChoice) -> PipelineSpec:
    """The file with models replaced. Raises SpecError where it has no such model."""
    if choice.name and choice.name not in spec.models:
        problem = f"the pipeline has no model {choice.name!r}{nearest(choice.name, list(spec.models))}"
        raise SpecError.of(choice.where, problem)
    models = {name: choice.applied(old) if choice.name in ("", name) else old for name, old in spec.models.items()}
    steps = [one if choice.name else _with_own_model(one, spec.models, choice) for one in spec.steps]
    return spec.model_copy(update={"models": models, "steps": steps})


def _with_own_model(step: StepSpec, models: Mapping[str, Any], choice: ModelChoice) -> StepSpec:
    """A step whose model, or pool of models, is written in the step itself, with the chosen one instead."""
    own: Any = step.options.get("llm")
    if choice.option == "model" and isinstance(own, list) and own:
        own = cast("list[Any]", own)[0]
        own = choice.applied(models[own]) if isinstance(own, str) and own in models else own
    return step if own is None else step.model_copy(update={"llm": _chosen(own, models, choice)})


def _chosen(own: Any, models: Mapping[str, Any], choice: ModelChoice) -> Any:
    """What a step says of its model, chosen; a model that the file names is chosen there."""
    if isinstance(own, list):
        return [_chosen(one, models, choice) for one in cast("list[Any]", own)]
    if isinstance(own, str) and own not in models and "/" in own:
        return choice.applied({"uri": own})
    return choice.applied(cast("dict[str, Any]", own)) if isinstance(own, dict) else own


def choose_in_steps(steps: Mapping[str, Step], choice: ModelChoice) -> Iterator[tuple[str, Step]]:
    """The steps whose model is replaced: all that ask one, or the one that the choice names. Raises SpecError."""
    if choice.name and choice.name not in steps:
        raise SpecError.of(choice.where, f"there is no step {choice.name!r}{nearest(choice.name, list(steps))}")
    if choice.name and steps[choice.name].llm is None:
        raise SpecError.of(choice.where, f"step {choice.name!r} asks no model")

    def change(llm: LLM) -> LLM:
        return LLM(**choice.applied({name: getattr(llm, name) for name in llm.model_fields_set}))

    for name, step in steps.items():
        if step.llm is not None and choice.name in ("", name):
            # Another model takes the place of a whole pool; an address is that of each member.
            is_other = choice.option == "model"
            llm = change(first_of(step.llm)) if is_other else change_members(step.llm, change)
            yield name, step.model_copy(update={"llm": llm})
