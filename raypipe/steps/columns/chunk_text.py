"""Cuts a text into chunks that end where a paragraph ends, or else a sentence, or else a word.

Knows nothing of what a chunk is for, nor of tokens: sizes are characters or words, so that a text is cut alike for
every model.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from raypipe.contracts.step import Output, Runs, Shape, Step
from raypipe.row import Values
from raypipe.steps.prompts.inputs import text_of

_PARAGRAPHS = re.compile(r"\n\s*\n\s*")
# A lower-case letter continues the sentence, as after "e.g."; Chinese and Japanese put no space between sentences.
_SENTENCES = re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’»)\]]))\s+(?![a-z\s])|(?<=[。！？])\s*|\n\s*\n\s*")
_SPACES = re.compile(r"\s+")
_WORDS = re.compile(r"\S+")

Unit = Literal["characters", "words"]


class ChunkText(Step):
    """Makes a row of each chunk of the column `text`, and drops that column.

    A chunk has at most `size` characters or words. It ends with the last paragraph that ends in its second half, or
    else with the last sentence there, or word; only a word longer than half a chunk is cut. With `overlap` a chunk
    begins with the last sentences, or else words, of the chunk before, as many as fit. `chunk` is a part of the text
    as it stands, without white space around it, `chunk_start` the number of characters before it, `chunk_index` its
    number, from 0. A blank text has no chunks; a row whose `text` is not text fails.
    """

    runs: ClassVar[Runs] = Runs.THREAD
    output_shape: ClassVar[Shape] = Shape.SCATTER
    read_columns: ClassVar[tuple[str, ...]] = ("text",)
    written_columns: ClassVar[Mapping[str, str]] = {"chunk": "string", "chunk_index": "int64", "chunk_start": "int64"}

    size: int = Field(default=2000, ge=1)
    """Longest chunk, in units."""
    overlap: int = Field(default=0, ge=0)
    """Most that a chunk repeats of the one before it, in units; at most half of `size`."""
    unit: Unit = "characters"
    """What `size` and `overlap` count."""

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if 2 * self.overlap > self.size:
            raise ValueError(f"overlap {self.overlap} is more than half of size {self.size}; choose a smaller one")
        return self

    def consumes(self) -> tuple[str, ...]:
        # Every chunk would carry the whole text through the pipeline.
        return self.takes()

    def process_row_in_thread(self, row: Values) -> Output:
        text = text_of(row, "text")
        found = chunks(text, self.size, self.overlap, self.unit)
        return [
            {"chunk": text[start:end], "chunk_index": index, "chunk_start": start}
            for index, (start, end) in enumerate(found)
        ]


class _Borders(NamedTuple):
    """Where each paragraph, sentence or word ends and where the next one begins, counted in units."""

    ends: list[int]
    begins: list[int]

    def last(self, since: int, until: int) -> tuple[int, int] | None:
        """The last border that ends by `until`, if what follows it begins at `since` or later."""
        index = bisect_right(self.ends, until) - 1
        return (self.ends[index], self.begins[index]) if index >= 0 and self.begins[index] >= since else None

    def first_begin(self, since: int, before: int) -> int | None:
        """The first place in `[since, before)` where something begins."""
        index = bisect_left(self.begins, since)
        return self.begins[index] if index < len(self.begins) and self.begins[index] < before else None


def chunks(text: str, size: int, overlap: int, unit: Unit) -> Iterator[tuple[int, int]]:
    """Start and end of each chunk of `text`, in characters, as `ChunkText` cuts them."""
    words = [found.span() for found in _WORDS.finditer(text)]
    if not words:
        return
    levels = [_borders(text, kind, unit, words) for kind in (_PARAGRAPHS, _SENTENCES, _SPACES)]
    start, last = (0, len(words)) if unit == "words" else (words[0][0], words[-1][1])
    while start < last:
        until = start + size
        end, begin = last, last
        if until < last:
            # Without a border, a word is cut.
            found = (level.last(start + max(1, size // 2), until) for level in levels)
            end, begin = next((border for border in found if border), (until, until))
        if unit == "words":
            yield words[start][0], words[end - 1][1]
        else:
            yield start, start + len(text[start:end].rstrip())
        if end < last and overlap:
            repeated = (level.first_begin(max(end - overlap, start + 1), end) for level in levels[1:])
            begin = next((one for one in repeated if one is not None), begin)
        start = begin


def _borders(text: str, kind: re.Pattern[str], unit: Unit, words: list[tuple[int, int]]) -> _Borders:
    """The matches of `kind`, in characters or as numbers of `words`."""
    found = [border.span() for border in kind.finditer(text)]
    if unit == "characters":
        return _Borders([end for end, _ in found], [begin for _, begin in found])
    numbers = [bisect_left(words, (begin, 0)) for _, begin in found]
    return _Borders(numbers, numbers)
