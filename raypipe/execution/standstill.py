"""I say which rows nobody works on, though a run waits for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from raypipe.execution.queues import Lane, StepQueue
from raypipe.execution.wire import Vitals


def standing_still(
    lanes: Sequence[Lane], vitals: Mapping[str, Vitals], awaited: Mapping[str, StepQueue] | None
) -> Iterator[tuple[str, str]]:
    """What nobody works on, and how that is said.

    `awaited`: the queues, by step, while there are rows that have not ended and that nobody tries apart.
    """
    for lane in lanes:
        said = vitals.get(lane.worker.name)
        if said is not None and not said.held and lane.outbox.rows:
            name = lane.worker.name
            yield name, f"worker {name!r} no longer knows of {lane.outbox.rows} rows that were sent to it"
    if awaited is not None and not any(lane.outbox.rows or lane.is_away for lane in lanes):
        waiting = {name: queue.rows for name, queue in awaited.items() if queue.rows}
        where = ", ".join(f"{rows} before step {name!r}" for name, rows in waiting.items()) or "in no queue"
        yield "", f"nothing moves any more: rows wait ({where}) and no worker has any"
