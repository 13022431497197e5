"""Finds what the notes in a dataset's folder lead to. Knows nothing of who may read what.

A README may say which files are the dataset's, and a saved dataset notes its own and its splits: the library that reads
them follows whatever stands there, upwards and to other hosts as well. So they are read here as the library reads them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import yaml

from raypipe.security.untrusted_text import PlainLoader

NOTES = ("README.md", "state.json", "dataset_dict.json", "dataset_infos.json", ".huggingface.yaml")
_MOST_BYTES = 1 << 20
_FRONT = re.compile(r"\s*---(?:\r\n|\r|\n)([\S\s]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r|\n|$)")
"""What stands before the text of a README, as `huggingface_hub` finds it."""
_NAMING = frozenset(("data_files", "data_dir"))


def find_outside_reference(path: str) -> str | None:
    """What a note says that its folder alone does not decide, or why it is not read; `None` where it is harmless."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        return "is too long to be looked through"
    try:
        said = _said(os.path.basename(path), text)
        return next(_leading(said), None)
    except (yaml.YAMLError, ValueError, RecursionError):
        return "cannot be read"


def _said(name: str, text: str) -> Any:
    if name.endswith(".json"):
        return json.loads(text)
    if name.endswith(".yaml"):
        return yaml.load(text, Loader=PlainLoader)
    front = _FRONT.match(text)
    return None if front is None else yaml.load(front[1], Loader=PlainLoader)


def _leading(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _leading(item)
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            if key in _NAMING:
                yield "says by itself which files are read"
            if key == "filename" and not is_name(item):
                yield f"names the file {item!r}, which is not in its folder"
            if key == "splits" and isinstance(item, list):
                yield from _leading_splits(cast("list[Any]", item))
            yield from _leading(item)


def _leading_splits(splits: list[Any]) -> Iterator[str]:
    for split in splits:
        if not isinstance(split, Mapping) and not is_name(split):
            yield f"names the split {split!r}, which is not in its folder"


def is_name(value: Any) -> bool:
    """Whether a value names what is directly in a folder."""
    return isinstance(value, str) and value not in ("", ".", "..") and not set("/\\\0") & set(value)
