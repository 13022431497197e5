"""Finds texts that nearly repeat an earlier one.

Knows nothing of whose texts they are. Two texts are compared by the sets of their words or n-grams, which MinHash
estimates [Broder, "Identifying and Filtering Near-Duplicate Documents", 2000]; the index is `datasketch`'s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from raypipe.errors import InputError
from raypipe.steps.functions.batch_steps import GlobalStep, StepInput, StepOutput

KEEP = "keep_row_after_minhash_filtering"
_WORD = re.compile(r"\w+|[^\w\s]")


class MinHashDedup(GlobalStep):
    """Marks near duplicates: `keep_row_after_minhash_filtering` is false where `text` nearly repeats an earlier row's.

    It sees all rows at once. Drop the duplicates with `Filter(keep="keep_row_after_minhash_filtering")`. Needs the
    package `datasketch` (`raypipe[dedup]`); raises SpecError for a `threshold` that `num_perm` numbers cannot tell.
    """

    num_perm: int = Field(default=128, ge=2, le=2048)
    """Numbers in the signature of a text: more estimate better, and take longer."""
    seed: int = 1
    tokenizer: Literal["words", "ngrams"] = "words"
    """What is compared: words, or sequences of `n` characters."""
    n: int = Field(default=5, ge=1)
    """Characters of an n-gram."""
    threshold: float = Field(default=0.9, gt=0, lt=1)
    """Jaccard similarity, 0 to 1, from which two texts count as one."""

    @model_validator(mode="after")
    def _check_threshold(self) -> Self:
        with suppress(ImportError):
            library: Any = import_module("datasketch")
            try:
                library.MinHashLSH(threshold=self.threshold, num_perm=self.num_perm)
            except ValueError as error:
                problem = f"threshold {self.threshold} cannot be reached with num_perm {self.num_perm}"
                raise ValueError(f"{problem}: {error}") from None
        return self

    @property
    def inputs(self) -> list[str]:
        return ["text"]

    @property
    def outputs(self) -> list[str]:
        return [KEEP]

    def process(self, inputs: StepInput) -> StepOutput:  # pyright: ignore[reportIncompatibleMethodOverride]
        keep = minhash_keep(
            [row["text"] for row in inputs],
            num_perm=self.num_perm,
            seed=self.seed,
            tokenizer=self.tokenizer,
            n=self.n,
            threshold=self.threshold,
        )
        yield [{**row, KEEP: is_kept} for row, is_kept in zip(inputs, keep, strict=True)]


def minhash_keep(
    texts: Sequence[str | None],
    *,
    num_perm: int = 128,
    seed: int = 1,
    tokenizer: Literal["words", "ngrams"] = "words",
    n: int = 5,
    threshold: float = 0.9,
) -> list[bool]:
    """For each text whether it is kept: false where it nearly repeats a text that was kept before it.

    Options as for `MinHashDedup`; null is kept. Raises InputError when the package `datasketch` is missing.
    """
    try:
        library: Any = import_module("datasketch")
    except ImportError:
        problem = "near duplicates need the package 'datasketch'; install it: pip install 'raypipe[dedup]'"
        raise InputError(problem) from None
    index = library.MinHashLSH(threshold=threshold, num_perm=num_perm)
    present = {place: text for place, text in enumerate(texts) if text is not None}
    tokens = (_tokens(text, tokenizer, n) for text in present.values())
    keep = [True] * len(texts)
    for place, signature in zip(present, library.MinHash.generator(tokens, num_perm=num_perm, seed=seed), strict=True):
        if index.query(signature):
            keep[place] = False
        else:
            index.insert(place, signature)
    return keep


def _tokens(text: str, tokenizer: Literal["words", "ngrams"], n: int) -> list[bytes]:
    """The distinct words or n-grams; a text too short for any is its own token, so that it equals only itself."""
    if tokenizer == "words":
        found = set(_WORD.findall(text))
    else:
        found = {text[start : start + n] for start in range(len(text) - n + 1)}
    return [token.encode("utf-8", "surrogatepass") for token in found or {text.strip()}]
