"""Options that change nothing say so, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raypipe.dria import Dria, PipelineConfig, StepConfig
from raypipe.steps import LoadDataFromDicts, LoadDataFromFileSystem, make_generator_step
from raypipe.steps.idle_options import warn_idle

ROWS = [{"a": 1}]
IDLE: dict[str, Callable[[], Any]] = {
    "LoadDataFromDicts: the option 'batch_size'": lambda: LoadDataFromDicts(ROWS, batch_size=10),
    "LoadDataFromFileSystem: the option 'batch_size'": lambda: LoadDataFromFileSystem(data_files="x", batch_size=10),
    "LoadDataFromFileSystem: the option 'streaming'": lambda: LoadDataFromFileSystem(data_files="x", streaming=False),
    "make_generator_step: the option 'pipeline'": lambda: make_generator_step(ROWS, object()),
    "make_generator_step: the option 'batch_size'": lambda: make_generator_step(ROWS, batch_size=10),
    "Dria: the option 'rpc_token'": lambda: Dria(rpc_token="…"),
    "PipelineConfig: the option 'step_timeout'": lambda: PipelineConfig(step_timeout=10),
    "StepConfig: the option 'min_compute'": lambda: StepConfig(min_compute=0.5),
}


@pytest.mark.parametrize("said", IDLE)
def test_an_option_that_changes_nothing_says_so_once(said: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_idle.cache_clear()
    IDLE[said]()
    IDLE[said]()
    (message,) = caplog.messages
    assert message.startswith(f"{said} changes nothing here: ")


def test_nothing_is_said_of_options_that_are_not_given(caplog: pytest.LogCaptureFixture) -> None:
    warn_idle.cache_clear()
    for _ in LoadDataFromDicts(ROWS), LoadDataFromFileSystem(data_files="x", streaming=True), make_generator_step(ROWS):
        pass
    Dria()
    PipelineConfig()
    StepConfig(max_steps=3)
    assert caplog.messages == []
