"""Places boxes and the lines between them on a plane, so that nothing lies on anything else.

Knows nothing of what a box stands for or how it is drawn. Boxes stand in columns by the longest path to them, and every
second column holds the labels of lines, so a label has a place of its own; a line that passes a column has one too,
and bends only between columns. Within a column, neighbours are ordered by where their lines lead (Sugiyama, Tagawa
and Toda 1981) and moved as close to them as their order allows (isotonic regression). The package fast-sugiyama (0.5)
does the ordering, but knows boxes of one size only, and no labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import groupby, pairwise

Edge = tuple[str, str]
Point = tuple[float, float]

MARGIN = 24.0
BETWEEN_BOXES = 22.0
BETWEEN_LINES = 12.0
BETWEEN_COLUMNS = (26.0, 90.0)
"""Least and most; a steeper line gets more room."""
BEFORE_BOX = 10.0
"""Straight end of a line, for its arrowhead."""
_SWEEPS = 12


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels, like all lengths here."""

    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; x grows to the right and y downwards."""

    left: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> Point:
        return self.left + self.width / 2, self.top + self.height / 2


@dataclass(frozen=True, slots=True)
class Placement:
    """Where everything is."""

    boxes: Mapping[str, Box]
    labels: Mapping[str, Box]
    """The labels of the lines that leave a box, by its name."""
    routes: Mapping[Edge, Sequence[Point]]
    """Points of each line; its pieces are straight and bent in turn, beginning with a straight one."""
    size: Size

    def transpose(self) -> Placement:
        """The placement with its axes exchanged."""
        boxes, labels = (
            {name: Box(box.top, box.left, box.height, box.width) for name, box in placed.items()}
            for placed in (self.boxes, self.labels)
        )
        routes = {edge: [(y, x) for x, y in route] for edge, route in self.routes.items()}
        return Placement(boxes, labels, routes, Size(self.size.height, self.size.width))


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place in a column: a box (even column), the label of its lines (odd column), or a line that passes."""

    column: int
    name: str
    towards: str = ""


_Columns = list[list[_Spot]]
_Link = tuple[_Spot, _Spot]


def place(
    sizes: Mapping[str, Size], edges: Sequence[Edge], labels: Mapping[str, Size], top_to_bottom: bool = False
) -> Placement:
    """Place boxes of these `sizes` from left to right, or from top to bottom. Raises graphlib.CycleError.

    `labels`: for a box, the size of the label that the lines leaving it share.
    """
    if top_to_bottom:
        sizes = {name: Size(size.height, size.width) for name, size in sizes.items()}
        labels = {name: Size(size.height, size.width) for name, size in labels.items()}
        return place(sizes, edges, labels).transpose()
    ranks = _ranks(list(sizes), edges)
    paths = _paths(ranks, edges, labels)
    links = list(dict.fromkeys(link for path in paths.values() for link in pairwise(path)))
    spots = dict.fromkeys([_Spot(2 * ranks[name], name) for name in sizes])
    spots |= dict.fromkeys(spot for path in paths.values() for spot in path)
    extent = {
        spot: Size(0.0, 0.0) if spot.towards else (labels if spot.column % 2 else sizes)[spot.name] for spot in spots
    }
    by_column = groupby(sorted(spots, key=lambda spot: spot.column), key=lambda spot: spot.column)
    columns = _order([list(column) for _, column in by_column], links)
    across = _across(columns, links, extent)
    along = _along(columns, links, extent, across)
    return _placement(paths, extent, across, along)


# Columns.


def _ranks(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Length of the longest path to each box. Raises graphlib.CycleError."""
    above: dict[str, list[str]] = {name: [] for name in names}
    for start, end in edges:
        above[end].append(start)
    ranks: dict[str, int] = {}
    for name in TopologicalSorter(above).static_order():
        ranks[name] = max((ranks[other] + 1 for other in above[name]), default=0)
    return ranks


def _paths(ranks: Mapping[str, int], edges: Sequence[Edge], labels: Mapping[str, Size]) -> dict[Edge, list[_Spot]]:
    """The spots that each line goes through; lines that leave a box share its label's."""
    paths: dict[Edge, list[_Spot]] = {}
    for above, below in edges:
        first, last = 2 * ranks[above], 2 * ranks[below]
        start = _Spot(first + 1, above) if above in labels else _Spot(first + 1, above, below)
        passed = [_Spot(column, above, below) for column in range(first + 2, last)]
        paths[above, below] = [_Spot(first, above), start, *passed, _Spot(last, below)]
    return paths


# Order within a column.


def _order(columns: _Columns, links: Sequence[_Link]) -> _Columns:
    """The order with the fewest crossings that sweeps forward and back find."""
    above, below = _neighbours(links)
    best, fewest = columns, _crossings(columns, below)
    current = columns
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        forward = sweep % 2 == 0
        current = _sweep(current, above if forward else below, forward)
        crossings = _crossings(current, below)
        if crossings < fewest:
            best, fewest = current, crossings
    return best


def _neighbours(links: Sequence[_Link]) -> tuple[dict[_Spot, list[_Spot]], dict[_Spot, list[_Spot]]]:
    """The spots above and below each spot."""
    above: dict[_Spot, list[_Spot]] = defaultdict(list)
    below: dict[_Spot, list[_Spot]] = defaultdict(list)
    for start, end in links:
        above[end].append(start)
        below[start].append(end)
    return above, below


def _sweep(columns: _Columns, neighbours: Mapping[_Spot, Sequence[_Spot]], forward: bool) -> _Columns:
    """Each column in the order of the mean place of its neighbours in the column before."""
    place_of: dict[_Spot, float] = {}
    swept: _Columns = []
    for column in columns if forward else reversed(columns):
        wanted: dict[_Spot, float] = {}
        for index, spot in enumerate(column):
            near = [place_of[other] for other in neighbours.get(spot, ())]
            wanted[spot] = sum(near) / len(near) if near else index
        swept.append(sorted(column, key=wanted.__getitem__))
        place_of |= {spot: float(index) for index, spot in enumerate(swept[-1])}
    return swept if forward else swept[::-1]


def _crossings(columns: _Columns, below: Mapping[_Spot, Sequence[_Spot]]) -> int:
    """How many pairs of lines cross."""
    count = 0
    for column, following in pairwise(columns):
        index = {spot: number for number, spot in enumerate(following)}
        ends = [sorted(index[end] for end in below.get(spot, ())) for spot in column]
        for number, own in enumerate(ends):
            later = [end for others in ends[number + 1 :] for end in others]
            count += sum(end < mine for mine in own for end in later)
    return count


# Coordinates.


def _across(columns: _Columns, links: Sequence[_Link], extent: Mapping[_Spot, Size]) -> dict[_Spot, float]:
    """Middle of each spot along its column: near its neighbours', in order and without overlap."""
    above, below = _neighbours(links)
    found: dict[_Spot, float] = {}
    for column in columns:
        found |= _spread(column, dict.fromkeys(column, 0.0), extent)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        neighbours = above if forward else below
        for column in columns if forward else reversed(columns):
            near = {spot: [found[other] for other in neighbours.get(spot, ())] for spot in column}
            wanted = {spot: sum(ends) / len(ends) if ends else found[spot] for spot, ends in near.items()}
            found |= _spread(column, wanted, extent)
    first = min(found[spot] - extent[spot].height / 2 for spot in found)
    return {spot: middle - first + MARGIN for spot, middle in found.items()}


def _spread(column: Sequence[_Spot], wanted: Mapping[_Spot, float], extent: Mapping[_Spot, Size]) -> dict[_Spot, float]:
    """The middles nearest to `wanted` (least squares) that keep the order and the distances."""
    offsets = [0.0]
    for one, other in pairwise(column):
        gap = BETWEEN_LINES if one.towards and other.towards else BETWEEN_BOXES
        offsets.append(offsets[-1] + (extent[one].height + extent[other].height) / 2 + gap)
    runs: list[tuple[float, int]] = []
    for spot, offset in zip(column, offsets, strict=True):
        mean, count = wanted[spot] - offset, 1
        while runs and runs[-1][0] >= mean:
            before, many = runs.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        runs.append((mean, count))
    bases = [mean for mean, count in runs for _ in range(count)]
    return {spot: base + offset for spot, base, offset in zip(column, bases, offsets, strict=True)}


def _along(
    columns: _Columns, links: Sequence[_Link], extent: Mapping[_Spot, Size], across: Mapping[_Spot, float]
) -> dict[int, tuple[float, float]]:
    """Where each column begins and ends."""
    climbs: dict[int, float] = defaultdict(float)
    for start, end in links:
        climbs[start.column] = max(climbs[start.column], abs(across[start] - across[end]))
    least, most = BETWEEN_COLUMNS
    found: dict[int, tuple[float, float]] = {}
    begin = MARGIN
    for column in columns:
        number = column[0].column
        end = begin + (0.0 if number % 2 else BEFORE_BOX) + max(extent[spot].width for spot in column)
        found[number] = begin, end
        begin = end + min(most, max(least, climbs[number] / 5))
    return found


def _placement(
    paths: Mapping[Edge, Sequence[_Spot]],
    extent: Mapping[_Spot, Size],
    across: Mapping[_Spot, float],
    along: Mapping[int, tuple[float, float]],
) -> Placement:
    """Boxes, labels and routes, from the middle of each spot and the ends of each column."""
    boxes: dict[str, Box] = {}
    labels: dict[str, Box] = {}
    for spot, size in extent.items():
        begin, end = along[spot.column]
        left = (begin + (0.0 if spot.column % 2 else BEFORE_BOX) + end - size.width) / 2
        box = Box(left, across[spot] - size.height / 2, size.width, size.height)
        if not spot.towards:
            (labels if spot.column % 2 else boxes)[spot.name] = box
    routes: dict[Edge, list[Point]] = {}
    for (above, below), path in paths.items():
        points = [(x, across[spot]) for spot in path for x in along[spot.column]]
        points[0] = boxes[above].left + boxes[above].width, points[0][1]
        points[-1] = boxes[below].left, points[-1][1]
        routes[above, below] = points
    bottom = max(across[spot] + size.height / 2 for spot, size in extent.items())
    right = max(end for _, end in along.values())
    return Placement(boxes, labels, routes, Size(right + MARGIN, bottom + MARGIN))
