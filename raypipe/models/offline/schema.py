"""Builds a value that satisfies a JSON Schema, with texts about the prompt's subject.

Knows what an answer has to look like, not the answer. `not`, `if`, `contains`, `patternProperties` and
`propertyNames` are ignored.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from raypipe.identity import canonical_json
from raypipe.models.offline import phrases
from raypipe.models.offline.bounded_numbers import number_for
from raypipe.models.offline.flat_schema import MOST_LEVELS, Effort, Flat, flat_schema, impossible
from raypipe.models.offline.pattern import text_for
from raypipe.models.offline.prompt import Prompt

_ROOMY_LEVELS = 4
_FEW_ITEMS = 3
_SPARE_TRIES = 64
_KIND_BY_WORD = {
    "properties": "object",
    "additionalProperties": "object",
    "required": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
}
_NESTING = ("object", "array")
_COLLECTIVE = frozenset(("", "items", "item", "values", "results", "list", "data", "output", "outputs", "answer"))


def value_for(schema: Mapping[str, Any], prompt: Prompt, turn: int) -> Any:
    """A value that `schema` allows; equal arguments give equal values.

    Raises CallError, never worth trying again, for a schema that allows nothing.
    """
    return _Builder(schema, prompt).value(schema, "", turn, 0)


@dataclass
class _Builder:
    """Builds one value. `name` is that of the nearest property, `level` the nesting, `turn` tells siblings apart."""

    _root: Mapping[str, Any]
    _prompt: Prompt
    _open_lists: int = 0
    _effort: Effort = field(default_factory=Effort)

    def value(self, schema: Any, name: str, turn: int, level: int) -> Any:
        if level > MOST_LEVELS:
            raise impossible("it has no end")
        is_tight = level > _ROOMY_LEVELS
        self._effort.spend()
        flat = flat_schema(schema, self._root, turn, is_tight, self._effort)
        if "const" in flat:
            return flat["const"]
        if "enum" in flat:
            if not flat["enum"]:
                raise impossible("an enum allows nothing")
            return flat["enum"][turn % len(flat["enum"])]
        kind = _kind_of(flat, is_tight)
        if kind == "object":
            return self._object(flat, name, turn, level)
        if kind == "array":
            return self._array(flat, name, turn, level)
        return self._scalar(kind, flat, name, turn)

    def _scalar(self, kind: str, flat: Flat, name: str, turn: int) -> Any:
        if kind == "null":
            return None
        if kind == "boolean":
            return turn % 3 != 0
        if kind == "string":
            return self._string(flat, name, turn)
        return number_for(flat, name, turn, kind == "integer")

    def _object(self, flat: Flat, own: str, turn: int, level: int) -> dict[str, Any]:
        properties: dict[str, Any] = flat.get("properties", {})
        required: list[str] = flat.get("required", [])
        others: Any = flat.get("additionalProperties", True)
        names = [name for name in properties if name in required or level <= _ROOMY_LEVELS]
        names += [name for name in required if name not in properties]
        if "maxProperties" in flat:
            names = sorted(names, key=lambda name: name not in required)[: flat["maxProperties"]]
        names += self._more_names(flat, names, turn)
        made: dict[str, Any] = {}
        for name in names:
            part = properties.get(name, others)
            if part is not False or name in required:
                # The `name` of one of the `rivers` is a river's.
                meant = own if name == "name" and own.lower() not in _COLLECTIVE else name
                made[name] = self.value(part, meant, turn + zlib.crc32(name.encode()) % 64, level + 1)
        return made

    def _more_names(self, flat: Flat, names: list[str], turn: int) -> list[str]:
        others: Any = flat.get("additionalProperties", True)
        is_open_map = isinstance(others, Mapping) and not flat.get("properties")
        wanted = max(flat.get("minProperties", 0), 2 if is_open_map else 0) - len(names)
        wanted = min(wanted, flat.get("maxProperties", wanted))
        self._effort.spend(max(wanted, 0))
        new = (phrases.word("", turn + index) for index in range(wanted + len(names) if wanted > 0 else 0))
        return [name for name in new if name not in names and name not in flat.get("properties", {})][:wanted]

    def _array(self, flat: Flat, name: str, turn: int, level: int) -> list[Any]:
        prefix, rest = _parts_of(flat)
        fewest, most = flat.get("minItems", 0), flat.get("maxItems")
        if rest is False:
            most = len(prefix) if most is None else min(most, len(prefix))
        count = self._count(max(fewest, len(prefix)), most, level)
        name = self._prompt.noun if name.lower() in _COLLECTIVE else name
        self._open_lists += 1
        self._effort.spend(count)
        made: list[Any] = []
        keys: set[bytes] = set()
        for index in range(count + _SPARE_TRIES):
            if len(made) == count:
                break
            part = prefix[len(made)] if len(made) < len(prefix) else rest
            item = self.value(part, name, turn + index, level + 1)
            key = canonical_json(item)
            # Fewer different values than items asked for: equal ones are better than too few.
            is_needed = index >= _SPARE_TRIES and len(made) < fewest and not flat.get("uniqueItems")
            if key not in keys or is_needed or len(made) < len(prefix):
                made.append(item)
                keys.add(key)
        self._open_lists -= 1
        return made

    def _count(self, fewest: int, most: int | None, level: int) -> int:
        asked = self._prompt.count if self._open_lists == 0 else None
        if asked is not None and asked >= fewest:
            return asked if most is None else min(asked, most)
        few = fewest if level > _ROOMY_LEVELS else max(fewest, _FEW_ITEMS - min(self._open_lists, 1))
        return few if most is None else min(few, most)

    def _string(self, flat: Flat, name: str, turn: int) -> str:
        shortest, longest = flat.get("minLength", 0), flat.get("maxLength")
        self._effort.spend(shortest // 100)
        if "pattern" in flat:
            text = text_for(flat["pattern"], turn, shortest, longest)
            if text is not None:
                return text
        text = _formatted(flat.get("format", ""), turn) or phrases.maker_for(name)(self._prompt.subject, turn)
        return _fitted(text, self._prompt.subject, turn, shortest, longest)


def _kind_of(flat: Flat, is_tight: bool) -> str:
    if "type" not in flat:
        return next((kind for word, kind in _KIND_BY_WORD.items() if word in flat), "string")
    types: list[str] = [flat["type"]] if isinstance(flat["type"], str) else flat["type"]
    if not types:
        raise impossible("its types exclude each other")
    if is_tight:
        return min(types, key=lambda kind: (kind != "null", kind in _NESTING))
    return next((kind for kind in types if kind != "null"), "null")


def _parts_of(flat: Flat) -> tuple[list[Any], Any]:
    """Schemas of the first items and of all others."""
    rest: Any = flat.get("items", True)
    if isinstance(rest, list):
        return cast("list[Any]", rest), flat.get("additionalItems", True)
    return flat.get("prefixItems", []), rest


def _fitted(text: str, subject: str, turn: int, shortest: int, longest: int | None) -> str:
    if longest is not None and len(text) > longest:
        text = phrases.word(subject, turn)
    parts, length = [text], len(text)
    while length < shortest:
        turn += 1
        parts.append(phrases.sentence(subject, turn))
        length += 1 + len(parts[-1])
    text = " ".join(parts)
    return text if longest is None else text[:longest]


def _formatted(form: str, turn: int) -> str:
    word = phrases.word("", turn)
    date, clock = f"20{10 + turn % 15}-{1 + turn % 12:02}-{1 + turn % 28:02}", f"{turn % 24:02}:{turn % 60:02}:00Z"
    return {
        "date": date,
        "time": clock,
        "date-time": f"{date}T{clock}",
        "email": f"{word}@example.org",
        "uri": f"https://example.org/{word}",
        "hostname": f"{word}.example.org",
        "ipv4": f"192.0.2.{turn % 256}",
        "uuid": f"00000000-0000-4000-8000-{turn % 16**12:012x}",
    }.get(form, "")
