"""I am a declaration a user writes: unknown or ill-typed fields are refused in one readable error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

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
    found: list[Violation] = []
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            top_level = len(item["loc"]) == 1
            hint = nearest(place, known) if top_level else ""
            found.append(Violation(where, f"unknown option {place!r}{hint}"))
        elif item["type"] == "missing":
            found.append(Violation(where, f"option {place!r} is required"))
        else:
            said = item["msg"].removeprefix("Value error, ")
            said = said[0].lower() + said[1:]
            got = f", got {_short(item['input'])}"
            found.append(Violation(where, f"option {place!r}: {said}{got}" if place else said))
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
