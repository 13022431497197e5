"""Call logs as tests need them, and what is found in them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import orjson

from raypipe.calls.index import CallReader, index_with_segments, load_index
from raypipe.calls.segment_files import SegmentWriter
from raypipe.calls.segments import CallOrigin, make_frame
from raypipe.contracts.llm import Completion, Usage
from raypipe.identity import digest

OWNER, OTHER = "0123456789ab", "ba9876543210"


def key(number: int) -> bytes:
    return digest(number.to_bytes(4, "little"))


def completion(text: str) -> Completion:
    return Completion(text, "stop", Usage(len(text), 3), "some-model")


def frame(number: int, text: str | None = None, more: str | None = None) -> bytes:
    answer = completion(f"text {number}" if text is None else text)
    return make_frame(key(number), CallOrigin("step", key(number), 0, 0), answer, 0.25, more)


def frame_of(one: bytes, fields: object) -> bytes:
    """A frame with fields that nobody has checked, as earlier versions and others write them."""
    content = one + (fields if isinstance(fields, bytes) else orjson.dumps(fields))
    return len(content).to_bytes(4, "little") + zlib.crc32(content).to_bytes(4, "little") + content


def write(folder: Path, numbers: Iterable[int], text: str | None = None, owner: str = OWNER) -> None:
    """What a worker that has ended leaves: both of its segments."""
    writer = SegmentWriter(folder, owner)
    for number in numbers:
        writer.write(frame(number, text))
    writer.close()


def filled(folder: Path) -> Path:
    """The one segment in which there are calls."""
    [path] = (path for path in folder.glob("segment-*.calls") if path.stat().st_size > 20)
    return path


def known(folder: Path, numbers: Iterable[int], owner: str = OWNER) -> dict[int, str]:
    """The texts of the calls that a run finds, by number."""
    reader = CallReader(index_with_segments(load_index(folder), folder, owner))
    found = {number: reader.find(key(number)) for number in numbers}
    return {number: answer.text for number, answer in found.items() if answer is not None}


def texts(numbers: Iterable[int]) -> dict[int, str]:
    return {number: f"text {number}" for number in numbers}
