"""Finds what the notes in a dataset's folder refer to outside of it. Knows nothing of who may read what.

A README may name the files of the dataset, and a saved dataset notes its files and splits. The library that reads a
dataset follows these names anywhere, to parent folders and other hosts. So the notes are read here as the library does.
"""

from __future__ import annotations

import json
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
    """What in a note leads out of its folder, or why the note is not read; `None` where it is harmless."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        return "is too long to be checked"
    try:
        if path.endswith(".json"):
            note = json.loads(text)
        elif path.endswith(".yaml"):
            note = yaml.load(text, Loader=PlainLoader)
        else:
            front = _FRONT.match(text)
            note = None if front is None else yaml.load(front[1], Loader=PlainLoader)
        return next(_outside_references(note), None)
    except (yaml.YAMLError, ValueError, RecursionError):
        return "cannot be read"


def _outside_references(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _outside_references(item)
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            if key in _NAMING:
                yield "says by itself which files are read"
            if key == "filename" and not is_name(item):
                yield f"names the file {item!r}, which is not in its folder"
            if key == "splits" and isinstance(item, list):
                names = (one for one in cast("list[Any]", item) if not isinstance(one, Mapping))
                yield from (f"names the split {one!r}, which is not in its folder" for one in names if not is_name(one))
            yield from _outside_references(item)


def is_name(value: Any) -> bool:
    """Whether a value names what is directly in a folder."""
    return isinstance(value, str) and value not in ("", ".", "..") and not set("/\\\0") & set(value)
