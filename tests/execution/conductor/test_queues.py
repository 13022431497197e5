"""Rows that begin alike wait in one shard, and never for a worker that is loaded."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from raypipe.execution.conductor.queues import StepQueue
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.tasks import TextGeneration

LLM_HERE = LLM("vllm/somewhere/model", replicas=2)


def queue(template: str, shards: int = 2, **options: object) -> StepQueue:
    with Pipeline("p") as pipeline:
        rows = LoadDataFromDicts([{"document": "a", "question": "b"}])
        rows >> TextGeneration("asked", llm=LLM_HERE, template=template, **options)
    return StepQueue(pipeline.plan().stages[0].steps["asked"], shards)


def rows(count: int) -> pa.Table:
    return pa.table({"document": [f"d{n % 6}" for n in range(count)], "question": [f"q{n}" for n in range(count)]})


def waits(_: int) -> bool:
    return True


def taken(table: pa.Table | None) -> list[str]:
    return [] if table is None else table.column("document").to_pylist()


def test_rows_with_a_common_beginning_come_to_one_worker() -> None:
    waiting = queue("Read {{ document }}. {{ question }}")
    waiting.put(rows(60))
    waiting.put(rows(60))
    first, second = Counter(taken(waiting.take(200, 0, waits))), Counter(taken(waiting.take(200, 1, waits)))
    assert not set(first) & set(second)
    assert (first + second).total() == 120
    assert min(first.total(), second.total()) > 0
    assert waiting.rows == 0


def test_a_worker_without_rows_of_its_own_takes_those_of_one_that_is_loaded() -> None:
    waiting = queue("Read {{ document }}. {{ question }}")
    waiting.put(rows(60))
    own = taken(waiting.take(200, 0, waits))
    assert waiting.take(200, 0, waits) is None
    others = taken(waiting.take(200, 0, lambda shard: shard == 0))
    assert len(own) + len(others) == 60


def test_a_row_that_comes_back_waits_first_in_its_home() -> None:
    waiting = queue("Read {{ document }}. {{ question }}")
    waiting.put(rows(12))
    back = waiting.take(1, 0, waits)
    assert back is not None
    waiting.put(back, is_first=True)
    again = waiting.take(1, 0, waits)
    assert again is not None
    assert again.equals(back)


@pytest.mark.parametrize("template", ["No column at all", "Read {{ document }}"])
def test_one_worker_or_no_column_needs_no_homes(template: str) -> None:
    waiting = queue(template, shards=1 if "{" in template else 2)
    waiting.put(rows(10))
    assert len(taken(waiting.take(200, 1, waits))) == 10


@pytest.mark.parametrize(
    ("options", "column"),
    [
        ({"template": "{{ second }} and {{ first }}"}, ("second",)),
        ({"template": "{{ second }}", "system_prompt": "You are {{ first }}."}, ("first",)),
        ({"template": "{{ second }}", "system_prompt": "You are."}, ("second",)),
        ({"template": "{% for x in lists %}{{ x }}{% endfor %}"}, ("lists",)),
    ],
)
def test_a_prompt_begins_with_the_column_that_its_templates_name_first(
    options: dict[str, str], column: tuple[str, ...]
) -> None:
    assert TextGeneration(llm=LLM_HERE, **options).begins_with() == column
