"""Writes a graph as a Mermaid flowchart, which Markdown viewers draw. Knows nothing of where boxes stand."""

from __future__ import annotations

import re

from raypipe.drawing.labels import COLOURS, MOST_CHARACTERS, column_label, cut_line, describe_step, kind_of
from raypipe.graph.graph import Graph


def mermaid(graph: Graph, *, top_to_bottom: bool = False) -> str:
    """The graph as a Mermaid flowchart, from left to right or from top to bottom."""
    ids = {name: f"s{number}" for number, name in enumerate(graph.steps)}
    lines = [f"flowchart {'TD' if top_to_bottom else 'LR'}"]
    for name, step in graph.steps.items():
        text = "<br/>".join(map(_escape, [name, *describe_step(step)]))
        lines.append(f'  {ids[name]}["{text}"]:::{kind_of(step)}')
    for above, below in graph.edges:
        label = ", ".join(column_label(graph, above))
        arrow = f'-- "{_escape(label)}" -->' if label else "-->"
        lines.append(f"  {ids[above]} {arrow} {ids[below]}")
    used = {kind_of(step) for step in graph.steps.values()}
    for kind, colour in COLOURS.items():
        if kind in used:
            lines.append(f"  classDef {kind} fill:{colour.fill},stroke:{colour.line},color:#0f172a")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """One line of text, in which quotes, tags and Markdown are Mermaid's `#` and the character's number."""
    return re.sub(r"[\"#&<>`*\\\[\]{}]", lambda found: f"#{ord(found[0])};", cut_line(text, MOST_CHARACTERS))
