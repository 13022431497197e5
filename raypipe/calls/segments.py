"""The format of a segment: a header, then a frame for each call, with its length, a CRC-32, its key and its fields.

A frame that is damaged costs itself alone: the reader goes on at the next whole one. What a frame holds is made sound
when it is written and when it is read, so that no answer, however odd, makes a log unusable. `docs/call_log.md` says
what stands where. Knows nothing of what a key stands for, nor of endpoints.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, BinaryIO

import numpy as np
import orjson

from raypipe.concurrency.interruption import checkpoint
from raypipe.contracts.llm import Completion, Usage
from raypipe.errors import OutputError

HEADER = b"raypipe calls 2\n"
_HEADERS = (b"raypipe calls 1\n", HEADER)
KEY_BYTES = 16
FRAME_BYTES = 8
_HEAD = Struct("<II")
_LEAST_BYTES, _MOST_BYTES = KEY_BYTES + len("[]"), 1 << 29
"""Of a frame behind its head. No text of JSON, in which no octet is below 0x20, reads as a length below the most."""
_READ_BYTES = 4 << 20
_KEPT_BYTES = 64 << 20
"""So far back a frame is looked at again whose length alone is damaged."""
_SEARCH_SHARE = 8
"""How many times its own size a segment is read at most while frames are searched for in it."""
BATCH = 1024
"""Frames that are worked on at once."""
MOST_TOKENS = 10**9
"""More than any model reads or writes at once: counts beyond are none."""

Fields = tuple[Any, ...]
"""Step, row, ordinal, sample, text, finish reason, input and output tokens, model, end, latency, more."""


@dataclass(frozen=True, slots=True)
class CallOrigin:
    """What a call was made for: step, row identity, ordinal within the row, sample index."""

    step: str
    row: bytes
    ordinal: int
    sample: int


def make_frame(
    key: bytes, origin: CallOrigin, completion: Completion, latency_s: float, more: str | None = None
) -> bytes:
    """One completion as it stands in a segment. `more`: JSON that is kept beside it."""
    text, reason, model, usage = completion.text, completion.finish_reason, completion.model, completion.usage
    asked, written = usage.input_tokens, usage.output_tokens
    row = origin.row.hex()
    fields: Sequence[Any] = (
        origin.step, row, origin.ordinal, origin.sample, text, reason, asked, written, model, time.time(), latency_s,
        more,
    )  # fmt: skip
    if not (
        type(text) is type(reason) is type(model) is str
        and type(asked) is type(written) is int
        and 0 <= asked <= MOST_TOKENS
        and 0 <= written <= MOST_TOKENS
    ):
        fields = _sound(fields)
    try:
        content = key + orjson.dumps(fields)
    except TypeError:  # half a surrogate pair
        content = key + orjson.dumps(_sound(fields))
    return _HEAD.pack(len(content), zlib.crc32(content)) + content


def sound_fields(read: Any) -> Fields | None:
    """The fields of a frame as they are used: texts, counts, numbers; `None` where it is no frame of a call.

    A text that is none is its JSON; a count that cannot be one is `None`, as are times that are no numbers.
    """
    return _sound(read) if isinstance(read, list) and len(read) >= _FIELDS - 1 else None


_FIELDS, _MOST_ORDINAL = 12, (1 << 31) - 1


def _sound(fields: Sequence[Any]) -> Fields:
    step, row, ordinal, sample, text, reason, asked, written, model, ended_at, latency_s = fields[: _FIELDS - 1]
    more = fields[_FIELDS - 1] if len(fields) >= _FIELDS else None
    return (
        _text(step),
        _text(row),
        _count(ordinal, _MOST_ORDINAL),
        _count(sample, _MOST_ORDINAL),
        _text(text),
        _text(reason) or "stop",
        _count(asked, MOST_TOKENS),
        _count(written, MOST_TOKENS),
        _text(model),
        _number(ended_at),
        _number(latency_s),
        None if more is None else _text(more),
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _count(value: Any, most: int) -> int | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value <= most else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 else None


def completion_of(text: str, reason: str, asked: int | None, written: int | None, model: str) -> Completion:
    """The completion that stands in sound fields; tokens that were not counted are none."""
    return Completion(text, reason, Usage(asked or 0, written or 0), model)


@dataclass(frozen=True, slots=True)
class Block:
    """Frames that stand behind each other."""

    base: int
    """Where `content` begins in the segment."""
    content: bytes
    places: Sequence[int]
    """Where in `content` each frame begins."""
    end: int
    """Where the last one ends."""

    def frames(self) -> Iterator[tuple[bytes, bytes]]:
        """The key of each frame, and its fields as JSON."""
        for start, end in zip(self.places, [*self.places[1:], self.end], strict=True):
            at = start + FRAME_BYTES + KEY_BYTES
            yield self.content[start + FRAME_BYTES : at], self.content[at:end]

    def keys(self) -> bytes:
        """All keys, one behind the other."""
        octets, starts = np.frombuffer(self.content, np.uint8), np.array(self.places) + FRAME_BYTES
        return octets[(starts[:, None] + np.arange(KEY_BYTES)).ravel()].tobytes()

    def as_json(self) -> bytearray:
        """The fields of all frames as one JSON array: commas and blanks stand where their heads and keys stood."""
        first, before = self.places[0], FRAME_BYTES + KEY_BYTES
        text = bytearray(self.content[first : self.end])
        octets = np.frombuffer(text, np.uint8)
        starts = np.array(self.places) - first
        octets[(starts[:, None] + np.arange(before)).ravel()] = ord(" ")
        octets[starts[1:]] = ord(",")
        octets[0] = ord("[")
        del octets
        text += b"]"
        return text


class SegmentReader:
    """Reads the frames of a segment, also of one that still grows. Raises OutputError for an unknown version."""

    def __init__(self, file: BinaryIO, name: str = "a segment") -> None:
        self._file = file
        self._buffer, self._place, self._base = b"", 0, 0
        """What was read last, where the next frame begins in it, and where it begins in the file."""
        self.lost_calls = self.lost_bytes = 0
        """What could not be read so far; a last frame that was never written whole is not lost."""
        self._refill(len(HEADER))
        found = self._buffer[: len(HEADER)]
        if found in _HEADERS:
            self._place = len(HEADER)
        elif version := re.match(rb"raypipe calls (\d{1,9})\n", self._buffer):
            problem = f"has version {version[1].decode()} of the call log, which this raypipe does not know"
            raise OutputError(f"the segment {name} {problem}; install a newer one, or move the file away")
        elif not HEADER.startswith(found):
            self._place = min(len(HEADER), len(found))
            self.lost_bytes = self._place
        else:  # its writer ended as it began
            self._place = len(found)

    def read(self, most: int = BATCH) -> Block | None:
        """The next frames, up to `most`; `None` at the end."""
        places: list[int] = []
        crc32, unpack = zlib.crc32, _HEAD.unpack_from
        buffer, place = self._buffer, self._place
        view = memoryview(buffer)
        while len(places) < most:
            end = place + FRAME_BYTES
            size = crc = 0
            if end <= len(buffer):
                size, crc = unpack(buffer, place)
                end += size
            if end > len(buffer):
                if places:
                    break
                if size <= _MOST_BYTES and self._refill(end - place):
                    buffer, place = self._buffer, self._place
                    view = memoryview(buffer)
                    continue
                if self._place == len(self._buffer):
                    return None
            is_there = _LEAST_BYTES <= size <= _MOST_BYTES and end <= len(buffer)
            if not (is_there and crc32(view[place + FRAME_BYTES : end]) == crc):
                if places:
                    break
                mended = self._pass_damage()
                if mended is not None:
                    return mended
                buffer, place = self._buffer, self._place
                view = memoryview(buffer)
                continue
            places.append(place)
            place = end
        found = Block(self._base, buffer, places, place)
        self._place = place
        checkpoint()
        return found

    def _refill(self, size: int) -> bool:
        """Whether the buffer, which begins with the next frame then, has got longer by what it needs for `size`."""
        more = self._file.read(max(_READ_BYTES, size - len(self._buffer) + self._place))
        if more or self._place:
            self._base, self._buffer, self._place = self._base + self._place, self._buffer[self._place :] + more, 0
        return bool(more)

    def _pass_damage(self) -> Block | None:
        """Go on at the next whole frame, or at the end; the damaged frame if its length alone is wrong."""
        start = self._base + self._place
        end, is_end = _find_frame(self._file, start + 1)
        gap = _between(self._file, start, end)
        self._file.seek(end)
        self._buffer, self._place, self._base = b"", 0, end
        if _mended(gap, end - start):
            return Block(start, gap, [0], len(gap))
        if not (is_end and len(gap) == end - start and is_cut(gap)):
            self.lost_calls, self.lost_bytes = self.lost_calls + _count_frames(gap), self.lost_bytes + end - start
        return None


def _between(file: BinaryIO, start: int, end: int) -> bytes:
    """What stands there, up to a bound."""
    file.seek(start)
    return file.read(min(end - start, _KEPT_BYTES))


def _mended(gap: bytes, size: int) -> tuple[bytes, bytes] | None:
    """Key and fields of the frame of which a gap of a segment consists, if its length alone is wrong."""
    content = gap[FRAME_BYTES:]
    is_one = len(gap) == size and len(content) >= _LEAST_BYTES
    is_one = is_one and zlib.crc32(content) == int.from_bytes(gap[4:FRAME_BYTES], "little")
    return (content[:KEY_BYTES], content[KEY_BYTES:]) if is_one else None


def _find_frame(file: BinaryIO, at: int) -> tuple[int, bool]:
    """Where the first whole frame at or behind `at` begins; the end of the file, and that it is, where there is none.

    Each `[` may begin the fields of one. Takes time in proportion to the file: what looks like a frame and is none is
    read again only up to a bound.
    """
    size = file.seek(0, 2)
    left, before = _SEARCH_SHARE * size, FRAME_BYTES + KEY_BYTES
    file.seek(at)
    window = b""
    while more := file.read(_READ_BYTES):
        checkpoint()
        window, at = window[-before:] + more, at - min(len(window), before)
        bracket = window.find(b"[", before)
        while bracket >= 0:
            start = at + bracket - before
            length = int.from_bytes(window[bracket - before : bracket - before + 4], "little")
            if _LEAST_BYTES <= length <= min(_MOST_BYTES, left, size - start - FRAME_BYTES):
                left -= length
                if _whole_frame(file, start) is not None:
                    return start, False
                file.seek(at + len(window))
            bracket = window.find(b"[", bracket + 1)
        at += len(window)
    return size, True


def is_cut(rest: bytes) -> bool:
    """Whether the end of a segment is a frame that was never written whole: no row has had its answer."""
    before = FRAME_BYTES + KEY_BYTES
    if len(rest) <= before:
        return any(rest)
    is_short = FRAME_BYTES + int.from_bytes(rest[:4], "little") > len(rest)
    return is_short and rest[before:].startswith(b"[") and parse_fields(rest[before:]) is None


def _count_frames(gap: bytes) -> int:
    """How many frames stood in what cannot be read, by their lengths where these fit, else one."""
    at = count = 0
    while at < len(gap):
        at += FRAME_BYTES + int.from_bytes(gap[at : at + 4], "little")
        count += 1
    return count if at == len(gap) else 1


def read_frame(file: BinaryIO, offset: int) -> tuple[bytes, bytes] | None:
    """Key and fields of the frame that begins there, also if its length is wrong; `None` where it is damaged."""
    frame = _whole_frame(file, offset)
    if frame is None:
        end, _ = _find_frame(file, offset + 1)
        frame = _mended(_between(file, offset, end), end - offset)
    return frame


def _whole_frame(file: BinaryIO, offset: int) -> tuple[bytes, bytes] | None:
    file.seek(offset)
    head = file.read(FRAME_BYTES)
    size, crc = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
    content = file.read(size) if len(head) == FRAME_BYTES and _LEAST_BYTES <= size <= _MOST_BYTES else b""
    is_whole = bool(content) and len(content) == size and zlib.crc32(content) == crc
    return (content[:KEY_BYTES], content[KEY_BYTES:]) if is_whole else None


def parse_fields(body: bytes) -> Fields | None:
    """The sound fields of a frame; `None` where it cannot be placed."""
    try:
        return sound_fields(orjson.loads(body))
    except ValueError:
        pass
    try:  # what other writers of JSON allow
        return sound_fields(json.loads(body, strict=False))
    except (ValueError, RecursionError):
        return None


def read_segment(file: BinaryIO, name: str = "a segment") -> Iterator[tuple[bytes, Fields]]:
    """Key and sound fields of each call in a segment. Raises OutputError for an unknown version."""
    reader = SegmentReader(file, name)
    while block := reader.read():
        for key, body in block.frames():
            fields = parse_fields(body)
            if fields is not None:
                yield key, fields
