"""What is seen while a run goes on: sums over conductors and workers, and nothing that can break a run."""

from __future__ import annotations

import io
import os
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import pytest

from raypipe.cli.figures import Figures, StepFigures
from raypipe.cli.progress import line, watching
from raypipe.contracts.llm import LLM
from raypipe.execution.conductor.conductor import Snapshot
from raypipe.execution.counts import StepCounts
from raypipe.execution.wire import WorkerStatus
from raypipe.pipeline import Pipeline
from raypipe.plan.plan import Plan
from raypipe.steps import Aggregate, LoadDataFromDicts, TextGeneration

ASKING = WorkerStatus(in_flight=5, calls_sent=9)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def planned(uri: str = "offline/a", *, barrier: bool = False) -> Plan:
    llm = LLM(uri, concurrency=8)
    with Pipeline("watched") as pipeline:
        end = LoadDataFromDicts([{"topic": "sea"}] * 10, name="seed") >> TextGeneration(
            "parts", llm=llm, template="{{ topic }}", parse="lines", output="part", scatter=True
        )
        if barrier:
            end = end >> Aggregate("all", by="all")
        end >> TextGeneration("texts", llm=llm, template="{{ part }}")
    return pipeline.plan()


def seen(
    status: dict[str, WorkerStatus] | None = None, queued: dict[str, int] | None = None, **counts: StepCounts
) -> Snapshot:
    workers = {name: one and replace(one, pool=name.rpartition(":")[0]) for name, one in (status or {}).items()}
    return Snapshot(counts, queued or {}, workers)


def of(figures: Figures, name: str) -> StepFigures:
    return next(step for step in figures.steps() if step.name == name)


def test_conductors_are_added_and_each_worker_counts_once():
    figures = Figures(planned())
    first = seen({"offline/a:0": ASKING}, {"texts": 3}, parts=StepCounts(rows_in=2, rows_out=6, calls_sent=2))
    second = seen(
        {"offline/a:0": WorkerStatus(1, 4), "offline/a:1": WorkerStatus(2, 1)},
        {"texts": 4},
        parts=StepCounts(rows_in=1),
    )
    figures.take([first, second])
    parts, texts = of(figures, "parts"), of(figures, "texts")
    assert (parts.counts.rows_in, parts.counts.rows_out, parts.counts.calls_sent) == (3, 6, 2)
    assert (texts.waiting, texts.in_flight, texts.slots, figures.in_flight()) == (7, 7, 8, 7)


def test_what_was_known_of_a_stage_that_ended_stays():
    figures = Figures(planned(barrier=True))
    figures.take([seen(parts=StepCounts(rows_in=10, rows_out=30))])
    figures.take([seen(texts=StepCounts(rows_in=1, rows_out=1))])
    assert [step.counts.rows_in for step in figures.steps()] == [0, 10, 0, 1]


def test_tokens_are_counted_by_the_second():
    clock = Clock()
    figures = Figures(planned(), clock=clock)
    figures.take([seen(parts=StepCounts(rows_in=1, output_tokens=100))])
    clock.now = 2.0
    figures.take([seen(parts=StepCounts(rows_in=2, output_tokens=300))])
    assert of(figures, "parts").tokens_per_s == 100.0


def test_the_time_left_is_estimated_from_what_the_rows_became():
    clock = Clock()
    figures = Figures(planned(), {"seed": 10}, clock)
    figures.take([seen(seed=StepCounts(rows_in=10, rows_out=10))])
    assert figures.remaining_s() is None
    clock.now = 10.0
    counts = {"parts": StepCounts(rows_in=5, rows_out=15), "texts": StepCounts(rows_in=5)}
    figures.take([seen(seed=StepCounts(rows_in=10, rows_out=10), **counts)])
    # 5 of 10 rows and 5 of 30 texts are done in 10 s: 30 more calls at one a second.
    assert figures.remaining_s() == pytest.approx(30.0)


def test_without_the_number_of_rows_no_time_is_told():
    clock = Clock()
    figures = Figures(planned(), clock=clock)
    clock.now = 10.0
    figures.take([seen(parts=StepCounts(rows_in=5, rows_out=15), texts=StepCounts(rows_in=5))])
    assert figures.remaining_s() is None
    assert "left" not in line(figures, "")


@pytest.mark.parametrize(
    ("uri", "cost"), [("offline/a", "$0"), ("openai/gpt-4o-mini", "$0.3000"), ("vllm-server/own", "price unknown")]
)
def test_one_line_says_all(uri: str, cost: str):
    clock, priced = Clock(100.0), 0.3 if cost == "$0.3000" else 0.0
    figures = Figures(planned(uri), clock=clock)
    assert line(figures, "starting Ray…") == "0.0 s: starting Ray…"
    figures.take([])
    assert line(figures, "starting Ray…") == "0.0 s: starting workers…"
    clock.now = 175.0
    rows = {"rows_in": 12, "rows_done": 10, "rows_failed": 1, "rows_filtered": 1, "rows_out": 1234}
    counts = StepCounts(calls_sent=11, calls_cached=3, input_tokens=2_000_000, cost_usd=priced, **rows)
    figures.take([seen({f"{uri}:0": ASKING}, {"texts": 7}, seed=StepCounts(rows_in=12, rows_out=12), parts=counts)])
    assert line(figures, "") == (
        "1 min 15 s: seed 12 in, 12 out · parts 12 in, 1,234 out, 1 failed, 1 filtered · texts 0 in, 0 out, 7 waiting"
        f" · 5 calls in flight, 11 sent, 3 from the log, 0 tokens/s, {cost}"
    )


@pytest.mark.parametrize(
    "odd",
    [
        None,
        [None],
        [seen(unknown=StepCounts(rows_in=1))],
        [Snapshot(None, None, None)],  # type: ignore[arg-type]
        [seen({"no pool": None})],  # type: ignore[dict-item]
        [seen(parts=StepCounts(rows_in=-5, rows_out=-1, output_tokens=-3))],
        [seen(parts=StepCounts(rows_in=0, rows_out=10**30))],
        "nonsense",
    ],
)
def test_odd_figures_break_nothing(odd: Any, capsys: pytest.CaptureFixture[str]):
    with watching(planned(), "local") as watch:
        watch(odd)
        watch([seen(parts=StepCounts(rows_in=1))])
    assert capsys.readouterr() == ("", "")


def test_a_closed_error_stream_breaks_nothing(monkeypatch: pytest.MonkeyPatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with watching(planned(), "local") as watch:
        watch([seen(parts=StepCounts(rows_in=1))])


def test_without_a_terminal_a_line_is_written_now_and_then(capfd: Any):
    with watching(planned(), "ray", line_every_s=0.05) as watch:
        watch([seen(parts=StepCounts(rows_in=1))])
        _, written = wait_for(capfd)
    assert "parts 1 in, 0 out" in written
    assert "\x1b" not in written


def wait_for(capfd: Any) -> tuple[str, str]:
    for _ in range(100):
        out, written = capfd.readouterr()
        if "parts" in written:
            return out, written
        time.sleep(0.05)
    return "", ""


def test_on_a_terminal_a_table_is_drawn_and_taken_away(monkeypatch: pytest.MonkeyPatch):
    controller, terminal = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with open(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with watching(planned(), "ray") as watch:
            drawn = os.read(controller, 100_000).decode()
            while "starting Ray" not in drawn:
                drawn += os.read(controller, 100_000).decode()
            watch([seen({"offline/a:0": ASKING}, parts=StepCounts(rows_in=1, rows_failed=1))])
        drawn += os.read(controller, 100_000).decode()
    os.close(controller)
    for word in ("parts", "texts", "failed", "in flight", "5/8", "tokens/s", "elapsed"):
        assert word in drawn
    assert drawn.rstrip().endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("status", "queued", "waits_for"),
    [
        ({}, {}, "workers that start"),
        ({"offline/a:0": WorkerStatus(in_flight=3, held=9, waits_for="its rate limit")}, {}, "its rate limit"),
        (
            {"offline/a:0": WorkerStatus(in_flight=3, held=9, oldest_s=75.0)},
            {},
            "3 answers of offline/a, the oldest for 1 min 15 s",
        ),
        ({"offline/a:0": WorkerStatus(held=2, oldest_s=20.0)}, {}, "2 rows in offline/a, the oldest for 20 s"),
        ({"offline/a:0": WorkerStatus()}, {"texts": 4}, "workers that take rows"),
        ({"offline/a:0": WorkerStatus()}, {"texts": 0}, "rows from upstream"),
    ],
)
def test_a_run_that_does_not_move_says_what_it_waits_for(
    status: dict[str, WorkerStatus], queued: dict[str, int], waits_for: str
):
    clock = Clock()
    figures = Figures(planned(), clock=clock)
    figures.take([seen(status, queued, parts=StepCounts(rows_in=2))])
    assert figures.waits_for() == ""
    clock.now = 11.0
    figures.take([seen(status, queued, parts=StepCounts(rows_in=2))])
    assert figures.waits_for() == waits_for
    assert f"waiting for {waits_for}" in line(figures, "starting…")
    figures.take([seen(status, queued, parts=StepCounts(rows_in=3))])
    assert figures.waits_for() == ""


def test_a_run_that_is_being_stopped_says_so():
    figures = Figures(planned())
    figures.take([seen({"offline/a:0": WorkerStatus(in_flight=3, halted_for="stopped on request")})])
    assert "stopping (stopped on request), Ctrl+C ends it at once" in line(figures, "starting…")
