"""Draws a graph as Mermaid text, as SVG and as PNG.

Knows nothing of how each format is made, only which is asked for.
"""

from __future__ import annotations

import os
from pathlib import Path

from raypipe.drawing.flowchart import mermaid
from raypipe.drawing.raster import png
from raypipe.drawing.vector import svg
from raypipe.errors import OutputError, SpecError
from raypipe.graph.graph import Graph

__all__ = ["draw", "mermaid", "svg"]


def draw(graph: Graph, path: str | Path, name: str = "pipeline", *, top_to_bottom: bool = False) -> None:
    """Write a picture of `graph` in the format of the suffix of `path`: .mmd, .svg or .png.

    `name` is the title of an .svg or .png. Raises SpecError for another suffix, or where a package or font that .png
    needs is missing; OutputError when the file cannot be written.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".mmd":
            content = mermaid(graph, top_to_bottom=top_to_bottom).encode()
        case ".svg":
            content = svg(graph, name, top_to_bottom=top_to_bottom).encode()
        case ".png":
            content = png(svg(graph, name, top_to_bottom=top_to_bottom))
        case suffix:
            got = f"ends with {suffix!r}" if suffix else "has no suffix"
            problem = f"{got}, which is not a format of pictures (allowed: .mmd, .png, .svg); write {path.stem}.svg"
            raise SpecError.of(f"picture {str(path)!r}", problem)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"the picture {path} cannot be written: {error.strerror or error}") from None
