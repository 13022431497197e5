"""The type of an option that names columns: a list of them, or one alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

ONE_OR_MORE = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
"""A text becomes a list of one."""
ColumnNames = Annotated[list[str], Field(min_length=1), ONE_OR_MORE]
