"""A cluster takes runs as jobs, gives them nodes on demand, and loses a node without a row."""

from __future__ import annotations

import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from raypipe.pipeline import Pipeline
from raypipe.results import Result
from tests.acceptance.cluster import TOKEN, RunningCluster, running_cluster
from tests.acceptance.processes import ROOT, table
from tests.loopback import serve

CANARY = "sk-canary-93b7d1c04e5f"
SLOTS_OF_A_WORKER = 4
WORKERS = 7
"""Three for each of two models, one for Python."""
TOPICS = ("Machine Learning", "Astronomy", "Cooking", "Ships", "Birds")

PROGRAM = """
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration
from words import TOPICS, shout

with Pipeline("beside") as pipeline:
    answers = TextGeneration("answers", llm=LLM("openai/loopback", base_url="{url}", concurrency=8),
        template_file="prompts/ask.md", base_dir=__file__.rpartition("/")[0], output="answer", parse=shout)
    LoadDataFromDicts([dict(topic=topic) for topic in TOPICS]) >> answers
"""
WORDS = """
TOPICS = [f"topic {number}" for number in range(200)]


def shout(text):
    return text.upper()
"""


@pytest.fixture(scope="module")
def cluster(endpoint: str) -> Iterator[RunningCluster]:
    """Its nodes find the store, as does whoever starts runs on them."""
    keys = {"AWS_ACCESS_KEY_ID": "key-of-the-tests", "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests"}
    store = {"AWS_ENDPOINT_URL": endpoint, **keys}
    with running_cluster(OPENAI_API_KEY=CANARY, **store) as running:
        running.environment |= store
        yield running


def nemotron(folder: Path, url: str) -> Path:
    """The shipped pipeline on more topics, three workers for each of its models."""
    plain = yaml.safe_load((ROOT / "configs" / "nemotron_qa.yaml").read_text())
    for model in plain["models"].values():
        model |= {"uri": "openai/loopback", "base_url": url, "replicas": 3, "concurrency": 3 * SLOTS_OF_A_WORKER}
    plain["steps"][0]["data"] = [{"topic": topic, "n_subtopics": 10, "n_questions": 5} for topic in TOPICS]
    shutil.copytree(ROOT / "configs" / "prompts", folder / "prompts")
    path = folder / "nemotron.yaml"
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
    return path


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 240
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def job_of(said: str) -> str:
    found = re.search(r"^job (\S+):", said, re.MULTILINE)
    assert found is not None, said
    return found[1]


def told_by(cluster: RunningCluster, job: str) -> Iterator[str]:
    """What the job server and the dashboard answer, and all that the nodes have written."""
    asked = ["jobs/", f"jobs/{job}", f"jobs/{job}/logs", "v0/actors", "v0/workers", "v0/runtime_envs", "cluster_status"]
    for path in ["nodes?view=details", *(f"api/{each}" for each in asked)]:
        request = urllib.request.Request(f"{cluster.jobs}/{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                yield answer.read().decode()
        except urllib.error.HTTPError as error:  # what is asked too early is an answer as well
            with error:
                yield error.read().decode()
    yield from written(cluster.folder)


def written(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                yield repr(pq.read_table(path).to_pylist())


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_job_gets_its_node_and_when_it_is_stopped_writes_what_is_complete(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    """By a run that joins the cluster by itself. Where no node has a CPU, a run asks for one and waits."""
    program, at = tmp_path / "program", ("--address", cluster.jobs)
    (program / "prompts").mkdir(parents=True)
    (program / "prompts" / "ask.md").write_text("Tell me of {{ topic }}")
    (program / "words.py").write_text(WORDS)
    with serve(latency_s=0.5) as server:
        (program / "beside.py").write_text(PROGRAM.format(url=server.base_url))
        start = ("submit", "program/beside.py", "--out", tmp_path / "out", "--env", "OPENAI_API_KEY", *at)
        following = cluster.raypipe(*start, cwd=tmp_path)
        assert following.stdout is not None
        job = job_of(following.stdout.readline())
        while "starting workers" not in following.stdout.readline():
            assert following.poll() is None
        cluster.order("join")
        until(lambda: len(server.requests) >= 16 or following.poll() is not None, "no call was sent")
        assert f"job {job}: stopped" in cluster.said("stop", job, *at)
        said, _ = following.communicate(timeout=60)
        [listed] = cluster.said("status", *at).splitlines()[1:]
        assert listed.split()[:3] == [job, "beside", "stopped"]
        assert following.returncode == 4, said
        assert "stopped on request" in said
        complete, sent = len(table(Result(tmp_path / "out"), "answers")), len(server.requests)
        assert 0 < complete == sent < 200
        cluster.said("run", "program/beside.py", "--out", "out", "--address", cluster.address, cwd=tmp_path)
        assert len(server.requests) == 200
    assert len(Result(tmp_path / "out")["answers"]) == 200


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_job_works_on_every_node_and_goes_on_when_one_is_lost(cluster: RunningCluster, tmp_path: Path) -> None:
    """Nobody waits for it: the process that submitted it has ended."""
    out, at = tmp_path / "out", ("--address", cluster.jobs)
    with serve() as server:
        undisturbed = Pipeline.from_file(nemotron(tmp_path, server.base_url)).run(tmp_path / "whole", engine="local")
        needed = len(server.requests)
    (tmp_path / "again").mkdir()
    with serve(latency_s=1.0) as server:
        spec = nemotron(tmp_path / "again", server.base_url)
        while len(cluster.order("count")) < 4:
            cluster.order("join")
        job = job_of(cluster.said("submit", spec, "--out", out, "--detach", *at, cwd=tmp_path))
        until(lambda: len(server.requests) > 30, "no call was sent")
        before = cluster.order("count")
        assert before[0] == 0
        assert sum(before) == WORKERS
        assert min(before[1:]) == WORKERS // 3
        cluster.order("join")
        lost = cluster.order("lose")
        assert lost == before[1]
        until(lambda: cluster.order("count")[-1] > 0, "the node that joined was not used")
        followed = cluster.said("status", job, "--follow", *at)
        resent = len(server.requests) - needed
        assert {request.authorization for request in server.requests} == {f"Bearer {CANARY}"}
    assert "status: succeeded" in cluster.said("status", job, *at)
    assert table(Result(out), "dataset") == table(undisturbed, "dataset")
    assert 0 <= resent <= lost * SLOTS_OF_A_WORKER
    assert cluster.order("count") == [0, 0, 0, 0], "a worker outlives its run"
    assert not [1 for part in (followed, *told_by(cluster, job), *written(out)) if CANARY in part]


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_run_into_a_store_outlives_a_node_and_its_driver(
    cluster: RunningCluster, bucket: str, tmp_path: Path
) -> None:
    """It goes on from another working directory."""
    with serve() as server:
        undisturbed = Pipeline.from_file(nemotron(tmp_path, server.base_url)).run(tmp_path / "whole", engine="local")
        needed = len(server.requests)
    (tmp_path / "again").mkdir()
    (tmp_path / "elsewhere").mkdir()
    with serve(latency_s=0.5) as server:
        spec = nemotron(tmp_path / "again", server.base_url)
        command = ("run", spec, "--out", f"{bucket}/out", "--address", cluster.address)
        while len(cluster.order("count")) < 4:
            cluster.order("join")
        driver = cluster.raypipe(*command, cwd=tmp_path)
        until(lambda: len(server.requests) > 30 or driver.poll() is not None, "no call was sent")
        cluster.order("join")
        lost, seen = cluster.order("lose"), len(server.requests)
        until(lambda: len(server.requests) > seen + 40 or driver.poll() is not None, "it did not go on")
        assert driver.poll() is None
        driver.kill()
        said, _ = driver.communicate()
        assert "Traceback" not in said
        until(lambda: sum(cluster.order("count")) == 0, "a worker outlives its run")
        again = cluster.said(*command, cwd=tmp_path / "elsewhere")
        resent = len(server.requests) - needed
    assert "Traceback" not in again
    assert table(Result(f"{bucket}/out"), "dataset") == table(undisturbed, "dataset")
    assert 0 <= resent <= (lost + WORKERS) * SLOTS_OF_A_WORKER


@pytest.mark.ray
def test_what_refuses_or_is_no_cluster_is_told_in_a_sentence(cluster: RunningCluster, tmp_path: Path) -> None:
    spec = ROOT / "configs" / "nemotron_qa.yaml"
    stranger = {**cluster.environment, "RAY_AUTH_TOKEN": "another"}
    known, cluster.environment = cluster.environment, stranger
    try:
        for command in (("run", spec, "--address", cluster.address), ("status", "--address", cluster.jobs)):
            said = cluster.said(*command, code=5, cwd=tmp_path)
            assert re.search(r"^error: the cluster at \S+ refuses the token of this machine; set RAY_AUTH_TOKEN", said)
    finally:
        cluster.environment = known
    for command, problem in (
        (("run", spec, "--address", cluster.jobs.removeprefix("http://")), "what listens there is no Ray cluster"),
        (("run", spec, "--address", cluster.jobs), "is the address of a job server; `raypipe submit"),
        (("submit", spec, "--out", tmp_path, "--address", f"http://{cluster.address}"), "no job server answers"),
        (("stop", "nothing", "--address", "http://127.0.0.1:1"), "no job server answers at http://127.0.0.1:1"),
    ):
        said = cluster.said(*command, code=5, cwd=tmp_path)
        assert problem in said
        assert len(said.splitlines()) == 1
    assert psutil.pid_exists(cluster.process.pid)
