"""A file says what the pipeline says, in characters that a reader knows."""

from __future__ import annotations

import pytest
import yaml

from raypipe.files.dump import to_yaml


@pytest.mark.parametrize("text", ["well 😀 done", "日本語", "a: b\n  c", "a\u0085b", "", "null", "word " * 60])
def test_a_text_comes_back(text: str) -> None:
    assert yaml.safe_load(to_yaml({"name": text})) == {"name": text}


def test_an_emoji_can_be_read() -> None:
    assert to_yaml({"name": "well 😀 done"}) == "name: well 😀 done\n"


def test_half_a_character_is_written() -> None:
    assert to_yaml({"name": "\ud83d"}) == 'name: "\\uD83D"\n'
