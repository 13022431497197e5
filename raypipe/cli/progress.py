"""Shows a run while it goes on: a table on a terminal, else a line now and then.

Knows nothing of what the numbers mean; `figures` adds them up. Writes to the error stream under a descriptor of its
own, since that of the process is silenced while Ray loads. Nothing that goes wrong here may end a run.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import IO

from raypipe.cli.figures import Figures, StepFigures
from raypipe.cli.layout import UNKNOWN_PRICE, dollars, duration, number, some
from raypipe.concurrency.background import start_thread
from raypipe.contracts.step import Source
from raypipe.errors import RaypipeError
from raypipe.execution.conductor.conductor import Snapshot
from raypipe.execution.setup import Watch
from raypipe.plan.plan import Plan

_PATIENCE_S = 0.4
_ODD = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What a view can meet in figures that make no sense, or on a terminal that went away."""


@contextmanager
def watching(plan: Plan, engine: str, line_every_s: float = 5.0) -> Generator[Watch]:
    """A callback that takes snapshots; they are shown until the block ends.

    Without a terminal that is one line every `line_every_s` seconds, so that a short run prints none.
    """
    figures = Figures(plan, _source_rows(plan))
    starts = "starting Ray…" if engine == "ray" else "starting…"
    with _error_stream() as stream, ExitStack() as shown:
        views: list[AbstractContextManager[object]] = [_lines(figures, starts, stream, line_every_s)]
        is_terminal = False
        with suppress(ValueError):  # it is closed
            is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        if is_terminal:
            views = [_table(figures, starts, stream)] if engine == "ray" else []
        for view in views:
            shown.enter_context(view)

        def take(snapshots: Sequence[Snapshot]) -> None:
            with suppress(*_ODD):
                figures.take(snapshots)
                # What loads to draw a table takes longer than a small run.
                if not views and figures.elapsed_s > _PATIENCE_S:
                    views.append(_table(figures, starts, stream))
                    shown.enter_context(views[0])

        yield take


def _source_rows(plan: Plan) -> dict[str, int]:
    found: dict[str, int] = {}
    for stage in plan.stages:
        step = stage.steps[stage.entry].step
        with suppress(RaypipeError, *_ODD):
            count = step.row_count() if isinstance(step, Source) else None
            found |= {} if count is None else {stage.entry: count}
    return found


@contextmanager
def _error_stream() -> Generator[IO[str]]:
    try:
        stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors="replace")
    except (OSError, ValueError, AttributeError):
        yield sys.stderr or io.StringIO()
        return
    with suppress(OSError), stream:
        yield stream


# Without a terminal.


@contextmanager
def _lines(figures: Figures, starts: str, stream: IO[str], every_s: float) -> Generator[None]:
    """A line now and then; where that breaks, one that says so, and the run goes on."""
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(every_s):
            with suppress(*_ODD):
                print(line(figures, starts), file=stream, flush=True)

    def broke(error: RaypipeError) -> None:
        with suppress(OSError, ValueError):
            print(f"{error}; the run goes on", file=stream, flush=True)

    thread = start_thread(write, "what shows the progress", broke)
    try:
        yield
    finally:
        ended.set()
        thread.join(1.0)


def line(figures: Figures, starts: str) -> str:
    """All that is known, in one line."""
    words = [duration(figures.elapsed_s)]
    if not figures.is_working:
        return f"{words[0]}: {starting(figures, starts)}"
    steps = figures.steps()
    for step in (one for one in steps if one.counts.rows_in or one.waiting):
        counts = step.counts
        lost = {"failed": counts.rows_failed, "filtered": counts.rows_filtered, "waiting": step.waiting}
        own = [f"{step.name} {number(counts.rows_in)} in, {number(counts.rows_out)} out"]
        words.append(", ".join(own + [f"{number(count)} {name}" for name, count in lost.items() if count]))
    words += engine_words(figures)
    words.append(", ".join(_call_words(figures, steps)))
    return f"{words[0]}: {' · '.join(word for word in words[1:] if word)}"


def engine_words(figures: Figures) -> list[str]:
    """For each engine that runs in a worker: how it is doing."""
    return [
        f"engine {worker}: {report.now.running} running, {report.now.waiting} waiting, "
        f"{report.tokens_per_s:,.0f} tokens/s, cache {report.now.kv_cache_usage:.0%} full, "
        f"{report.prefix_hit_rate:.0%} of prompts found there"
        for worker, report in sorted(figures.engines.reports.items())
    ]


def starting(figures: Figures, starts: str) -> str:
    """What is awaited before the first row."""
    return "starting workers…" if figures.is_asked else starts


def _call_words(figures: Figures, steps: Sequence[StepFigures]) -> list[str]:
    """Calls and money of the whole run, and the time that is left."""
    asking = [step for step in steps if step.slots]
    words: list[str] = []
    if asking:
        cached = sum(step.counts.calls_cached for step in asking)
        words.append(f"{number(figures.in_flight())} calls in flight")
        words.append(f"{number(sum(step.counts.calls_sent for step in asking))} sent")
        words += [f"{number(cached)} from the log"] if cached else []
        words.append(f"{sum(step.tokens_per_s for step in asking):,.0f} tokens/s")
        costs = [step.cost_usd for step in asking if step.cost_usd is not None]
        words.append(dollars(sum(costs)) if costs else UNKNOWN_PRICE)
    left, waits = figures.remaining_s(), figures.waits_for()
    words += [f"about {duration(left)} left"] if left and not figures.halted_for else []
    words += [f"stopping ({figures.halted_for}), Ctrl+C ends it at once"] if figures.halted_for else []
    return words + ([f"waiting for {waits}"] if waits else [])


# On a terminal.


def _table(figures: Figures, starts: str, stream: IO[str]) -> AbstractContextManager[object]:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def shown() -> RenderableType:
        with suppress(*_ODD):
            if not figures.is_working:
                return Text(f"{starting(figures, starts)} {duration(figures.elapsed_s)}", style="dim")
            steps = figures.steps()
            cells = [_cells(step) for step in steps]
            names = [name for name in cells[0] if any(row[name] for row in cells)]
            table = Table(box=None, pad_edge=False, header_style="dim")
            for name in names:
                table.add_column(name, justify="left" if name == "step" else "right", no_wrap=True)
            for row in cells:
                table.add_row(*(Text(row[name], _STYLES.get(name, "")) for name in names))
            words = [f"{duration(figures.elapsed_s)} elapsed", *_call_words(figures, steps)]
            lines = [*engine_words(figures), ", ".join(words)]
            return Group(table, *(Text(one, style="dim") for one in lines))
        return Text("")

    console = Console(file=stream, highlight=False)
    return Live(
        console=console,
        get_renderable=shown,
        refresh_per_second=4,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )


_STYLES = {"failed": "red", "step": "bold"}


def _cells(step: StepFigures) -> dict[str, str]:
    counts = step.counts
    return {
        "step": step.name,
        "in": number(counts.rows_in),
        "out": number(counts.rows_out),
        "failed": some(counts.rows_failed),
        "filtered": some(counts.rows_filtered),
        "waiting": some(step.waiting),
        "in flight": f"{step.in_flight}/{step.slots}" if step.slots else "",
        "sent": number(counts.calls_sent) if step.slots else "",
        "from log": some(counts.calls_cached),
        "tokens/s": f"{step.tokens_per_s:,.0f}" if step.slots else "",
        "cost": dollars(step.cost_usd) if step.slots else "",
    }
