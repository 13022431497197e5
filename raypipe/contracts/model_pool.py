"""Says what a pool of models is: several models, any of which may answer the calls of a step.

Knows nothing of which of them is chosen for a call. In a file a pool is its first model, with the others under `also`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from raypipe.contracts.llm import LLM

_OTHERS = "also"


@dataclass(frozen=True, slots=True)
class ModelPool:
    """Two or more models, any of which may answer: a list for the `llm` of a step makes one."""

    members: tuple[LLM, ...]

    @property
    def label(self) -> str:
        """The labels of all: for progress, manifest and output columns."""
        return " | ".join(name_members(self))


def make_pool(models: Sequence[LLM | ModelPool]) -> LLM | ModelPool:
    """A pool of all these, or the one that it is. Raises ValueError where there is none."""
    members = tuple(member for one in models for member in members_of(one))
    if not members:
        raise ValueError("a pool of models needs at least one")
    return members[0] if len(members) == 1 else ModelPool(members)


def members_of(asked: LLM | ModelPool | None) -> tuple[LLM, ...]:
    """The models of a pool; of a single model, itself."""
    if isinstance(asked, ModelPool):
        return asked.members
    return () if asked is None else (asked,)


def first_of(asked: LLM | ModelPool) -> LLM:
    """The first member, whose settings stand for the pool's where one is needed for all."""
    return asked.members[0] if isinstance(asked, ModelPool) else asked


def name_members(asked: LLM | ModelPool) -> dict[str, LLM]:
    """The members by their labels; equal labels are numbered."""
    named: dict[str, LLM] = {}
    for member in members_of(asked):
        times = sum(other.uri == member.uri for other in named.values())
        named[f"{member.uri} #{times + 1}" if times else member.uri] = member
    return named


def change_members(asked: LLM | ModelPool, change: Callable[[LLM], LLM]) -> LLM | ModelPool:
    """The same with every member changed."""
    return make_pool([change(member) for member in members_of(asked)])


def from_options(options: Mapping[str, Any]) -> LLM | ModelPool:
    """The model, or pool of models, that a file describes. Raises SpecError."""
    others: Any = options.get(_OTHERS, ())
    first = LLM(**{str(name): value for name, value in options.items() if name != _OTHERS})
    given = cast("Sequence[Any]", others) if isinstance(others, list | tuple) else [others]
    return make_pool([first, *(one if isinstance(one, LLM | ModelPool) else from_options(one) for one in given)])


def to_options(asked: LLM | ModelPool) -> dict[str, Any]:
    """What a file says of it: the options that are not left at their defaults."""
    first, *others = (member.model_dump(exclude_defaults=True) for member in members_of(asked))
    return first | ({_OTHERS: others} if others else {})


class _ListMakesPool:
    """Validates a step's `llm`: a list of models becomes a pool, anything else is read as one model."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def validate(given: Any, as_model: Callable[[Any], LLM]) -> LLM | ModelPool:
            if isinstance(given, ModelPool):
                return given
            if not isinstance(given, list | tuple):
                return as_model(given)
            models = cast("Sequence[Any]", given)
            wrong = next((one for one in models if not isinstance(one, LLM | ModelPool)), None)
            if wrong is not None:
                raise ValueError(f'a pool of models is a list of LLM("provider/model"), got {wrong!r} in it')
            return make_pool(models)

        return core_schema.no_info_wrap_validator_function(validate, handler.generate_schema(LLM))


ModelOrPool = Annotated[LLM | ModelPool, _ListMakesPool()]
"""What a step asks: one `LLM`, or a list of them, any of which may answer."""
