"""A place is a path as ever, or a file in a store that is read and written whole; what is wrong is one sentence."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest

from raypipe.errors import InfrastructureError, OutputError, RaypipeError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import KeepColumns, LoadDataFromDicts
from raypipe.storage.paths import (
    RemotePath,
    address_identity,
    check_reachable,
    explain_os_error,
    map_concurrently,
    parse_path,
    remove_files,
    write_atomically,
)
from tests.loopback import serve


def test_a_path_stays_a_path(tmp_path: Path) -> None:
    assert parse_path("out/x") == Path("out/x")
    assert parse_path(tmp_path) == tmp_path
    assert parse_path(f"file://{tmp_path}") == tmp_path


def test_an_address_is_a_place_elsewhere() -> None:
    place = parse_path("s3://bucket/a/b/")
    assert place == RemotePath("s3", "bucket/a/b")
    assert str(place / "c.parquet") == "s3://bucket/a/b/c.parquet"
    assert pickle.loads(pickle.dumps(place)) == place == parse_path(place)
    assert parse_path("gs://bucket/a") == RemotePath("gs", "bucket/a")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("ftp://host/x", "is an address of an unknown kind .allowed: a path, file://, s3://, gs://"),
        ("s3://bucket", "not the folder of a bucket; write s3://bucket/folder"),
        ("s3://bucket/a//b", "not the folder of a bucket"),
        ("s3:///x", "not the folder of a bucket"),
        ("s3://key:hush@bucket/x", "has keys or options in it.* set them in the environment"),
        ("s3://bucket/x?secret=hush", "has keys or options in it"),
        (Path("s3://bucket/x"), "give it as a text"),
    ],
)
def test_what_is_no_place_is_refused(named: str | Path, said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        parse_path(named)
    assert "hush" not in str(caught.value)


def test_a_place_elsewhere_reads_and_writes_like_a_path(bucket: str) -> None:
    place = parse_path(bucket)
    assert isinstance(place, RemotePath)
    assert not place.exists()
    assert list(place.rglob("*")) == []
    for name in ("b.txt", "a.txt", "below/c.txt"):
        write_atomically(place / name, name.encode())
    assert [file.name for file in place.glob("*.txt")] == ["a.txt", "b.txt"]
    assert [str(file.relative_to(place)) for file in place.rglob("*")] == ["a.txt", "b.txt", "below/c.txt"]
    assert (place / "below").exists()
    assert (place / "below/c.txt").read_text() == "below/c.txt"
    with pytest.raises(FileNotFoundError):
        (place / "d.txt").read_bytes()
    remove_files([place / "a.txt", place / "gone.txt"])
    assert not (place / "a.txt").exists()


def test_many_are_done_at_once_and_come_in_order() -> None:
    meet = threading.Barrier(4, timeout=20)

    def twice(number: int) -> int:
        meet.wait()
        return 2 * number

    assert list(map_concurrently(twice, range(4))) == [0, 2, 4, 6]


def test_the_endpoint_is_part_of_what_a_place_is(monkeypatch: pytest.MonkeyPatch) -> None:
    place = RemotePath("s3", "bucket/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://one")
    one = address_identity(place)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://two")
    assert address_identity(place) != one


def small() -> Pipeline:
    with Pipeline("small") as pipeline:
        LoadDataFromDicts([{"n": 1}]) >> KeepColumns(columns=["n"])
    return pipeline


def refusal(out: str, **options: str) -> RaypipeError:
    with pytest.raises(RaypipeError) as caught:
        small().run(out, engine="local", **options)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(caught.value)
    assert "secret-of-the-tests" not in repr(caught.value) + repr(vars(caught.value))
    return caught.value


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_said() -> None:
    error = refusal("s3://nowhere/x")
    assert isinstance(error, OutputError)
    assert "there is no bucket 'nowhere'; make it, or name another one" in str(error)
    with pytest.raises(OutputError, match="there is no bucket 'nowhere'"):
        Result("s3://nowhere/x")


def test_a_call_log_that_cannot_be_used_is_said(bucket: str, tmp_path: Path) -> None:
    assert "there is no bucket 'nowhere'" in str(refusal(str(tmp_path / "out"), calls="s3://nowhere/x"))


@pytest.mark.usefixtures("bucket")
def test_a_store_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    error = refusal("s3://bucket/x")
    assert isinstance(error, InfrastructureError)
    assert "s3://bucket/x cannot be used: the store cannot be reached; see that AWS_ENDPOINT_URL" in str(error)


@pytest.mark.usefixtures("bucket")
def test_a_store_that_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(shares={403: 1.0}) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.base_url.removesuffix("/v1"))
        error = refusal("s3://bucket/x")
    assert "s3://bucket/x cannot be used" in str(error)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "When reading 'x': AWS Error ACCESS_DENIED during HeadBucket operation: No response body.",
            "access is denied",
        ),
        ("AWS Error NO_SUCH_BUCKET during PutObject operation: it (Request ID: abc)", "no such bucket"),
        ("AWS Error SLOW_DOWN during PutObject operation: slower (Request ID: abc)", "slower$"),
        ("the key is hush-hush", r"the key is \*\*\*"),
    ],
)
def test_what_a_store_says_becomes_words_without_keys(said: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(explain_os_error(OSError(said)))


def test_a_place_here_needs_no_reaching(tmp_path: Path) -> None:
    check_reachable(tmp_path / "nothing")
