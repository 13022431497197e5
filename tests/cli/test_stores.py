"""The commands take the address of a folder in a store where they take a folder."""

from __future__ import annotations

from pathlib import Path

from raypipe.pipeline import Pipeline
from tests.cli.conftest import Command, tiny, written


def test_run_failures_retry_and_plan_read_and_write_a_store(command: Command, bucket: str, tmp_path: Path) -> None:
    plain = tiny()
    plain["models"]["writer"]["options"]["answers"]["Write"] = "not a number"
    plain["steps"][2] |= {"parse": "json"}
    spec = written(tmp_path / "failing.yaml", plain)
    out = f"{bucket}/out"
    ran = command("run", spec, "--out", out, "--engine", "local")
    assert ran.exit_code == 3, ran.output
    assert f"raypipe failures {out}" in ran.output
    assert f'data_files="{out}/data/texts/*.parquet"' in ran.output
    told = command("failures", out)
    assert told.exit_code == 0
    assert f"6 rows failed in {out}" in told.output
    forecast = command("plan", spec, "--explain", "--out", out)
    assert f"calls in {out}/calls" in forecast.output
    assert "step texts: 6 calls reused, 0 rows would send" in forecast.output
    retried = command("retry", out, "--set", "texts.parse=text", "--engine", "local")
    assert retried.exit_code == 0, retried.output
    assert "6 rows failed before, 0 after" in retried.output
    again = command("retry", out, "--engine", "local")
    assert f"no row failed in {out}" in again.output
    Pipeline.from_file(spec).run(f"{bucket}/other", engine="local")
    retried = command("retry", f"{bucket}/other", "--set", "texts.parse=text", "--engine", "local")
    assert "6 rows failed before, 0 after" in retried.output


def test_a_store_that_is_not_known_is_one_sentence(command: Command, spec: Path) -> None:
    for arguments in (["run", spec, "--out", "ftp://host/x", "--engine", "local"], ["failures", "ftp://host/x"]):
        ended = command(*arguments)
        assert ended.exit_code == 1
        assert ended.stderr.count("\n") == 1
        assert "error: the path ftp://host/x: is an address of an unknown kind" in ended.stderr
