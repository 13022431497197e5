"""Draws a graph as an SVG document that needs nothing but a font. Knows nothing of how boxes are placed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from raypipe.contracts.step import Step
from raypipe.drawing.labels import (
    COLOURS,
    MOST_CHARACTERS,
    Kind,
    column_label,
    cut_line,
    describe_step,
    kind_of,
    width_px,
)
from raypipe.drawing.placement import MARGIN, Box, Placement, Point, Size, place
from raypipe.graph.graph import Graph

_NAME_PX, _WORDS_PX, _LABEL_PX = 14, 11, 11
_LINE_PX = 17.0
_TITLE_PX = 40.0
_LEGEND_PX = 34.0
"""Width of a legend's square and the space around it."""
FONTS = "'DejaVu Sans', Verdana, 'Segoe UI', Helvetica, Arial, 'Liberation Sans', 'Noto Sans', sans-serif"


def svg(graph: Graph, name: str = "pipeline", *, top_to_bottom: bool = False) -> str:
    """The graph as an SVG document, from left to right or from top to bottom; `name` is its title."""
    # One line for each column of a label, where labels beside each other would make the picture wide.
    columns = {step: column_label(graph, step) for step in graph.steps if graph.successors[step]}
    labels = {step: [", ".join(label)] if top_to_bottom else label for step, label in columns.items() if label}
    label_sizes = {
        step: Size(max(width_px(line, _LABEL_PX) for line in lines) + 10, len(lines) * (_LABEL_PX + 3.0) + 5)
        for step, lines in labels.items()
    }
    box_sizes = {step: _box_size(step, describe_step(graph.steps[step])) for step in graph.steps}
    placed = place(box_sizes, graph.edges, label_sizes, top_to_bottom)
    used = {kind_of(step) for step in graph.steps.values()}
    title, legend = cut_line(name, 80), [kind for kind in Kind if kind in used]
    legend_px = sum(width_px(kind, _LABEL_PX) + _LEGEND_PX for kind in legend)
    width = max(placed.size.width, width_px(title, 18) + 2 * MARGIN, legend_px + MARGIN)
    height = _TITLE_PX + placed.size.height + _LINE_PX + 8
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
    lines = [
        f'{head} width="{width:.0f}" height="{height:.0f}" font-family="{FONTS}">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        _text(title, (MARGIN, 32), 18, weight="bold", anchor="start"),
        f'<g transform="translate(0 {_TITLE_PX:.0f})">',
        *_lines(placed, top_to_bottom),
        *_labels(placed, labels),
        *(part for step, box in placed.boxes.items() for part in _box(step, graph.steps[step], box)),
        "</g>",
        *_legend(legend, height - _LINE_PX),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _box_size(name: str, words: list[str]) -> Size:
    widths = [width_px(cut_line(name, MOST_CHARACTERS), _NAME_PX)]
    widths += [width_px(cut_line(line, MOST_CHARACTERS), _WORDS_PX) for line in words]
    return Size(max(*widths, 80.0) + 24, _LINE_PX * (len(words) + 1) + 14)


def _lines(placed: Placement, top_to_bottom: bool) -> Iterator[str]:
    """Every line, and an arrowhead at every end of one."""
    yield '<g fill="none" stroke="#94a3b8" stroke-width="1.5">'
    for route in placed.routes.values():
        yield f'<path d="{_path(route, top_to_bottom)}"/>'
    yield "</g>"
    yield '<g fill="#64748b">'
    for x, y in dict.fromkeys(route[-1] for route in placed.routes.values()):
        tip = (x, y), (x - 4, y - 9), (x + 4, y - 9)
        points = tip if top_to_bottom else ((x, y), (x - 9, y - 4), (x - 9, y + 4))
        yield f'<polygon points="{" ".join(_point(point) for point in points)}"/>'
    yield "</g>"


def _path(route: Sequence[Point], top_to_bottom: bool) -> str:
    """Straight within columns and bent between them; a curve leaves and arrives in the direction of the flow."""
    parts = [f"M{_point(route[0])}"]
    for index in range(1, len(route)):
        before, here = route[index - 1], route[index]
        if index % 2:
            parts.append(f"L{_point(here)}")
            continue
        x, y = (before[0] + here[0]) / 2, (before[1] + here[1]) / 2
        first, second = ((before[0], y), (here[0], y)) if top_to_bottom else ((x, before[1]), (x, here[1]))
        parts.append(f"C{_point(first)} {_point(second)} {_point(here)}")
    return " ".join(parts)


def _labels(placed: Placement, labels: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for step, box in placed.labels.items():
        yield _rectangle(box, 'rx="4" fill="#ffffff" fill-opacity="0.92"', "label")
        for number, line in enumerate(labels[step]):
            bottom = box.top + 13 + number * (_LABEL_PX + 3.0)
            yield _text(line, (box.middle[0], bottom), _LABEL_PX, colour="#475569")


def _box(name: str, step: Step, box: Box) -> Iterator[str]:
    colour = COLOURS[kind_of(step)]
    x, _ = box.middle
    first = box.top + 7 + _LINE_PX - 4
    words = describe_step(step)
    yield f"<g><title>{escape(cut_line(' '.join([name, *words]), 200))}</title>"
    yield _rectangle(box, f'rx="8" fill="{colour.fill}" stroke="{colour.line}" stroke-width="1.5"', "step")
    yield _text(cut_line(name, MOST_CHARACTERS), (x, first), _NAME_PX, weight="bold")
    for number, line in enumerate(words, start=1):
        yield _text(cut_line(line, MOST_CHARACTERS), (x, first + number * _LINE_PX), _WORDS_PX, colour="#475569")
    yield "</g>"


def _legend(kinds: list[Kind], bottom: float) -> Iterator[str]:
    """A coloured square for each kind of step, and its name."""
    x = MARGIN
    for kind in kinds:
        colour = COLOURS[kind]
        yield _rectangle(Box(x, bottom - 10, 12, 12), f'rx="3" fill="{colour.fill}" stroke="{colour.line}"', "legend")
        yield _text(kind, (x + 18, bottom), _LABEL_PX, colour="#475569", anchor="start")
        x += width_px(kind, _LABEL_PX) + _LEGEND_PX


def _rectangle(box: Box, style: str, role: str) -> str:
    place_of = f'x="{box.left:.1f}" y="{box.top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    return f'<rect class="{role}" {place_of} {style}/>'


def _text(
    text: str, at: Point, font_px: int, *, colour: str = "#0f172a", weight: str = "normal", anchor: str = "middle"
) -> str:
    style = f'font-size="{font_px}" font-weight="{weight}" text-anchor="{anchor}" fill="{colour}"'
    return f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" {style}>{escape(text)}</text>'


def _point(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"
