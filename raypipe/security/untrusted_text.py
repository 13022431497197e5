"""Reads YAML and JSON that others wrote, in time and memory that grow with the text alone.

Knows nothing of what the text says. A few lines of YAML whose aliases double each other stand for more values than
there is memory, and a text of brackets is nested deeper than Python can follow: both are refused where they are
read, so that nothing behind has to count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson
import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

DEEPEST = 100
"""Most values inside each other."""
DEEPEST_ROW = 40
"""Most lists and objects inside each other in a row: Parquet holds 48."""
_MOST_REPEATED = 100_000
"""Most values that aliases stand for, all together."""
_LONGEST_NUMBER = 100


class PlainLoader(yaml.SafeLoader):
    """Safe YAML with bounds on what aliases repeat, on nesting and on numbers."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0
        self._values = 0
        """Values so far, repeated ones as often as they are repeated."""
        self._repeated = 0
        self._sizes: dict[str, int] = {}
        """How many values an anchor stands for, once all of them are known."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As PyYAML's, with each bound checked before the node is made."""
        event = cast("Any", self).peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._repeat(event)
            return super().compose_node(parent, index)
        if self._depth >= DEEPEST:
            raise ComposerError(None, None, f"is nested deeper than {DEEPEST} levels", event.start_mark)
        self._depth += 1
        before = self._values
        self._values += 1
        node = super().compose_node(parent, index)
        if event.anchor is not None:
            self._sizes[event.anchor] = self._values - before
        self._depth -= 1
        return node

    def _repeat(self, event: Any) -> None:
        size = self._sizes.get(event.anchor, 0)
        if not size and event.anchor in cast("Any", self).anchors:
            raise ComposerError(None, None, f"alias {event.anchor[:60]!r} stands inside itself", event.start_mark)
        self._values += size
        self._repeated += size
        if self._repeated > _MOST_REPEATED:
            raise ComposerError(
                None, None, f"aliases stand for more than {_MOST_REPEATED} values; write fewer", event.start_mark
            )


def _number(loader: PlainLoader, node: yaml.ScalarNode) -> int | float:
    """Base 60 and the like take time that grows with the square of their length."""
    if len(node.value) > _LONGEST_NUMBER:
        problem = f"a number has more than {_LONGEST_NUMBER} characters; put text in quotes"
        raise ConstructorError(None, None, problem, node.start_mark)
    is_int = node.tag.endswith(":int")
    return loader.construct_yaml_int(node) if is_int else loader.construct_yaml_float(node)


PlainLoader.add_constructor("tag:yaml.org,2002:int", _number)
PlainLoader.add_constructor("tag:yaml.org,2002:float", _number)


def check_depth(value: Any, deepest: int = DEEPEST) -> None:
    """Raises ValueError for values that are nested deeper than `deepest`."""
    level: list[Any] = [value]
    for _ in range(deepest + 1):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, Mapping):
                inner += cast("Mapping[Any, Any]", one).values()
            elif isinstance(one, list | tuple):
                inner += cast("list[Any]", one)
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested deeper than {deepest} levels")


def load_json(text: str | bytes) -> Any:
    """A value of JSON that a table can hold. Raises ValueError saying why it is none, or nested too deeply."""
    value = orjson.loads(text)
    # Hardly any text is looked at twice: a value is never nested deeper than its text has opening brackets.
    opened = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if opened > DEEPEST_ROW:
        check_depth(value, DEEPEST_ROW)
    return value
