"""What travels between a conductor and a worker: rows that ended and rows that were made, column by column."""

from __future__ import annotations

import pickle

import pyarrow as pa

from raypipe.execution.counts import CallCounts
from raypipe.execution.wire import DONE, FAILED, FILTERED, UNFINISHED, Answer, Chunk, Results
from raypipe.row import Failure

ALL = 1 << 40


def counts(**numbers: int) -> CallCounts:
    return CallCounts(**numbers)


def test_each_row_that_ended_says_how_and_what_it_took() -> None:
    results = Results({"a": "string"})
    results.complete((4, 0), [{"a": "x"}], counts(calls_sent=2, calls_unanswered=1, input_tokens=7, output_tokens=3))
    results.end((4, 1), FILTERED, counts(calls_cached=1))
    results.fail((4, 2), Failure("broken", "it does not fit"), counts(calls_sent=1))
    results.end((5, 0), UNFINISHED, counts())
    ended = results.take("s", ALL).ended
    assert ended.column("status").to_pylist() == [DONE, FILTERED, FAILED, UNFINISHED]
    assert ended.column("chunk").to_pylist() == [4, 4, 4, 5]
    assert ended.column("index").to_pylist() == [0, 1, 2, 0]
    assert ended.column("kind").to_pylist() == [None, None, "broken", None]
    assert ended.column("message").to_pylist() == [None, None, "it does not fit", None]
    assert ended.column("input_tokens").to_pylist() == [7, 0, 0, 0]


def test_rows_made_name_the_row_they_come_from_and_have_all_columns() -> None:
    results = Results({"a": "string"})
    results.complete((0, 1), [{"a": "one", "b": 1}, {"a": "two"}], counts())
    results.complete((0, 0), [], counts())
    results.complete((0, 2), [{"a": None}], counts())
    answer = results.take("s", ALL)
    assert answer.places.to_pylist() == [
        {"chunk": 0, "index": 1, "child": 0},
        {"chunk": 0, "index": 1, "child": 1},
        {"chunk": 0, "index": 2, "child": 0},
    ]
    assert answer.made.to_pylist() == [{"a": "one", "b": 1}, {"a": "two", "b": None}, {"a": None, "b": None}]


def test_no_more_bytes_are_taken_at_once_than_may_travel_but_a_row_in_any_case() -> None:
    results = Results({"a": "string"})
    for index in range(5):
        results.complete((0, index), [{"a": "x" * 100}], counts())
    taken = [results.take("s", 250).ended.num_rows for _ in range(3)]
    assert taken == [2, 2, 1]
    assert len(results) == 0 and results.size_bytes == 0
    results.complete((0, 0), [{"a": "x" * 1000}], counts())
    assert results.take("s", 1).made.num_rows == 1


def test_what_models_of_a_pool_did_is_added_up_and_taken_once() -> None:
    results = Results({})
    for tokens in (3, 4):
        made = counts(calls_sent=1)
        made.by_model = {"one": {"calls_sent": 1, "output_tokens": tokens}}
        results.complete((0, tokens), [{"a": 1}], made)
    assert results.take("s", ALL).by_model == {"one": {"calls_sent": 2, "output_tokens": 7}}
    assert results.take("s", ALL).by_model == {}


def test_chunks_and_answers_survive_their_way_to_another_process() -> None:
    table = pa.table({"a": pa.array([{"x": [1]}, None]), "b": [b"\xff", b""]})
    chunk = pickle.loads(pickle.dumps(Chunk(3, "s", table, epoch=2)))
    assert (chunk.number, chunk.step, chunk.epoch) == (3, "s", 2)
    assert chunk.table.equals(table)
    results = Results({"a": "string"})
    results.complete((0, 0), [{"a": "x"}], counts(calls_sent=1))
    answer = results.take("s", ALL)
    again: Answer = pickle.loads(pickle.dumps(answer))
    assert again.ended.equals(answer.ended) and again.made.equals(answer.made) and again.places.equals(answer.places)
