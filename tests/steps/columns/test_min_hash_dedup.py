"""Finding texts that nearly repeat an earlier one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raypipe.errors import InputError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.steps import Filter, LoadDataFromDicts, MinHashDedup
from raypipe.steps.columns.min_hash_dedup import minhash_keep
from tests.books import balanced_run, user_rows

SENTENCE = "The quick brown fox jumps over the lazy dog while the old cat sleeps in the warm sun of a long afternoon."


@pytest.fixture(autouse=True)
def datasketch():
    return pytest.importorskip("datasketch")


@pytest.mark.parametrize("tokenizer", ["words", "ngrams"])
def test_the_first_of_equal_texts_is_kept(tokenizer):
    other = "Something else entirely, about ships and the sea."
    keep = minhash_keep([SENTENCE, other, SENTENCE, other, SENTENCE], tokenizer=tokenizer)
    assert keep == [True, True, False, False, False]


def test_a_small_change_is_a_repetition_and_the_threshold_says_how_small():
    near = SENTENCE.replace("lazy", "sleepy").replace("warm", "hot")
    far = " ".join(SENTENCE.split()[:8])
    assert minhash_keep([SENTENCE, near, far], threshold=0.6) == [True, False, True]
    assert minhash_keep([SENTENCE, near, far], threshold=0.95) == [True, True, True]


def test_words_have_no_order_but_ngrams_do():
    turned = " ".join(reversed(SENTENCE.split()))
    assert minhash_keep([SENTENCE, turned]) == [True, False]
    assert minhash_keep([SENTENCE, turned], tokenizer="ngrams") == [True, True]


@pytest.mark.parametrize("tokenizer", ["words", "ngrams"])
def test_texts_too_short_for_a_token_equal_only_themselves(tokenizer):
    assert minhash_keep(["ab", "cd", "ab", "", " ", "!"], tokenizer=tokenizer) == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]


def test_null_is_no_text():
    assert minhash_keep([None, "x", None, "x"]) == [True, True, True, False]
    assert minhash_keep([]) == []


def test_the_same_seed_says_the_same():
    texts = [" ".join(f"w{(number * step) % 13}" for step in range(12)) for number in range(60)]
    assert minhash_keep(texts, seed=3) == minhash_keep(texts, seed=3)
    assert minhash_keep(["\ud800 half", "\ud800 half"]) == [True, False]


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(InputError, match=r"pip install .raypipe.dedup."):
        minhash_keep(["x"])


def test_the_step_says_it_of_every_row(tmp_path):
    rows = [{"text": text, "n": n} for n, text in enumerate(["one two three", "four", "three two one"])]
    with Pipeline("deduplicated") as pipeline:
        LoadDataFromDicts(rows) >> MinHashDedup() >> Filter("kept", keep="keep_row_after_minhash_filtering")
    result = pipeline.run(tmp_path / "out", engine="local")
    assert [row["n"] for row in user_rows(result["kept"])] == [0, 1]


def test_a_threshold_that_no_signature_can_tell_is_refused_before_anything_runs() -> None:
    with pytest.raises(SpecError, match=r"threshold 0\.99 cannot be reached with num_perm 128"):
        MinHashDedup(threshold=0.99)


def test_repeated_texts_are_flagged_across_batches_and_no_row_is_taken_away(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    texts = [" ".join(f"word{number}{letter}" for letter in "abcdef") for number in range(60)]
    rows = [{"text": texts[number % 60], "n": number} for number in range(130)]
    with Pipeline("flagged") as pipeline:
        LoadDataFromDicts(rows) >> MinHashDedup("flags", input_batch_size=10)
    made = user_rows(balanced_run(pipeline, tmp_path / "out")["flags"])
    assert [row["n"] for row in made] == list(range(130))
    assert [row["n"] for row in made if row["keep_row_after_minhash_filtering"]] == list(range(60))


def test_a_subclass_adds_columns_to_those_that_the_step_has() -> None:
    class Marked(MinHashDedup):
        @property
        def inputs(self) -> list[str]:
            return [*super().inputs, "source"]

        @property
        def outputs(self) -> list[str]:
            return super().outputs + ["marked"]  # noqa: RUF005 (as subclasses of distilabel's steps write it)

    step = Marked()
    assert step.required() == ("text", "source")
    assert list(step.writes()) == ["keep_row_after_minhash_filtering", "marked"]
