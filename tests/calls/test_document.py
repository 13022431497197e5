"""A log can be read with what `docs/call_log.md` says, and nothing else."""

from __future__ import annotations

import json
import re
import struct
import zlib
from base64 import b64decode
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.calls.compaction import compact
from raypipe.calls.segment_files import SegmentWriter
from tests.calls.logs import OWNER, filled, frame, key, write

TEXT = (Path(__file__).parents[2] / "docs" / "call_log.md").read_text()


def fields() -> list[str]:
    [names] = re.findall(r"The array: `\[(.*?)\]`", TEXT)
    return names.split(", ")


def columns() -> dict[str, str]:
    [section] = re.findall(r"^\| column \| type .*?\n\n", TEXT, re.M | re.S)
    return dict(re.findall(r"^\| `(\w+)` \| ([\w\[\]]+) \|", section, re.M))


def frames(content: bytes) -> list[dict[str, Any]]:
    """As the tables say."""
    assert content[:16] == b"raypipe calls 2\n"
    found, at = [], 16
    while at < len(content):
        size, crc = struct.unpack("<II", content[at : at + 8])
        body = content[at + 8 : at + 8 + size]
        assert zlib.crc32(body) == crc
        found.append({"key": body[:16], **dict(zip(fields(), json.loads(body[16:]), strict=True))})
        at += 8 + size
    return found


def checksum(values: list[Any], kind: str) -> int:
    nulls = zlib.crc32(bytes(value is not None for value in values)) if None in values else 0
    if kind == "string":
        texts = [(value or "").encode() for value in values]
        lengths = zlib.crc32(b"".join(struct.pack("<i", len(text)) for text in texts))
        content = zlib.crc32(b"".join(texts))
    else:
        form = {"int32": "<i", "int64": "<q", "double": "<d"}.get(kind)
        packed = [value if form is None else struct.pack(form, value or 0) for value in values]
        lengths, content = 0, zlib.crc32(b"".join(packed))
    return zlib.crc32(struct.pack("<III", nulls, lengths, content))


def test_a_segment_is_as_the_document_says(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, OWNER)
    writer.write(frame(1, "é\n") + frame(2, more='{"a": 1}'))
    writer.close()
    path = filled(tmp_path)
    assert re.fullmatch(rf"segment-{OWNER}-\d{{20}}-\w+-[ab]\.calls", path.name)
    first, second = frames(path.read_bytes())
    assert (first["key"], first["text"], first["more"]) == (key(1), "é\n", None)
    assert (second["row_id"], second["finish_reason"], second["more"]) == (key(2).hex(), "stop", '{"a": 1}')


def test_a_compacted_file_is_as_the_document_says(tmp_path: Path) -> None:
    write(tmp_path, range(1500))
    segment = filled(tmp_path)
    told = frames(segment.read_bytes())
    compact(tmp_path, OWNER)
    [path] = tmp_path.glob("calls-*")
    named = re.fullmatch(r"calls-(\d{20})-(\d+)-([0-9a-f]{16})\.parquet", path.name)
    assert named is not None
    assert (named[1], int(named[2])) == (segment.name.split("-")[2], 1500)
    file = pq.ParquetFile(path)
    assert {field.name: str(field.type) for field in file.schema_arrow} == columns()
    assert [row for row in file.read().to_pylist()] == told
    content = path.read_bytes()
    size = int.from_bytes(content[-8:-4], "little")
    assert blake2b(content[-8 - size : -8], digest_size=8).hexdigest() == named[3]
    about = json.loads(file.metadata.metadata[b"raypipe.calls"])
    assert about["version"] == 2
    assert segment.name in about["sources"]
    found = [
        checksum(file.read_row_group(group).column(name).to_pylist(), columns()[name])
        for group in range(file.num_row_groups)
        for name in about["columns"]
    ]
    assert list(struct.unpack(f"<{len(found)}I", b64decode(about["checksums"]))) == found
    assert [file.metadata.row_group(group).num_rows for group in range(2)] == [1024, 476]


def test_the_checksum_is_of_values_and_not_of_their_chunks() -> None:
    from raypipe.calls import compacted

    values = ["a", None, "", "é" * 300, None]
    whole = pa.chunked_array([pa.array(values)])
    cut = pa.chunked_array([pa.array(["x", *values[:2]]).slice(1), pa.array(values[2:])])
    assert compacted.checksum(whole) == compacted.checksum(cut) == checksum(values, "string")
    numbers = [1, None, -5]
    assert compacted.checksum(pa.chunked_array([pa.array(numbers)])) == checksum(numbers, "int64")
