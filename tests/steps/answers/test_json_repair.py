"""Nearly right JSON: repaired, or given up on in bounded time."""

from __future__ import annotations

import json
import time

import pytest

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
