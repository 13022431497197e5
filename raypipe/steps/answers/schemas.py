"""Reads a JSON Schema: closed against unknown properties, its references followed, its Arrow types named.

Knows nothing of what is checked against it. Only references inside the schema are followed, so reading
one never touches the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import unquote

import orjson

from raypipe.errors import SpecError, shorten
from raypipe.steps.answers.schema_check import nodes

Node = dict[str, Any]
"""A schema or a part of one."""

_OF_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_OF_LISTS = ("anyOf", "oneOf", "prefixItems")
_OF_ONE = ("items", "additionalProperties", "contains")
_LEAVE_OPEN = frozenset(
    ("additionalProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref", "if", "dependentSchemas")
)
"""Beside these, an object defines itself what else it may have."""
_SCALARS = {"string": "string", "integer": "int64", "number": "double", "boolean": "bool"}
_NULL = {"type": "null"}
_MOST_REFERENCES = 32
_LARGEST_BYTES = 1 << 20


def closed(schema: Mapping[str, Any]) -> Node:
    """A copy in which objects that list their properties allow no others, unless they say so.

    Providers that decode under a schema ask for this. Raises SpecError for anything but plain JSON, and for references
    that lead nowhere.
    """
    try:
        text = orjson.dumps(dict(schema))
    except TypeError as error:
        raise unsound(f"is not plain JSON: {error}") from None
    if len(text) > _LARGEST_BYTES:
        raise unsound(f"is {len(text)} bytes of JSON, more than {_LARGEST_BYTES}")
    root = cast(Node, orjson.loads(text))
    for node in nodes(root):
        for name in ("$ref", "$dynamicRef", "$recursiveRef"):  # every one, under whichever keyword it stands
            if isinstance(node.get(name), str):
                _at(root, node[name])
    for node in _nodes(root):
        if isinstance(node.get("properties"), dict) and not _LEAVE_OPEN & node.keys():
            node["additionalProperties"] = False
    return root


def resolved(node: Node | bool, root: Node) -> Node:
    """The part of `root` that `node` refers to; of a value that may be null, what it is otherwise.

    A schema may be `true`, which everything satisfies, or `false`, which nothing does.
    """
    for _ in range(_MOST_REFERENCES):
        if isinstance(node, bool):
            return {} if node else {"not": {}}
        options = cast(list[Node | bool], node.get("anyOf", []))
        others = [option for option in options if option != _NULL]
        if isinstance(node.get("$ref"), str):
            node = _at(root, node["$ref"])
        elif len(others) == 1 and _NULL in options:
            node = others[0]
        else:
            break
    return {} if isinstance(node, bool) else node


def properties(node: Node | bool, root: Node) -> dict[str, Node | bool]:
    """The properties of an object by name; none when it is no object."""
    return dict(resolved(node, root).get("properties", {}))


def items(node: Node | bool, root: Node) -> Node | bool | None:
    """The schema of a list's items; `None` when it is no list."""
    found = resolved(node, root)
    if found.get("type") != "array":
        return None
    inner = found.get("items")
    return cast(Node | bool, inner) if isinstance(inner, dict | bool) else {}


def arrow_type(node: Node | bool, root: Node) -> str:
    """The Arrow type of a value by name; `""` where it must be found from the values."""
    found = resolved(node, root)
    inner = items(found, root)
    if inner is not None:
        scalar = "" if items(inner, root) is not None else arrow_type(inner, root)
        return f"list<{scalar}>" if scalar else ""
    values = cast(list[Any], found.get("enum", [found["const"]] if "const" in found else []))
    if values:
        return "string" if all(isinstance(value, str) for value in values) else ""
    named = found.get("type")
    types = cast(list[str], named) if isinstance(named, list) else [named]
    left = [kind for kind in types if kind != "null"]
    return _SCALARS.get(str(left[0]), "") if len(left) == 1 else ""


def unsound(problem: str) -> SpecError:
    """The error of a schema that cannot be used."""
    return SpecError.of("schema", problem)


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    inner: list[Any] = [node.get(key) for key in _OF_ONE]
    for key in _OF_LISTS:
        found = node.get(key)
        inner += cast(list[Any], found) if isinstance(found, list) else []
    for key in _OF_MAPS:
        found = node.get(key)
        inner += list(cast(Node, found).values()) if isinstance(found, dict) else []
    for part in inner:
        if isinstance(part, dict):
            yield from _nodes(cast(Node, part))


def _at(root: Node, reference: Any) -> Node | bool:
    """The node that a local JSON pointer (RFC 6901) or an anchor names."""
    shown = shorten(repr(reference))
    if not (isinstance(reference, str) and reference.startswith("#")):
        raise unsound(f"refers to {shown}; only references inside the schema (#/$defs/…) are followed")
    first, *parts = unquote(reference[1:]).split("/")
    anchored = (node for node in nodes(root) if first in (node.get("$anchor"), node.get("$dynamicAnchor")))
    found: Any = next(anchored, None) if first else root
    for part in parts:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            listed = cast(list[Any], found)
            found = listed[int(key)] if key.isdecimal() and len(key) < 10 and int(key) < len(listed) else None
        else:
            found = cast(Node, found).get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict | bool):
        raise unsound(f"refers to {shown}, which is not in it")
    return cast(Node | bool, found)
