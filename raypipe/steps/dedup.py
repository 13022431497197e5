"""I find texts that nearly repeat an earlier one.

I do not know whose texts they are. Two texts are compared by the sets of their words or n-grams, which MinHash
estimates [Broder, "Identifying and Filtering Near-Duplicate Documents", 2000]; the index is `datasketch`'s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal

from raypipe.errors import InputError

_WORD = re.compile(r"\w+|[^\w\s]")


def minhash_keep(
    texts: Sequence[str | None],
    *,
    num_perm: int = 128,
    seed: int = 1,
    tokenizer: Literal["words", "ngrams"] = "words",
    n: int = 5,
    threshold: float = 0.9,
) -> list[bool]:
    """For each text whether it is kept: it is none of those that nearly repeat a text kept before it.

    `threshold` is the Jaccard similarity (0 to 1) from which on two texts count as one; a signature of `num_perm`
    numbers estimates it. `n` is the length of an n-gram in characters. Null is no text and is kept.
    Raises InputError when `datasketch` is missing.
    """
    try:
        library: Any = import_module("datasketch")
    except ImportError:
        raise InputError("near duplicates need the package 'datasketch'; install it: pip install datasketch") from None
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
