"""Nearly right JSON: repaired, or given up on in bounded time."""

from __future__ import annotations

import json
import time

import json_repair as library
import pytest

from raypipe.errors import InfrastructureError
from raypipe.steps.answers import json_repair
from raypipe.steps.answers.json_repair import repair_json

VALUE = {"items": [{"question": 'What is "x"?', "score": n, "sound": True, "tags": ["a", "b"]} for n in range(8)]}
TEXT = json.dumps(VALUE, indent=1)


@pytest.mark.parametrize(
    "text",
    [
        str(VALUE),
        TEXT.replace("\n", ",\n").replace(",,", ",").replace("[,", "[").replace("{,", "{"),
        f"Sure, here it is:\n```json\n{TEXT}\n```\nAnything else?",
        TEXT.replace('"score"', "score"),
        TEXT.replace('"score"', '// out of 9\n"score"'),
        TEXT.rstrip("}\n ]"),
        TEXT.replace("true", "True"),
    ],
    ids=["python", "commas", "prose", "keys", "comments", "cut", "words"],
)
def test_what_models_write_is_repaired(text):
    assert repair_json(text) == VALUE


@pytest.mark.parametrize("text", ["", "no", "3", '"{"', "{}", "[]", '{"a": "\\ud800"}', "[" * 10_000])
def test_hopeless_text_is_nothing(text):
    assert repair_json(text) is None


@pytest.mark.parametrize("part", ["{x,}", "{x,", "{'", "{", "{'}", "{```", '{"a" '])
def test_degenerate_text_ends_soon(part):
    began = time.perf_counter()
    repair_json(part * (16_000 // len(part)))
    assert time.perf_counter() - began < 20, "without a bound it takes minutes"


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (lambda text, **_: str(text).upper(), "reads text in a way that cannot be bounded"),
        (lambda text: text, "fails with TypeError"),
    ],
    ids=["copies", "options"],
)
def test_a_release_that_cannot_be_used_is_refused_in_a_sentence(other, problem, monkeypatch):
    monkeypatch.setattr(library, "repair_json", other)
    json_repair._library.cache_clear()
    with pytest.raises(InfrastructureError, match=f"json-repair [0-9.]+ {problem}.*; install a release"):
        repair_json("{'a': 1}")
    monkeypatch.undo()
    assert repair_json("{'a': 1}") == {"a": 1}
