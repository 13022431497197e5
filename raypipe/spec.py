"""I am a declaration a user writes: unknown or ill-typed fields are refused in one readable error."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from raypipe.errors import SpecError, Violation, nearest


class Spec(BaseModel):
    """Base of everything a user declares.

    Raises `SpecError` with every violation, each naming the field, instead of pydantic's error.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            where = type(self).__name__ + (f" {fields['name']!r}" if fields.get("name") else "")
            known = [field.alias or name for name, field in type(self).model_fields.items()]
            raise SpecError(violations=violations(error, where, known)) from None


def violations(error: ValidationError, where: str, known: Sequence[str] = ()) -> list[Violation]:
    """pydantic's errors as violations; a misspelt field is answered with the nearest of `known`."""
    # A value that fits no form of a union has one error for each form.
    forms = groupby(error.errors(include_url=False), key=lambda item: (item["loc"][:1], id(item["input"])))
    return [Violation(where, _problem(list(items), known)) for _, items in forms]


def _problem(items: Sequence[ErrorDetails], known: Sequence[str]) -> str:
    item = items[0]
    place = ".".join(str(part) for part in (item["loc"] if len(items) == 1 else item["loc"][:1]))
    if item["type"] == "extra_forbidden":
        return f"unknown option {place!r}{nearest(place, known) if len(item['loc']) == 1 else ''}"
    if item["type"] == "missing":
        return f"option {place!r} is required"
    said = " or ".join(dict.fromkeys(_said(item) for item in items)) + f", got {_short(item['input'])}"
    return f"option {place!r}: {said}" if place else said


def _said(item: ErrorDetails) -> str:
    said = item["msg"].removeprefix("Value error, ")
    return said[0].lower() + said[1:]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
