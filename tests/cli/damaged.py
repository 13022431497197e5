"""Damages a sound pipeline file in one way, and gives the word that a message about it must hold.

Knows nothing of how files are read.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

Plain = dict[str, Any]

SOUND: Plain = {
    "name": "sound",
    "models": {"writer": {"uri": "offline/a", "temperature": 0.5}, "judge": "offline/b"},
    "steps": [
        {"name": "seed", "type": "LoadDataFromDicts", "data": [{"topic": "sea", "n": 3}]},
        {
            "name": "parts",
            "type": "TextGeneration",
            "llm": "writer",
            "template": "{{ n }} parts of {{ topic }}",
            "parse": "comma_list",
            "output": "part",
            "scatter": True,
        },
        {"name": "essays", "type": "TextGeneration", "llm": "judge", "template": "On {{ part }}", "after": "parts"},
        {"name": "titles", "type": "TextGeneration", "llm": "judge", "template": "Name {{ part }}", "after": ["parts"]},
    ],
}


@dataclass(frozen=True)
class Damaged:
    """The bytes of a file that is unsound, and what its message must name."""

    kind: str
    content: bytes
    names: str


_WORDS = st.text("abcdefgh", min_size=4, max_size=8).map(lambda word: f"x{word}")
_NOT_TEXT = st.one_of(st.integers(2, 9), st.floats(1.5, 9.5), st.lists(st.integers(), min_size=1), st.booleans())
_NOT_MAPPING = st.one_of(_NOT_TEXT, _WORDS, st.none())
_ASKING = st.sampled_from([1, 2, 3])
_Change = Callable[[DrawFn, Plain], str]


def _wrong_type_of_name(draw: DrawFn, spec: Plain) -> str:
    spec["name"] = draw(st.one_of(_NOT_TEXT, st.none(), st.sampled_from(["", "../up", ".hidden", "a/b", "-x", "ü"])))
    return "'name'"


def _wrong_type_of_section(draw: DrawFn, spec: Plain) -> str:
    section = draw(st.sampled_from(["models", "steps", "description"]))
    spec[section] = draw(st.one_of(st.integers(2, 9), st.just(["x", "y"]) if section != "steps" else st.just("x")))
    return section


def _missing_key(draw: DrawFn, spec: Plain) -> str:
    key = draw(st.sampled_from(["name", "steps"]))
    del spec[key]
    return repr(key)


def _unknown_key(draw: DrawFn, spec: Plain) -> str:
    word = draw(_WORDS)
    step = draw(st.sampled_from([0, 1, 2, 3]))
    draw(st.sampled_from([spec, spec["models"]["writer"], spec["steps"][step]]))[word] = 1
    return repr(word)


def _key_that_is_no_text(draw: DrawFn, spec: Plain) -> str:
    key = draw(st.one_of(st.integers(2, 99), st.booleans(), st.none()))
    draw(st.sampled_from([spec, spec["steps"][1]]))[key] = 1
    return repr(key)


def _step_that_is_no_mapping(draw: DrawFn, spec: Plain) -> str:
    number = draw(st.integers(0, 4))
    spec["steps"].insert(number, draw(_NOT_MAPPING))
    return f"step {number + 1}"


def _bad_step_name(draw: DrawFn, spec: Plain) -> str:
    step = draw(_ASKING)
    name = draw(st.one_of(st.integers(1, 9), st.sampled_from([" x", "a b", "a/b", "~x", "é", "_a", "x" * 3 + "\n"])))
    spec["steps"][step]["name"] = name
    return repr(name)


def _same_name_twice(draw: DrawFn, spec: Plain) -> str:
    name = draw(st.sampled_from(["seed", "parts"]))
    spec["steps"][3]["name"] = name
    return repr(name)


def _bad_type_of_step(draw: DrawFn, spec: Plain) -> str:
    step = spec["steps"][draw(st.integers(0, 3))]
    bad = ["os:path", "os.path:join", "nowhere.at:All", "TextGenerator", "x:", ":x", ".", "..a", "a..b", ""]
    step["type"] = draw(st.one_of(st.sampled_from(bad), _NOT_TEXT, _WORDS))
    return repr(step["name"])


def _no_type_of_step(draw: DrawFn, spec: Plain) -> str:
    step = spec["steps"][draw(st.integers(0, 3))]
    del step["type"]
    return repr(step["name"])


def _bad_after(draw: DrawFn, spec: Plain) -> str:
    step = spec["steps"][draw(_ASKING)]
    words, numbers = st.lists(_WORDS, min_size=1), st.lists(st.integers(), min_size=1)
    step["after"] = draw(st.one_of(_WORDS, words, st.integers(), numbers))
    return repr(step["name"])


def _cycle(draw: DrawFn, spec: Plain) -> str:
    spec["steps"][1]["after"] = draw(st.sampled_from(["essays", "parts", "titles"]))
    return "'parts'"


def _source_behind_a_step(draw: DrawFn, spec: Plain) -> str:
    spec["steps"][0]["after"] = draw(st.sampled_from(["parts", "essays"]))
    return "'seed'"


def _missing_column(draw: DrawFn, spec: Plain) -> str:
    word = draw(_WORDS)
    spec["steps"][draw(_ASKING)]["template"] = f"of {{{{ {word} }}}}"
    return repr(word)


def _bad_template(draw: DrawFn, spec: Plain) -> str:
    step = spec["steps"][draw(_ASKING)]
    bad = ["{{ topic", "{% for x in topic %}", "{{ topic | no_such_filter }}", "{{ 1 + }}", "{% if %}"]
    step["template"] = draw(st.one_of(st.sampled_from(bad), st.integers(), st.lists(st.integers())))
    return repr(step["name"])


def _bad_uri(draw: DrawFn, spec: Plain) -> str:
    name = draw(st.sampled_from(["writer", "judge"]))
    spec["models"][name] = draw(st.sampled_from(["gpt", "/gpt", "offline/", "", "/"]))
    return repr(name)


def _unknown_provider(draw: DrawFn, spec: Plain) -> str:
    word = draw(_WORDS)
    spec["models"]["judge"] = f"{word}/model"
    return repr(word)


def _bad_model_option(draw: DrawFn, spec: Plain) -> str:
    name, bad = draw(
        st.sampled_from(
            [
                ("temperature", -1),
                ("temperature", "warm"),
                ("top_p", 2),
                ("max_tokens", 0),
                ("concurrency", -3),
                ("replicas", []),
                ("timeout_s", "soon"),
                ("stop", 7),
                ("options", 3),
                ("extra", [1]),
                ("uri", 4),
                ("uri", None),
            ]
        )
    )
    spec["models"]["writer"][name] = bad
    return "'writer'"


def _model_that_is_none(draw: DrawFn, spec: Plain) -> str:
    spec["models"]["judge"] = draw(st.one_of(st.integers(), st.none(), st.lists(_WORDS)))
    return "judge"


def _unknown_model(draw: DrawFn, spec: Plain) -> str:
    step = spec["steps"][draw(_ASKING)]
    step["llm"] = draw(st.one_of(_WORDS, st.integers(), st.lists(_WORDS, min_size=1), st.just({"temperature": 1})))
    return repr(step["name"])


def _no_model(draw: DrawFn, spec: Plain) -> str:
    step = spec["steps"][draw(_ASKING)]
    del step["llm"]
    return repr(step["name"])


def _bad_option(draw: DrawFn, spec: Plain) -> str:
    step = spec["steps"][draw(_ASKING)]
    bad = st.sampled_from(
        [
            ("parse", "no_such_parser"),
            ("parse", 3),
            ("parse", "regex"),
            ("pattern", "("),
            ("outputs", 3),
            ("outputs", []),
            ("num_generations", 0),
            ("num_generations", "many"),
            ("scatter", "perhaps"),
            ("broadcast", 0),
            ("broadcast", 3.5),
            ("aggregate", {"by": 3}),
            ("custom", 3),
            ("template_file", "no_such_file.md"),
            ("structured_output", "nowhere.at:All"),
            ("structured_output", {"type": "nonsense"}),
            ("structured_output", "no_such_file.json"),
            ("columns", {"a": 1}),
            ("output", "_row_id"),
        ]
    )
    name, value = draw(bad)
    step |= {"parse": "text", "scatter": False} | {name: value}
    return repr(step["name"])


def _bad_data(draw: DrawFn, spec: Plain) -> str:
    spec["steps"][0]["data"] = draw(st.one_of(_NOT_MAPPING, st.just([3]), st.just([{"_row_id": "a", 3: 4}])))
    return "'seed'"


def _no_steps(draw: DrawFn, spec: Plain) -> str:
    spec["steps"] = []
    return "no steps"


def _no_loader(draw: DrawFn, spec: Plain) -> str:
    del spec["steps"][0]
    return "'parts'"


CHANGES: list[_Change] = [
    _wrong_type_of_name,
    _wrong_type_of_section,
    _missing_key,
    _unknown_key,
    _key_that_is_no_text,
    _step_that_is_no_mapping,
    _bad_step_name,
    _same_name_twice,
    _bad_type_of_step,
    _no_type_of_step,
    _bad_after,
    _cycle,
    _source_behind_a_step,
    _missing_column,
    _bad_template,
    _bad_uri,
    _unknown_provider,
    _bad_model_option,
    _model_that_is_none,
    _unknown_model,
    _no_model,
    _bad_option,
    _bad_data,
    _no_steps,
    _no_loader,
]


def _changed(draw: DrawFn, change: _Change) -> Damaged:
    spec = copy.deepcopy(SOUND)
    names = change(draw, spec)
    as_json = change is not _key_that_is_no_text and draw(st.booleans())
    text = json.dumps(spec, indent="\t") if as_json else yaml.safe_dump(spec, sort_keys=False)
    return Damaged(change.__name__, text.encode(), names)


_TEXT = yaml.safe_dump(SOUND, sort_keys=False)
_ODD = [
    *(b"{", b"[", b"{,}", b"a: b: c", b"\t", b"*x", b"&a [*a]", b"? [a]\n: 1", b"<<: 3", b"{[1]: 2}", b"", b"\x00"),
    *(b"!!python/object:os.system {}", b"x: !!timestamp no", b"x: !!bool no way", b"x: !!int ''", b"x: !!float a"),
    *(b"- " * 3000, b"[" * 3000, b'{"a":' * 3000, b"%YAML 9", b"---\na: 1\n---\nb: 2", b"2020-13-45", b"x: 2020-99-99"),
    *(b'{"name": "a", "name": "b"}', b'{"name": "a", "steps": [{"type": "b", "type": "c"}]}', b"&a {name: *a}"),
]
_NO_MAPPING = st.one_of(st.none(), st.integers(), st.lists(st.integers()), st.text("ab", min_size=1), st.dates())
_TEXTS: dict[str, SearchStrategy[tuple[bytes, str]]] = {
    "key twice": st.sampled_from(["name", "steps"]).map(lambda key: (f"{key}: x\n{_TEXT}".encode(), repr(key))),
    "no mapping": _NO_MAPPING.map(lambda value: (yaml.safe_dump(value).encode(), "mapping")),
    "garbage": st.binary(min_size=1).map(lambda content: (b"\xff\xfe\x00" + content, "bad.yaml")),
    "cut": st.integers(10, len(_TEXT) - 5).map(lambda place: (_TEXT[:place].encode() + b'\n"unclosed', "bad.yaml")),
    "odd": st.sampled_from(_ODD).map(lambda content: (content, "bad.yaml")),
}
KINDS = [*(change.__name__ for change in CHANGES), *_TEXTS]


@st.composite
def damaged_files(draw: DrawFn) -> Damaged:
    """A file `bad.yaml` that is unsound in one way; all ways are equally frequent."""
    kind = draw(st.sampled_from(KINDS))
    if kind in _TEXTS:
        return Damaged(kind, *draw(_TEXTS[kind]))
    return _changed(draw, next(change for change in CHANGES if change.__name__ == kind))
