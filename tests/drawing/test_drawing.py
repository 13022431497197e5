"""A picture of a graph says what is in it, and nothing in it lies on anything else."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.contracts.llm import LLM
from raypipe.contracts.step import Aggregate
from raypipe.drawing import draw, mermaid, svg
from raypipe.drawing.labels import shorten_list
from raypipe.drawing.placement import Box, Edge, Placement, Point, Size, place
from raypipe.errors import OutputError, SpecError
from raypipe.graph.graph import Flow, Graph
from raypipe.pipeline import Pipeline
from raypipe.steps import KeepColumns, LoadDataFromDicts, TextGeneration

WRITER = LLM("offline/stand-in")
SVG = "{http://www.w3.org/2000/svg}"
PNG = b"\x89PNG\r\n\x1a\n"


def graph() -> Graph:
    with Pipeline("small") as pipeline:
        seed = LoadDataFromDicts([{"topic": "a", "kind": "b"}], name="seed")
        ask = TextGeneration("ask", llm=WRITER, template="{{ topic }}", output="part", parse="lines").scatter()
        parts, gather = KeepColumns("parts", columns=["part"]), Aggregate("gather")
        seed >> ask >> [parts, gather]
        gather >> KeepColumns("keep", columns=["part"])
    return pipeline.graph()


def odd_graph() -> Graph:
    """Names and columns full of what XML and Mermaid take for more than text."""
    steps = {'a"<b>&#\x00': LoadDataFromDicts([{"x": 1}]), "end]`**": KeepColumns(columns=["x"])}
    first, last = steps
    return Graph(steps, ((first, last),), {first: Flow(('co"l<u>&mn',)), last: Flow(None)})


MERMAID = """\
flowchart LR
  s0["seed<br/>LoadDataFromDicts"]:::source
  s1["ask<br/>TextGeneration · scatter<br/>offline/stand-in"]:::model
  s2["parts<br/>KeepColumns"]:::columns
  s3["gather<br/>Aggregate"]:::aggregate
  s4["keep<br/>KeepColumns"]:::columns
  s0 -- "topic, kind" --> s1
  s1 -- "part, topic, kind" --> s2
  s1 -- "part, topic, kind" --> s3
  s3 -- "topic, kind, part" --> s4
  classDef source fill:#dcfce7,stroke:#15803d,color:#0f172a
  classDef model fill:#dbeafe,stroke:#1d4ed8,color:#0f172a
  classDef columns fill:#f1f5f9,stroke:#64748b,color:#0f172a
  classDef aggregate fill:#f3e8ff,stroke:#7e22ce,color:#0f172a
"""


def test_mermaid_text() -> None:
    assert mermaid(graph()) == MERMAID
    assert mermaid(graph(), top_to_bottom=True) == MERMAID.replace("LR", "TD", 1)


def test_mermaid_text_is_escaped() -> None:
    assert mermaid(odd_graph()).splitlines()[1:4] == [
        '  s0["a#34;#60;b#62;#38;#35;<br/>LoadDataFromDicts"]:::source',
        '  s1["end#93;#96;#42;#42;<br/>KeepColumns"]:::columns',
        '  s0 -- "co#34;l#60;u#62;#38;mn" --> s1',
    ]


@pytest.mark.parametrize("top_to_bottom", [False, True])
def test_svg_is_xml_and_says_everything(top_to_bottom: bool) -> None:
    root = ElementTree.fromstring(svg(graph(), "a pipeline <1> & more", top_to_bottom=top_to_bottom))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[0] == "a pipeline <1> & more"
    names = ["seed", "ask", "parts", "gather", "keep", "TextGeneration · scatter", "offline/stand-in", "aggregate"]
    assert [name for name in names if name not in texts] == []
    label = ["part, topic, kind"] if top_to_bottom else ["part", "topic", "kind"]
    assert [word for word in label if word not in texts] == []
    assert len([box for box in root.iter(f"{SVG}rect") if box.get("class") == "step"]) == 5


def test_svg_text_is_escaped() -> None:
    texts = {text.text for text in ElementTree.fromstring(svg(odd_graph(), "\x1b<p>")).iter(f"{SVG}text")}
    assert {"<p>", 'a"<b>&#', 'co"l<u>&mn', "end]`**"} <= texts


def test_long_lists_of_columns_are_shortened() -> None:
    assert shorten_list(["a", "b"]) == ["a", "b"]
    assert shorten_list([f"column_{number}" for number in range(5)]) == ["column_0", "column_1", "+3"]
    assert shorten_list(["x" * 50, "b"]) == ["x" * 25 + "…", "+1"]


# Places.


@st.composite
def drafts(chosen: st.DrawFn) -> tuple[dict[str, Size], list[Edge], dict[str, Size]]:
    """Boxes in an order, lines from earlier to later ones, and labels for some."""
    count = chosen(st.integers(1, 30))
    wide, high = st.integers(20, 300), st.integers(10, 80)
    sizes = {str(number): Size(chosen(wide), chosen(high)) for number in range(count)}
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    drawn = chosen(st.lists(pairs, max_size=2 * count))
    edges = list(dict.fromkeys((str(min(pair)), str(max(pair))) for pair in drawn if pair[0] != pair[1]))
    labelled = chosen(st.sets(st.sampled_from(list(sizes))))
    return sizes, edges, {above: Size(chosen(wide), chosen(high)) for above, _ in edges if above in labelled}


def overlap(a: Box, b: Box) -> bool:
    apart = a.left + a.width <= b.left or b.left + b.width <= a.left
    return not (apart or a.top + a.height <= b.top or b.top + b.height <= a.top)


def sampled(placed: Placement, edge: Edge, top_to_bottom: bool) -> list[Point]:
    """Points of a line; where it bends, they are those of the curve that is drawn."""
    route = placed.routes[edge]
    points: list[Point] = []
    for index in range(1, len(route)):
        (x1, y1), (x2, y2) = route[index - 1], route[index]
        for number in range(21):
            t = number / 20
            slow = t if index % 2 else 3 * t**2 - 2 * t**3
            fast = t if index % 2 else 1.5 * (1 - t) ** 2 * t + 1.5 * (1 - t) * t**2 + t**3
            x, y = (slow, fast) if top_to_bottom else (fast, slow)
            points.append((x1 + (x2 - x1) * x, y1 + (y2 - y1) * y))
    return points


def inside(point: Point, box: Box) -> bool:
    x, y = point
    edge = 1e-6
    across = box.left + edge < x < box.left + box.width - edge
    return across and box.top + edge < y < box.top + box.height - edge


@settings(max_examples=40, deadline=None)
@given(drafts(), st.booleans())
def test_nothing_lies_on_anything_else(
    draft: tuple[dict[str, Size], list[Edge], dict[str, Size]], top_to_bottom: bool
) -> None:
    sizes, edges, labels = draft
    placed = place(sizes, edges, labels, top_to_bottom)
    assert {name: Size(round(box.width), round(box.height)) for name, box in placed.boxes.items()} == sizes
    assert placed.labels.keys() == labels.keys()
    everything = [*placed.boxes.values(), *placed.labels.values()]
    assert not any(overlap(a, b) for a, b in combinations(everything, 2))
    whole = Box(0, 0, placed.size.width, placed.size.height)
    assert all(inside(box.middle, whole) for box in everything)
    for above, below in edges:
        foreign = [box for name, box in placed.boxes.items() if name not in (above, below)]
        foreign += [box for name, box in placed.labels.items() if name != above]
        line = sampled(placed, (above, below), top_to_bottom)
        assert not any(inside(point, box) for point in line for box in foreign)


def test_a_chain_is_straight() -> None:
    sizes = {name: Size(100, 40 + index) for index, name in enumerate("abcd")}
    placed = place(sizes, [("a", "b"), ("b", "c"), ("c", "d")], {"a": Size(50, 10)})
    assert len({box.middle[1] for box in (*placed.boxes.values(), *placed.labels.values())}) == 1


# Files.


def test_the_suffix_says_which_picture(tmp_path: Path) -> None:
    draw(graph(), tmp_path / "new" / "small.mmd")
    draw(graph(), str(tmp_path / "small.SVG"), "named")
    assert (tmp_path / "new" / "small.mmd").read_text() == MERMAID
    assert (tmp_path / "small.SVG").read_text() == svg(graph(), "named")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "small.SVG"]


@pytest.mark.parametrize(
    ("name", "got"), [("graph.pdf", "ends with '.pdf'"), ("graph", "has no suffix")], ids=["pdf", "none"]
)
def test_another_suffix_is_refused(name: str, got: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        draw(graph(), tmp_path / name)
    problem = f"{got}, which is not a format of pictures (allowed: .mmd, .png, .svg); write graph.svg"
    assert str(caught.value) == f"picture {str(tmp_path / name)!r}: {problem}"
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"the picture .*small\.svg cannot be written: "):
        draw(graph(), tmp_path / "file" / "small.svg")


def test_png(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    draw(graph(), tmp_path / "small.png", top_to_bottom=True)
    assert (tmp_path / "small.png").read_bytes()[:8] == PNG


def test_png_without_resvg_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(SpecError, match=r"pip install 'raypipe\[draw\]'; or write \.svg or \.mmd, which need nothing"):
        draw(graph(), tmp_path / "small.png")
    assert not list(tmp_path.iterdir())
