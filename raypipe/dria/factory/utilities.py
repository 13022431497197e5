"""The address from which steps of Dria import `get_abs_path` and `parse_json`."""

from __future__ import annotations

from raypipe.dria.parsing import parse_json
from raypipe.workflows import get_abs_path

__all__ = ["get_abs_path", "parse_json"]
