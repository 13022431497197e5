"""Takes the place of Dria's client: which models answer, on which engine, and where results are kept.

Knows nothing of pipelines. No network is joined and no token is needed; options of Dria's network are accepted with a
warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypedDict, Unpack

from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import ModelOrPool, make_pool
from raypipe.dria.models import Model
from raypipe.errors import SpecError, Violation, nearest
from raypipe.execution.context import Engine
from raypipe.steps.idle_options import warn_idle
from raypipe.storage.paths import AnyPath, parse_path

Named = Model | LLM | str
"""A model: Dria's name for it, an `LLM`, or the uri of one."""


class NetworkOptions(TypedDict, total=False):
    """Options of Dria's network. They change nothing here, and a warning says so."""

    rpc_token: str | None
    api_mode: bool
    network: str
    log_level: Any


class Dria:
    """The client: `Dria()`, in which every `Model` has an `LLM` of its own.

    `models` replaces the `LLM` of some: `{Model.GPT4O: LLM("openai/gpt-4o", temperature=0)}`. `default` replaces that
    of all others, and answers steps that name no model, which is otherwise gpt-4o-mini. `out` is the run folder of its
    pipelines (by default each has one under `out/`), `engine` is `ray` or `local`, `address` that of a Ray cluster.
    Raises SpecError for an unknown option or model.
    """

    def __init__(
        self,
        *,
        models: Mapping[Model | str, LLM | str] | None = None,
        default: LLM | str | None = None,
        out: str | AnyPath | None = None,
        engine: Engine = "ray",
        address: str | None = None,
        **network: Unpack[NetworkOptions],
    ) -> None:
        known = ["models", "default", "out", "engine", "address", *NetworkOptions.__annotations__]
        unknown = [f"has no option {name!r}{nearest(name, known)}" for name in network if name not in known]
        if unknown:
            raise SpecError(violations=[Violation("Dria", problem) for problem in unknown])
        for name in network:
            warn_idle("Dria", name, "no network is joined")
        self.out = None if out is None else parse_path(out)
        self.engine: Engine = engine
        self.address = address
        self._models = {_find_model(name): _llm(llm) for name, llm in (models or {}).items()}
        self._default = None if default is None else _llm(default)

    async def initialize(self) -> None:
        """Nothing to join."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to leave."""

    def llm_of(self, named: Named) -> LLM:
        """The `LLM` that answers for `named`. Raises SpecError for what names no model."""
        if isinstance(named, LLM):
            return named
        try:
            model = Model(named)
        except ValueError:
            return _llm(named)
        return self._models.get(model) or self._default or LLM(model.value)

    def pool_of(self, named: Sequence[Named] | None) -> ModelOrPool:
        """The model of a step that names these models: one `LLM`, or a pool of which any may answer."""
        if not named:
            return self._default or self.llm_of(Model.GPT4O_MINI)
        llms: list[LLM] = []
        for one in named:
            llm = self.llm_of(one)
            if llm not in llms:
                llms.append(llm)
        return make_pool(llms)


def _llm(given: LLM | str) -> LLM:
    return given if isinstance(given, LLM) else LLM(given)


def _find_model(name: Model | str) -> Model:
    """The model of a name or uri. Raises SpecError for one that Dria did not have."""
    by_name = Model.__members__.get(name)
    if by_name is not None:
        return by_name
    try:
        return Model(name)
    except ValueError:
        hint = nearest(str(name), list(Model.__members__))
        raise SpecError.of("models", f"there is no model {name!r}{hint}") from None
