"""Draws a graph as Mermaid text, as SVG and as PNG.

I do not know how a file of each kind is made, only which is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from raypipe.drawing.flowchart import mermaid
from raypipe.drawing.raster import png
from raypipe.drawing.vector import svg
from raypipe.errors import OutputError, SpecError
from raypipe.graph.graph import Graph

__all__ = ["draw", "mermaid", "svg"]


def draw(graph: Graph, path: str | Path, name: str = "pipeline", *, top_to_bottom: bool = False) -> None:
    """Write a picture of `graph`; the suffix of `path` says which: .mmd, .svg or .png.

    Raises SpecError for another suffix, or when what PNG needs is missing; OutputError when it cannot be written.
    """
    path = Path(path)
    content = _writer(path)(graph, name, top_to_bottom)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"the picture {path} cannot be written: {error.strerror or error}") from None


def _writer(path: Path) -> Callable[[Graph, str, bool], bytes]:
    match path.suffix.lower():
        case ".mmd":
            return lambda graph, name, top_to_bottom: mermaid(graph, top_to_bottom=top_to_bottom).encode()
        case ".svg":
            return lambda graph, name, top_to_bottom: svg(graph, name, top_to_bottom=top_to_bottom).encode()
        case ".png":
            return lambda graph, name, top_to_bottom: png(svg(graph, name, top_to_bottom=top_to_bottom))
        case suffix:
            got = f"ends with {suffix!r}" if suffix else "has no suffix"
            problem = f"{got}, which names no kind of picture (allowed: .mmd, .png, .svg); write {path.stem}.svg"
            raise SpecError.of(f"picture {str(path)!r}", problem)
