"""I say what stands in a picture of a graph: the kind and the words of a step, the columns on a line.

I do not know how it is drawn.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from raypipe.contracts.model_pool import members_of
from raypipe.contracts.step import Runs, Shape, Step
from raypipe.graph.graph import Graph

MOST_CHARACTERS = 34
_MOST_LABEL_CHARACTERS = 26
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Kind(StrEnum):
    """What a step is, as far as its colour goes."""

    SOURCE = "source"
    MODEL = "model"
    FUNCTION = "function"
    COLUMNS = "columns"
    AGGREGATE = "aggregate"


class Colour(NamedTuple):
    fill: str
    line: str


COLOURS = {
    Kind.SOURCE: Colour("#dcfce7", "#15803d"),
    Kind.MODEL: Colour("#dbeafe", "#1d4ed8"),
    Kind.FUNCTION: Colour("#fef3c7", "#b45309"),
    Kind.COLUMNS: Colour("#f1f5f9", "#64748b"),
    Kind.AGGREGATE: Colour("#f3e8ff", "#7e22ce"),
}


def kind_of(step: Step) -> Kind:
    """The kind that gives a step its colour."""
    if step.runs is Runs.SOURCE:
        return Kind.SOURCE
    if step.runs is Runs.GATHER:
        return Kind.AGGREGATE
    if step.runs is Runs.TABLE:
        return Kind.COLUMNS
    return Kind.MODEL if step.llm is not None else Kind.FUNCTION


def words_of(step: Step) -> list[str]:
    """What stands under the name of a step: what it is, and the model that it asks."""
    kind = type(step).__name__
    if step.copies > 1:
        kind += f" × {step.copies}"
    elif step.shape is not Shape.MAP:
        kind += f" · {step.shape}"
    members = members_of(step.llm)
    asked = [f"{len(members)} models"] if len(members) > 2 else [one.label for one in members]
    return [kind, *asked]


def label_of(graph: Graph, name: str) -> list[str]:
    """The columns of the rows that leave a step, those it added first; empty where they are unknown."""
    flow = graph.flows.get(name)
    if flow is None or not flow.columns:
        return []
    known = {
        column
        for above in graph.predecessors[name]
        for column in (graph.flows[above].columns if above in graph.flows else None) or ()
    }
    return shortened(sorted(flow.columns, key=known.__contains__))


def shortened(columns: Sequence[str]) -> list[str]:
    """`a`, `b`, `+3`: as many names as are read at a glance, at least one, and how many more there are."""
    shown = [cut(columns[0], _MOST_LABEL_CHARACTERS)]
    for column in columns[1:]:
        if width_px(", ".join([*shown, column]), 1) > width_px("n" * _MOST_LABEL_CHARACTERS, 1):
            break
        shown.append(cut(column, _MOST_LABEL_CHARACTERS))
    more = len(columns) - len(shown)
    return [*shown, *([f"+{more}"] if more else [])]


def cut(text: str, most: int) -> str:
    one_line = " ".join(_NOT_XML.sub("", text).split())
    return one_line if len(one_line) <= most else one_line[: most - 1] + "…"


def width_px(text: str, font_px: float) -> float:
    """About how wide a text is; DejaVu Sans was measured at 0.57 of its height for a character."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return (len(text) * 0.6 + wide * 0.5) * font_px
