"""Says what a declaration is that a user writes: unknown or ill-typed fields are refused in one readable error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, islice
from reprlib import Repr
from typing import Annotated, Any, ClassVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from raypipe.errors import SpecError, Violation, nearest
from raypipe.security.secrets import redact_option


def _is_variable(name: str) -> str:
    if name and not name.isidentifier():
        raise ValueError("is the name of an environment variable, never the key itself; set one and name it")
    return name


VariableName = Annotated[str, AfterValidator(_is_variable)]
"""The name of an environment variable, or nothing."""


class Late:
    """Annotates an option that must be given, though not yet when the thing is made."""


def late_problem(name: str, option: str) -> str:
    """What is unsound about the step `name` as long as it lacks `option`, and what to write."""
    return (
        f'needs the option {option!r}; give it here or write pipeline.run(parameters={{"{name}": {{"{option}": …}}}})'
    )


class Spec(BaseModel):
    """Base of everything a user declares.

    Raises `SpecError` with every violation, each naming the field, instead of pydantic's error.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    late: ClassVar[frozenset[str]] = frozenset()
    """Options that must be given before the run; none of them stands for `None`."""
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Options that programs for other systems give, and what to do instead."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        inherited = {name for name in cls.late if cls.model_fields[name].default is None}
        found: dict[str, FieldInfo] = {}
        for name, field in cls.model_fields.items():
            forms = [field.metadata, *(getattr(form, "__metadata__", ()) for form in get_args(field.annotation))]
            if field.is_required() and any(isinstance(mark, Late) for marks in forms for mark in marks):
                found[name] = field
        needed = {name for name, field in found.items() if type(None) not in get_args(field.annotation)}
        cls.late = frozenset(inherited | needed)
        for field in found.values():
            field.default = None
        if found:
            cls.model_rebuild(force=True)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            where = type(self).__name__ + (f" {fields['name']!r}" if fields.get("name") else "")
            known = [field.alias or name for name, field in type(self).model_fields.items()]
            raise SpecError(violations=violations(error, where, known, type(self).elsewhere)) from None

    def __repr_args__(self) -> Any:
        """What is given under the name of a secret is not shown."""
        for name, value in super().__repr_args__():
            yield name, redact_option(name or "", value)


def violations(
    error: ValidationError, where: str, known: Sequence[str] = (), elsewhere: Mapping[str, str] | None = None
) -> list[Violation]:
    """pydantic's errors as violations; a misspelt field is answered with the nearest of `known`.

    One of `elsewhere` is answered with what to do instead.
    """
    # A value that fits no form of a union has one error for each form.
    forms = groupby(error.errors(include_url=False), key=lambda item: (item["loc"][:1], id(item["input"])))
    return [Violation(where, _problem(list(items), known, elsewhere or {})) for _, items in forms]


def _problem(items: Sequence[ErrorDetails], known: Sequence[str], elsewhere: Mapping[str, str]) -> str:
    item = items[0]
    place = ".".join(str(part) for part in (item["loc"] if len(items) == 1 else item["loc"][:1]))
    if item["type"] == "extra_forbidden" and place in elsewhere:
        return f"option {place!r}: {elsewhere[place]}"
    if item["type"] == "extra_forbidden":
        return f"unknown option {place!r}{nearest(place, known) if len(item['loc']) == 1 else ''}"
    if item["type"] == "missing":
        return f"option {place!r} is required"
    got = _Shown().repr(redact_option(str((item["loc"] or ("",))[-1]), item["input"]))
    reasons = [item["msg"].removeprefix("Value error, ") for item in items]
    wanted = " or ".join(dict.fromkeys(reason[0].lower() + reason[1:] for reason in reasons))
    problem = f"{wanted}, got {got if len(got) <= 60 else got[:57] + '…'}"
    return f"option {place!r}: {problem}" if place else problem


class _Shown(Repr):
    """Writes a value in time that does not grow with it: it may be a whole table, or stand for more than there is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = 6
        self.maxstring = self.maxlong = self.maxother = 70
        self.fillvalue = "…"

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: self.maxstring])

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """In its own order, which `Repr` sorts."""
        if level <= 0:
            return "{…}"
        parts = [f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in islice(x, self.maxdict)]
        return "{" + ", ".join([*parts, *(["…"] if len(x) > self.maxdict else [])]) + "}"
