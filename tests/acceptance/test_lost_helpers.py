"""What works beside a run is lost: the run ends and says so."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from raypipe.calls.segment_files import SegmentWriter
from raypipe.contracts.llm import LLM, Caller
from raypipe.errors import OutputError
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, step
from tests.loopback import serve


class Failing(list[int]):
    """Files that fail the first thread that takes one, in a way that nobody foresees."""

    has_failed = False

    def __getitem__(self, index: Any) -> Any:
        if not self.has_failed:
            self.has_failed = True
            raise IndexError(index)
        return super().__getitem__(index)


@step(inputs=["n", "breaks"], outputs=["said"])
async def said(row: Values, llm: Caller) -> dict[str, Any]:
    if row["breaks"] and row["n"] == 5:
        gc.unfreeze()  # what a run has frozen is not listed
        # By `type`: asking a dead weak proxy of another test for its class raises.
        for writer in [one for one in gc.get_objects() if type(one) is SegmentWriter]:
            writer._files = Failing(writer._files)  # pyright: ignore[reportPrivateUsage]
    return {"said": await llm(f"say {row['n']}")}


def saying(url: str, breaks: bool) -> Pipeline:
    llm = LLM("openai/loopback", base_url=url, concurrency=2)
    with Pipeline("saying") as pipeline:
        seed = LoadDataFromDicts([{"n": number, "breaks": breaks} for number in range(20)], name="seed", identity=["n"])
        seed >> said("said", llm=llm)
    return pipeline


@pytest.mark.timeout(60)
def test_a_thread_of_the_call_log_that_breaks_ends_the_run(tmp_path: Path) -> None:
    with serve(latency_s=0.05) as server:
        with pytest.raises(
            OutputError, match=r"the call log .* cannot be written: the call log's \w+ thread broke: Ind"
        ):
            saying(server.base_url, breaks=True).run(tmp_path / "out", engine="local")
        assert len(server.requests) < 15
        again = saying(server.base_url, breaks=False).run(tmp_path / "out", engine="local")
        assert (len(again["said"]), again.failed_rows) == (20, 0)
