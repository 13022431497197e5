"""I write a graph as a Mermaid flowchart, which Markdown viewers draw."""

from __future__ import annotations

import re

from raypipe.drawing.labels import COLOURS, MOST_CHARACTERS, cut, kind_of, label_of, words_of
from raypipe.graph.graph import Graph


def mermaid(graph: Graph, *, top_to_bottom: bool = False) -> str:
    """The graph as a Mermaid flowchart, which Markdown viewers draw."""
    ids = {name: f"s{number}" for number, name in enumerate(graph.steps)}
    lines = [f"flowchart {'TD' if top_to_bottom else 'LR'}"]
    for name, step in graph.steps.items():
        said = "<br/>".join(_quoted(words) for words in [name, *words_of(step)])
        lines.append(f'  {ids[name]}["{said}"]:::{kind_of(step)}')
    for above, below in graph.edges:
        label = ", ".join(label_of(graph, above))
        arrow = f'-- "{_quoted(label)}" -->' if label else "-->"
        lines.append(f"  {ids[above]} {arrow} {ids[below]}")
    used = {kind_of(step) for step in graph.steps.values()}
    for kind, colour in COLOURS.items():
        if kind in used:
            lines.append(f"  classDef {kind} fill:{colour.fill},stroke:{colour.line},color:#0f172a")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Mermaid writes a character as `#` and its number; quotes, tags and Markdown would be read as more than text."""
    return re.sub(r"[\"#&<>`*\\\[\]{}]", lambda found: f"#{ord(found[0])};", cut(text, MOST_CHARACTERS))
