"""I turn rows into rows: the steps by type name, loaded when they are first asked for.

I do not know how steps are joined or run. Importing me loads no step, so a pipeline pays only for
the steps it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raypipe.errors import SpecError, Violation, nearest
from raypipe.step import Step, imported

if TYPE_CHECKING:
    from raypipe.step import Aggregate, Callback
    from raypipe.steps.columns import KeepColumns
    from raypipe.steps.filtering import Filter
    from raypipe.steps.functions import step
    from raypipe.steps.loaders import LoadDataFromDicts, LoadDataFromFiles
    from raypipe.steps.preference import PreferencePair
    from raypipe.steps.text_generation import TextGeneration

REGISTRY: dict[str, str] = {
    "Aggregate": "raypipe.step:Aggregate",
    "Callback": "raypipe.step:Callback",
    "Filter": "raypipe.steps.filtering:Filter",
    "KeepColumns": "raypipe.steps.columns:KeepColumns",
    "LoadDataFromDicts": "raypipe.steps.loaders:LoadDataFromDicts",
    "LoadDataFromFiles": "raypipe.steps.loaders:LoadDataFromFiles",
    "PreferencePair": "raypipe.steps.preference:PreferencePair",
    "TextGeneration": "raypipe.steps.text_generation:TextGeneration",
}
"""Where each step type stands."""

_EXPORTS = REGISTRY | {"step": "raypipe.steps.functions:step"}

__all__ = [
    "REGISTRY",
    "Aggregate",
    "Callback",
    "Filter",
    "KeepColumns",
    "LoadDataFromDicts",
    "LoadDataFromFiles",
    "PreferencePair",
    "TextGeneration",
    "resolve",
    "step",
]


def __getattr__(name: str) -> Any:
    place = _EXPORTS.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{nearest(name, list(_EXPORTS))}")
    return imported(place)


def resolve(type_name: str) -> type[Step]:
    """The step class of a type name or dotted path.

    Raises SpecError when there is none.
    """
    where = f"step type {type_name!r}"
    if type_name not in REGISTRY and not {".", ":"} & set(type_name):
        hint = nearest(type_name, list(REGISTRY))
        raise SpecError(violations=[Violation(where, f"is unknown{hint}; a type of your own is written module:Class")])
    found = imported(REGISTRY.get(type_name, type_name))
    if not (isinstance(found, type) and issubclass(found, Step)):
        problem = f"is no step but a {type(found).__name__}; name a subclass of Step or a function decorated with @step"
        raise SpecError(violations=[Violation(where, problem)])
    return found
