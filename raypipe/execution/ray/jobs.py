"""Hands runs to a cluster's job server, and asks it how they are doing.

Knows nothing of what a job runs, nor of what is shown. What a job is given stands in its record in plain
text, so no secret is ever among it. A job that is stopped gets the time that a run takes to wait for its calls and to
write what is complete.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from raypipe.errors import CallError, InfrastructureError, SpecError
from raypipe.execution.ray.access import explain_refusal, read_token
from raypipe.execution.ray.session import load
from raypipe.execution.stopping import DRAIN_S
from raypipe.storage.http import Outgoing, fetch_now

__all__ = ["Job", "JobServer"]

_ANSWER_TIMEOUT_S, _AGENT_TIMEOUT_S = 15.0, 60.0
_STOP_S = int(DRAIN_S) + 240
"""How long Ray waits between asking a job to stop and killing it; 3 s unless it is told."""
_LOOK_EVERY_S = 0.5
_MOST_LOST = 20
_OURS = {"raypipe": "1"}
"""What a job of ours has in its metadata."""


@dataclass(frozen=True)
class Job:
    """What the job server knows of one job of raypipe."""

    name: str
    status: str
    """`pending`, `running`, `succeeded`, `failed` or `stopped`."""
    pipeline: str
    out: str
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    """That of the run, as far as it came to one."""
    message: str

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more, however it ended."""
        return self.status in ("succeeded", "failed", "stopped")


class JobServer:
    """The job server of a cluster, by its address, such as `http://HEAD:8265`.

    Raises InfrastructureError when none answers there, or not to us.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        _check_answer(self.address)
        if read_token():
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        load()
        from ray.job_submission import JobSubmissionClient

        for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

        with self._talking():
            self._client = JobSubmissionClient(self.address)

    def submit(self, name: str, entrypoint: str, folder: Path, package: Path, told: Mapping[str, str]) -> None:
        """Start a job in a copy of `folder`, with the Python package in `package`; `told` stands in its record."""
        environment = {
            "working_dir": str(folder),
            "py_modules": [str(package)],
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S)},
        }
        deadline = time.monotonic() + _AGENT_TIMEOUT_S
        while True:
            try:
                with self._talking():
                    self._client.submit_job(
                        entrypoint=entrypoint, submission_id=name, runtime_env=environment, metadata=dict(told) | _OURS
                    )
                return
            except InfrastructureError as error:
                # The head of a cluster that has just begun has no agent yet that starts jobs.
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_EVERY_S)

    def jobs(self) -> list[Job]:
        """All jobs of raypipe, the latest first."""
        with self._talking():
            found = [_job(one) for one in self._client.list_jobs() if (one.metadata or {}).items() >= _OURS.items()]
        return sorted(found, key=lambda job: job.started_at or 0, reverse=True)

    def job(self, name: str) -> Job:
        """Raises SpecError when there is none of that name."""
        known = self.jobs()
        for one in known:
            if one.name == name:
                return one
        listed = ", ".join(one.name for one in known) or "none"
        raise SpecError.of(f"job {name!r}", f"is not known at {self.address} (its jobs: {listed})")

    def log(self, name: str) -> str:
        """All that the run has said so far."""
        with self._talking():
            return self._client.get_job_logs(name)

    def follow(self, name: str, say: Callable[[str], None]) -> Job:
        """Say what the run says until it is over, also where the connection is lost in between."""
        said, lost = 0, 0
        while True:
            try:
                said = asyncio.run(_tail(self._client.tail_job_logs(name), said, say))
            except (RuntimeError, OSError):
                lost += 1
                if lost > _MOST_LOST:
                    raise InfrastructureError(f"the job server at {self.address} was lost {lost} times") from None
            job = self.job(name)
            if job.is_over:
                return job
            time.sleep(_LOOK_EVERY_S)

    def stop(self, name: str) -> Job:
        """Ask a run to stop, and wait until it has: calls in flight are waited for, what is complete is written."""
        if not self.job(name).is_over:
            with self._talking():
                self._client.stop_job(name)
        deadline = time.monotonic() + _STOP_S + _ANSWER_TIMEOUT_S
        while not (job := self.job(name)).is_over:
            if time.monotonic() > deadline:
                raise InfrastructureError(f"job {name!r} did not end within {_STOP_S} s of being asked to stop")
            time.sleep(_LOOK_EVERY_S)
        return job

    @contextmanager
    def _talking(self) -> Generator[None]:
        """A block that asks the server; what Ray says of a failure is one sentence."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise InfrastructureError(explain_refusal(self.address)) from None
        except (RuntimeError, ValueError, OSError) as error:
            said = " ".join(str(error).split())
            raise InfrastructureError(f"the job server at {self.address} says: {said[:500]}") from None


async def _tail(chunks: AsyncIterator[str], said: int, say: Callable[[str], None]) -> int:
    """Say what comes after the first `said` characters; returns how many have been said now."""
    seen = 0
    async for chunk in chunks:
        fresh = chunk[max(0, said - seen) :]
        seen += len(chunk)
        if fresh:
            say(fresh)
            said = seen
    return said


def _check_answer(address: str) -> None:
    """Ray's client waits for ever where something listens that says nothing. Raises InfrastructureError."""
    if not address.startswith(("http://", "https://")):
        problem = "is no address of a job server, which is written http://HOST:8265"
        raise InfrastructureError(f"{address!r} {problem}; `raypipe run` takes that of a cluster itself")
    headers = {"Authorization": f"Bearer {read_token()}"} if read_token() else {}
    request = Outgoing("GET", f"{address}/api/version", headers=headers, timeout_s=_ANSWER_TIMEOUT_S)
    way = "the head needs ray[default]; is the address right, and the port forwarded (`ray dashboard cluster.yaml`)?"
    try:
        answer = fetch_now(request)
    except (CallError, ValueError) as error:
        raise InfrastructureError(f"no job server answers at {address} ({error}); {way}") from None
    if answer.status in (401, 403):
        raise InfrastructureError(explain_refusal(address))
    try:
        _ = orjson.loads(answer.text)["ray_version"] if answer.is_good else {}["status"]
    except (ValueError, LookupError, TypeError):
        said = f"what listens at {address} is no job server (HTTP {answer.status})"
        raise InfrastructureError(f"{said}; {way}") from None


def _job(told: Any) -> Job:
    metadata = told.metadata or {}
    started, ended = (moment / 1000 if moment else None for moment in (told.start_time, told.end_time))
    name, status = told.submission_id or "", str(told.status.value).lower()
    pipeline, out = metadata.get("pipeline", ""), metadata.get("out", "")
    return Job(name, status, pipeline, out, started, ended, told.driver_exit_code, told.message or "")
