"""No answer, however odd, makes a log unusable: what is written and what is read is sound."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.calls.compacted import SCHEMA, as_table
from raypipe.calls.compaction import compact
from raypipe.calls.index import CallReader, index_with_segments, load_index
from raypipe.calls.segment_files import SegmentWriter
from raypipe.calls.segments import HEADER, Block, CallOrigin, SegmentReader, make_frame, parse_fields
from raypipe.contracts.llm import Completion, Usage
from tests.calls.logs import OWNER, completion, frame, frame_of, key

SOUND = ["step", "00" * 16, 0, 0, "text", "stop", 4, 3, "some-model", 1.5, 0.25]
OLD_HEADER = b"raypipe calls 1\n"
ODD: list[tuple[str, int, Any, Any]] = [
    ("finish reason", 5, 7, "7"),
    ("finish reason null", 5, None, "stop"),
    ("model", 8, {}, "{}"),
    ("text null", 4, None, ""),
    ("text a number", 4, 7.5, "7.5"),
    ("text an object", 4, {"a": ["é"]}, '{"a": ["é"]}'),
    ("tokens 2^63", 6, 2**63, 0),
    ("tokens negative", 6, -1, 0),
    ("tokens absurd", 7, 10**17, 0),
    ("tokens text", 7, "12", 0),
    ("tokens true", 7, True, 0),
    ("tokens a float", 7, 3.0, 3),
    ("tokens null", 6, None, 0),
]
_PLACES = {4: "text", 5: "finish_reason", 8: "model"}


def field_of(answer: Completion, place: int) -> Any:
    return answer.usage[place - 6] if place in (6, 7) else getattr(answer, _PLACES[place])


def reader_of(folder: Path) -> CallReader:
    return CallReader(index_with_segments(load_index(folder), folder, OWNER))


@pytest.mark.parametrize(("what", "place", "value", "expected"), ODD, ids=[odd[0] for odd in ODD])
@pytest.mark.parametrize("is_compacted", [True, False])
def test_an_odd_field_of_an_old_log_is_made_sound(
    what: str, place: int, value: Any, expected: Any, is_compacted: bool, tmp_path: Path
) -> None:
    odd = [*SOUND]
    odd[place] = value
    path = tmp_path / f"segment-{OWNER}-{'0' * 32}-a.calls"
    path.write_bytes(OLD_HEADER + frame_of(key(0), SOUND) + frame_of(key(1), odd) + frame_of(key(2), SOUND))
    if is_compacted:
        compact(tmp_path, OWNER)
        assert not list(tmp_path.glob("segment-*"))
    reader = reader_of(tmp_path)
    assert reader.find(key(0)) == reader.find(key(2)) == completion("text")
    answer = reader.find(key(1))
    assert answer is not None
    assert (field_of(answer, place), type(field_of(answer, place))) == (expected, type(expected)), what


@pytest.mark.parametrize(
    "fields",
    [b"{}", b"[]", b"[1, 2]", b"not JSON", b"[" * 90_000, orjson.dumps(SOUND[:9]), b'"text"'],
    ids=["object", "empty", "short", "no JSON", "deep", "nine fields", "text"],
)
def test_a_frame_that_cannot_be_placed_costs_one_call(fields: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"segment-{OWNER}-{'0' * 32}-a.calls"
    content = OLD_HEADER + frame_of(key(0), SOUND) + frame_of(key(1), fields) + frame_of(key(2), SOUND)
    path.write_bytes(content)
    assert reader_of(tmp_path).find(key(1)) is None
    [damage] = compact(tmp_path, OWNER)
    assert (damage.file, damage.calls, damage.kept) == (path.name, 1, f"damaged/{path.name}")
    assert (tmp_path / damage.kept).read_bytes() == content
    reader = reader_of(tmp_path)
    assert reader.find(key(0)) == reader.find(key(2)) == completion("text")
    assert reader.find(key(1)) is None


def test_what_others_write_as_json_is_read(tmp_path: Path) -> None:
    text = b'["step","00",0,0,"half \\ud83d, whole \\ud83d\\ude00","stop",NaN,3,"m",-Infinity,1e999]'
    path = tmp_path / f"segment-{OWNER}-{'0' * 32}-a.calls"
    path.write_bytes(OLD_HEADER + frame_of(key(0), text))
    compact(tmp_path, OWNER)
    assert reader_of(tmp_path).find(key(0)) == Completion("half �, whole 😀", "stop", Usage(0, 3), "m")


ANY: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=8),
    st.text(st.characters(categories=["Cs", "L"]), max_size=4),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
)


def block_of(frames: list[bytes]) -> Block:
    starts = [0]
    for one in frames:
        starts.append(starts[-1] + len(one))
    return Block(0, b"".join(frames), starts[:-1], starts[-1])


@settings(max_examples=150)
@given(text=ANY, reason=ANY, asked=ANY, written=ANY, model=ANY, latency_s=st.floats())
def test_whatever_a_completion_is_its_frame_is_sound(
    text: Any, reason: Any, asked: Any, written: Any, model: Any, latency_s: float
) -> None:
    answer = Completion(text, reason, Usage(asked, written), model)
    odd = make_frame(key(1), CallOrigin("s", b"r", 0, 0), answer, latency_s)
    block = SegmentReader(io.BytesIO(HEADER + odd)).read()
    assert block is not None
    [(found, body)] = block.frames()
    fields = parse_fields(body)
    assert (found, orjson.loads(body)) == (key(1), list(fields or ()))
    assert fields is not None
    assert all(type(fields[place]) is str for place in (0, 1, 4, 5, 8))
    assert all(count is None or 0 <= count <= 10**9 for count in fields[6:8])
    assert all(number is None or math.isfinite(number) for number in fields[9:11])
    if isinstance(text, str) and text.isprintable():
        assert fields[4] == text
    table = as_table(block_of([frame_of(key(1), body), frame_of(key(2), body)]))
    assert table.schema.equals(SCHEMA)
    assert [tuple(row.values()) for row in table.to_pylist()] == [(one, *fields) for one in (key(1), key(2))]


@settings(max_examples=150)
@given(st.lists(st.tuples(*[ANY] * 12), min_size=1, max_size=4))
def test_many_frames_at_once_are_as_sound_as_each_alone(rows: list[tuple[Any, ...]]) -> None:
    bodies = [json.dumps(row).encode() for row in rows]
    table = as_table(block_of([frame_of(key(number), body) for number, body in enumerate(bodies)]))
    alone = [parse_fields(body) for body in bodies]
    assert [tuple(row.values())[1:] for row in table.to_pylist()] == alone


def test_what_is_kept_beside_a_call_comes_through_untouched(tmp_path: Path) -> None:
    """Also where files that have it and files of version 1, which do not, come together."""
    more = '{"request": [1.10, "é"],  "tier":null}'
    (tmp_path / f"segment-{OWNER}-{'0' * 32}-a.calls").write_bytes(OLD_HEADER + frame_of(key(0), SOUND))
    writer = SegmentWriter(tmp_path, OWNER)
    writer.write(frame(1, more=more) + frame(2))
    writer.close()
    compact(tmp_path, OWNER)
    [path] = tmp_path.glob("calls-*.parquet")
    assert pq.read_table(path, columns=["key", "more"]).to_pylist() == [
        {"key": key(0), "more": None},
        {"key": key(1), "more": more},
        {"key": key(2), "more": None},
    ]
