"""Chunks are parts of the text, none too long, nothing left out, cut where something ends."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.contracts.step import Shape
from raypipe.errors import RowError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.steps import Aggregate, ChunkText, LoadDataFromDicts
from tests.books import user_rows

PROSE = st.text(st.sampled_from("ab.!?。 \n\"'É\u3000\x1f"), max_size=200)
UNITS = st.sampled_from(["characters", "words"])


def cut(text, **options):
    return [row["chunk"] for row in rows(text, **options)]


def rows(text, **options):
    return list(ChunkText(**options).process_row_in_thread({"text": text}))


def length(text, unit):
    return len(text) if unit == "characters" else len(text.split())


@given(PROSE, st.integers(1, 40), UNITS)
def test_every_character_but_white_space_is_in_one_chunk(text, size, unit):
    found = rows(text, size=size, unit=unit)
    assert "".join("".join(row["chunk"].split()) for row in found) == "".join(text.split())
    end = 0
    for index, row in enumerate(found):
        chunk, start = row["chunk"], row["chunk_start"]
        assert row["chunk_index"] == index
        assert text[start : start + len(chunk)] == chunk == chunk.strip() != ""
        assert start >= end and not text[end:start].strip()
        assert length(chunk, unit) <= size
        end = start + len(chunk)


@given(PROSE, st.integers(2, 40), st.data(), UNITS)
def test_chunks_overlap_by_no_more_than_they_may(text, size, data, unit):
    overlap = data.draw(st.integers(0, size // 2))
    found = rows(text, size=size, overlap=overlap, unit=unit)
    spans = [(row["chunk_start"], row["chunk_start"] + len(row["chunk"])) for row in found]
    assert all(length(row["chunk"], unit) <= size for row in found)
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start and end <= next_end
        assert not text[end:next_start].strip()
        assert length(text[next_start:end], unit) <= overlap
    covered = set().union(*(range(*span) for span in spans))
    assert all(position in covered for position, letter in enumerate(text) if letter.strip())


def test_a_paragraph_ends_a_chunk_before_a_sentence_does_and_a_sentence_before_a_word():
    text = "One two. Three four.\n\nFive six. Seven eight nine ten eleven twelve."
    assert cut(text, size=34) == ["One two. Three four.", "Five six. Seven eight nine ten", "eleven twelve."]
    assert cut(text, size=20) == ["One two. Three four.", "Five six.", "Seven eight nine ten", "eleven twelve."]


def test_a_border_in_the_first_half_is_none():
    """A heading is no chunk of its own where its text has room beside it."""
    assert cut("# Bees\n\nThey dance. They sing and hum.", size=24) == ["# Bees\n\nThey dance.", "They sing and hum."]


def test_a_sentence_ends_where_the_next_begins():
    assert cut("Some rocks, e.g. basalt, float. Not all.", size=36) == ["Some rocks, e.g. basalt, float.", "Not all."]
    assert cut('He said "No." She left the room.', size=20) == ['He said "No."', "She left the room."]
    assert cut("水は流れる。石は残る。風は吹く。", size=12) == ["水は流れる。石は残る。", "風は吹く。"]


def test_only_a_long_word_is_cut():
    assert cut("aaaa bbbbbbbbbbbb", size=8) == ["aaaa", "bbbbbbbb", "bbbb"]
    assert cut("aa bbbbbbbbbbbb", size=8) == ["aa bbbbb", "bbbbbbb"]
    assert cut("a" + " " * 50 + "bc", size=4) == ["a", "bc"]


def test_sizes_may_be_words():
    text = "One two three. Four five.\n\nSix seven eight nine."
    assert cut(text, size=4, unit="words") == ["One two three.", "Four five.", "Six seven eight nine."]
    assert cut(text, size=100, unit="words") == [text]


def test_an_overlap_begins_with_a_sentence_or_else_a_word():
    text = "Ann came. Bob left. Cid ran far away. Dora slept."
    assert cut(text, size=30, overlap=14) == [
        "Ann came. Bob left.",
        "Bob left. Cid ran far away.",
        "ran far away. Dora slept.",
    ]
    assert cut("one two three four five six", size=4, overlap=2, unit="words") == [
        "one two three four",
        "three four five six",
    ]


@pytest.mark.parametrize("text", ["", " \n\n "])
def test_a_blank_text_has_no_chunks(text):
    assert rows(text) == []


def test_what_makes_no_sense_is_refused():
    with pytest.raises(SpecError, match="overlap 6 is more than half of size 10"):
        ChunkText(size=10, overlap=6)
    with pytest.raises(RowError, match="column 'text' is null, not text"):
        rows(None)
    assert ChunkText().shape is Shape.SCATTER


def test_a_long_run_of_space_or_marks_takes_no_time():
    for piece in (" ", "\n", "\n ", ".", ". ", "!\n", "。", "a"):
        assert "".join(cut(piece * 100_000, size=50_000)).split() is not None


def test_rows_lose_the_text_and_a_family_gets_it_back(tmp_path):
    with Pipeline("chunks") as pipeline:
        seed = LoadDataFromDicts([{"body": "One. Two.", "id": 1}, {"body": "Three.", "id": 2}])
        pieces = ChunkText("pieces", size=5, input_mappings={"text": "body"}, output_mappings={"chunk": "piece"})
        seed >> pieces >> Aggregate("together", columns=["piece"])
    assert pipeline.graph().flows["pieces"].columns == ("id", "piece", "chunk_index", "chunk_start")
    result = pipeline.run(tmp_path / "out", engine="local")
    assert user_rows(result["together"]) == [
        {"body": "One. Two.", "id": 1, "piece": ["One.", "Two."]},
        {"body": "Three.", "id": 2, "piece": ["Three", "."]},
    ]
