"""Equal rows are counted in bounded memory, and rows that are read again get the numbers that they had."""

from __future__ import annotations

import random
from collections import Counter
from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from raypipe.execution.occurrences import Occurrences, OccurrenceTable


def digest(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "little"), digest_size=16).digest()


@given(st.lists(st.lists(st.integers(0, 20))))
def test_a_table_counts(batches: list[list[int]]) -> None:
    table, seen = OccurrenceTable(), Counter[int]()
    for numbers in batches:
        found = table.count([digest(number) for number in numbers])
        assert all(found.values())
        for index, number in enumerate(numbers):
            assert found.get(index, 0) == seen[number]
            seen[number] += 1


def test_a_table_that_has_grown_knows_all() -> None:
    table, many = OccurrenceTable(), 100_000
    assert table.count([digest(number) for number in range(many)]) == {}
    again = [digest(number) for number in range(0, many, 7)]
    assert table.count([*again, digest(many)]) == dict.fromkeys(range(len(again)), 1)


def test_digests_that_collide_in_a_slot_are_told_apart() -> None:
    table = OccurrenceTable()
    alike = [(number << 40 | 5).to_bytes(8, "little") + bytes(8) for number in range(1000)]
    assert table.count(alike) == {}
    assert table.count(alike[500:]) == dict.fromkeys(range(500), 1)


def test_a_digest_of_zeros_is_counted() -> None:
    assert OccurrenceTable().count([bytes(16)] * 3) == {1: 1, 2: 2}


@given(st.lists(st.lists(st.integers(0, 6), max_size=12), max_size=4), st.randoms(use_true_random=False))
def test_equal_rows_of_all_units_have_all_numbers(units: list[list[int]], rng: random.Random) -> None:
    """Whichever unit is read first, and however often one is begun again."""
    occurrences, given_out = Occurrences(), dict[tuple[int, int], int]()
    at = [0] * len(units)
    while any(at[unit] < len(rows) for unit, rows in enumerate(units)):
        unit = rng.choice([unit for unit, rows in enumerate(units) if at[unit] < len(rows)])
        start = rng.randint(0, at[unit])  # a part of it may be read again
        some = units[unit][start : at[unit] + rng.randint(1, 4)]
        found = occurrences.number(unit, start, [digest(value) for value in some])
        for index in range(len(some)):
            number = found.get(index, 0)
            assert given_out.setdefault((unit, start + index), number) == number
        at[unit] = max(at[unit], start + len(some))
    for value in range(7):
        numbers = [number for (unit, row), number in given_out.items() if units[unit][row] == value]
        assert sorted(numbers) == list(range(len(numbers)))
