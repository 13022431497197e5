"""Says what stands in a picture of a graph: the kind and the text of a step, the columns on a line.

Knows nothing of how it is drawn.
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
    """Kinds of steps that have a colour each."""

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
    """The kind of a step: where its work is done, and whether it asks a model."""
    if step.runs is Runs.SOURCE:
        return Kind.SOURCE
    if step.runs is Runs.GATHER:
        return Kind.AGGREGATE
    if step.runs is Runs.TABLE:
        return Kind.COLUMNS
    return Kind.MODEL if step.llm is not None else Kind.FUNCTION


def describe_step(step: Step) -> list[str]:
    """The lines under the name of a step: its class, and the models that it asks."""
    kind = type(step).__name__
    if step.copies > 1:
        kind += f" × {step.copies}"
    elif step.shape is not Shape.MAP:
        kind += f" · {step.shape}"
    members = members_of(step.llm)
    asked = [f"{len(members)} models"] if len(members) > 2 else [one.label for one in members]
    return [kind, *asked]


def column_label(graph: Graph, name: str) -> list[str]:
    """The columns of the rows that leave a step, new ones first; empty where they are unknown."""
    flow = graph.flows.get(name)
    if flow is None or not flow.columns:
        return []
    known = {
        column
        for above in graph.predecessors[name]
        for column in (graph.flows[above].columns if above in graph.flows else None) or ()
    }
    return shorten_list(sorted(flow.columns, key=known.__contains__))


def shorten_list(columns: Sequence[str]) -> list[str]:
    """`a`, `b`, `+3`: as many names as fit in a label, at least one, and the number of the others."""
    shown = [cut_line(columns[0], _MOST_LABEL_CHARACTERS)]
    for column in columns[1:]:
        if width_px(", ".join([*shown, column]), 1) > width_px("n" * _MOST_LABEL_CHARACTERS, 1):
            break
        shown.append(cut_line(column, _MOST_LABEL_CHARACTERS))
    more = len(columns) - len(shown)
    return [*shown, *([f"+{more}"] if more else [])]


def cut_line(text: str, most: int) -> str:
    """Text on one line of at most `most` characters, without those that XML cannot hold."""
    one_line = " ".join(_NOT_XML.sub("", text).split())
    return one_line if len(one_line) <= most else one_line[: most - 1] + "…"


def width_px(text: str, font_px: float) -> float:
    """About how wide a text is; a character of DejaVu Sans was measured at 0.57 of its height."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return (len(text) * 0.6 + wide * 0.5) * font_px
