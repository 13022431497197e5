"""Pipeline files and run folders from somebody else: commands end, in words, and do nothing but what was asked."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import RaypipeError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from tests.compatibility.cases import RUNS, flat
from tests.configs.shipped import SPECS
from tests.fuzz.audit import temporary_places, watched
from tests.fuzz.effort import EFFORT, bounded, explore
from tests.loopback import serve

HOSTILE: list[Any] = [
    "{{ 9 ** (9 ** 9) }}",
    "{{ 'x' * 999999999 }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ '%999999999d' % 1 }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ self._TemplateReference__context }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "/proc/self/environ",
    "/etc/passwd",
    "../../../../etc/passwd",
    "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data",
    "s3://somebody/else",
    "AWS_SECRET_ACCESS_KEY",
    "os.system",
    "os:system",
    "builtins:eval",
    "subprocess:run",
    "(a+)+$",
    "x" * 100_000,
    "~",
    "",
    0,
    -1,
    10**30,
    1e999,
    True,
    None,
    [],
    {},
    [[[[[]]]]],
    {"$ref": "file:///etc/passwd"},
    {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {"allOf": [{"$ref": "http://127.0.0.1:9/schema"}]},
    {"trust_remote_code": True},
    {"api_key_env": "HOME", "base_url": "http://127.0.0.1:9"},
]


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document."""
    if before:
        yield before
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*before, key))


def changed(document: Any, place: tuple[Any, ...], value: Any, how: str) -> Any:
    """The document with another value at a place, a value beside it, or nothing there."""
    made = copy.deepcopy(document)
    inner = made
    for key in place[:-1]:
        inner = inner[key]
    if how == "remove":
        del inner[place[-1]]
    elif how == "beside" and isinstance(inner, dict):
        inner[f"{value}"[:40] or "x"] = value
    else:
        inner[place[-1]] = value
    return made


@EFFORT
def test_pipeline_files(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    documents = [yaml.safe_load(path.read_text()) for path in SPECS if path.suffix == ".yaml"]

    @given(st.data())
    def check(data: st.DataObject) -> None:
        document = data.draw(st.sampled_from(documents))
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.sampled_from(list(places(document))))
            how = data.draw(st.sampled_from(["replace", "replace", "beside", "remove"]))
            document = changed(document, place, data.draw(st.sampled_from(HOSTILE)), how)
        folder = tmp_path_factory.mktemp("files")
        path = folder / "pipeline.yaml"
        path.write_text(yaml.safe_dump(document))
        shutil.copytree(SPECS[0].parent / "prompts", folder / "prompts")
        try:
            with watched(folder, *temporary_places()):
                bounded(lambda: Pipeline.from_file(path).dry_run(batch_size=1), 30)
        except RaypipeError as caught:
            said = str(caught)
        else:
            said = ""
        assert len(said) < 20_000

    explore(check, 60, effort)


@EFFORT
def test_run_folders(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder whose files were changed is refused in words, or read and gone on with."""
    explore(damaging(tmp_path_factory, lambda path: path.parent.name != "calls"), 30, effort)


@EFFORT
def test_call_logs(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A call log that was changed is told by file and costs what is unreadable alone."""
    explore(damaging(tmp_path_factory, lambda path: path.parent.name == "calls"), 30, effort)


def damaging(tmp_path_factory: pytest.TempPathFactory, is_chosen: Callable[[Path], bool]) -> Callable[..., None]:
    """A check that changes one of the chosen files of a run folder, reads the folder, and goes on with the run."""

    @given(st.data())
    def check(data: st.DataObject) -> None:
        folder = tmp_path_factory.mktemp("folders") / "out"
        shutil.copytree(RUNS / "flat", folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and is_chosen(path))
        path = data.draw(st.sampled_from(files))
        content = path.read_bytes()
        at = data.draw(st.integers(0, len(content)))
        new = data.draw(st.sampled_from([b"", b"\0", b"{}", b"null", b"[1]", b"PAR1", b"\x80\x04cos\nsystem\n"]))
        path.write_bytes(data.draw(st.sampled_from([new, content[:at] + new, content[:at] + new + content[at + 1 :]])))
        with watched(folder, *temporary_places()), serve() as server:
            for work in (
                lambda: [result.to_arrow() for result in Result(folder).values()],
                lambda: Result(folder).failures.to_arrow(),
                lambda: flat(server.base_url).run(folder, engine="local"),
            ):
                said = ""
                try:
                    bounded(work, 60)
                except RaypipeError as caught:
                    said = str(caught)
                assert "\n" not in said

    return check
