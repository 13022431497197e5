"""Every error of ours survives pickle, Ray and JSON with its fields."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from typing import Any

import pytest

import raypipe
from raypipe.errors import (
    CallError,
    HaltedError,
    InfrastructureError,
    InputError,
    OutputError,
    RaypipeError,
    ReplicaLostError,
    Retry,
    RowError,
    RowsKeptError,
    SpecError,
    StepFailedError,
    StoppedError,
    Violation,
    from_json,
    nearest,
    to_json,
)

EXAMPLES: list[RaypipeError] = [
    RaypipeError("base"),
    SpecError(violations=[Violation("step 'a'", "is wrong"), Violation("", "so is the rest")]),
    InputError("no input"),
    OutputError("no output"),
    RowError("no row", "parse"),
    CallError("no call", "rate_limit", Retry.SLOW_DOWN, 1.5, 429),
    StepFailedError("failed"),
    RowsKeptError("10 rows failed"),
    StoppedError("stopped"),
    HaltedError("halted"),
    InfrastructureError("no endpoint"),
    ReplicaLostError("no worker"),
]


def subclasses(kind: type[RaypipeError]) -> set[type[RaypipeError]]:
    return {kind}.union(*(subclasses(other) for other in kind.__subclasses__()))


def import_everything() -> None:
    for module in pkgutil.walk_packages(raypipe.__path__, "raypipe."):
        if module.name != "raypipe.models.vllm" and not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def state(error: RaypipeError) -> tuple[Any, ...]:
    return type(error), str(error), vars(error), error.exit_code


def test_there_is_an_example_of_every_error() -> None:
    import_everything()
    assert {type(error) for error in EXAMPLES} == {
        kind for kind in subclasses(RaypipeError) if kind.__module__.startswith("raypipe.")
    }


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_survives_pickle(error: RaypipeError) -> None:
    assert state(pickle.loads(pickle.dumps(error))) == state(error)


@pytest.mark.parametrize("error", [*EXAMPLES, InputError("half \ud83d")], ids=lambda error: type(error).__name__)
def test_survives_json(error: RaypipeError) -> None:
    assert state(from_json(to_json(error))) == state(error)


def test_an_error_of_an_unknown_class_is_one_of_what_the_run_depends_on() -> None:
    found = from_json(to_json(InputError("no input")).replace(b"InputError", b"SystemExit"))
    assert (type(found), str(found)) == (InfrastructureError, "no input")


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_can_be_made_of_a_message_alone(error: RaypipeError) -> None:
    assert str(type(error)("said")) == "said"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_survives_ray_returned_and_raised() -> None:
    import ray
    from ray.exceptions import RayTaskError

    from raypipe.execution.ray.pools import unwrap_error

    def give_back(errors: list[RaypipeError]) -> list[RaypipeError]:
        return errors

    def give_up(error: RaypipeError) -> None:
        raise error

    returned = ray.get(ray.remote(num_cpus=0)(give_back).remote(EXAMPLES))
    assert [state(error) for error in returned] == [state(error) for error in EXAMPLES]
    raising = ray.remote(num_cpus=0, max_retries=0)(give_up)
    for error, reference in [(error, raising.remote(error)) for error in EXAMPLES]:
        with pytest.raises(RayTaskError) as caught:
            ray.get(reference)
        assert state(unwrap_error(caught.value)) == state(error)


def test_all_violations_are_in_the_message_and_in_the_data() -> None:
    error = SpecError(violations=[Violation("step 'a'", "is wrong"), Violation("", "so is the rest")])
    assert str(error) == "step 'a': is wrong\nso is the rest"
    assert [violation.where for violation in error.violations] == ["step 'a'", ""]


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    assert nearest("temprature", ["temperature", "top_p"]) == " (did you mean 'temperature'?)"
    assert nearest("zzz", ["b", "a"]) == " (allowed: a, b)"
    assert nearest("zzz", []) == ""


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (SpecError, 1),
        (InputError, 1),
        (OutputError, 1),
        (StepFailedError, 3),
        (RowsKeptError, 3),
        (StoppedError, 4),
        (InfrastructureError, 5),
    ],
)
def test_exit_codes(kind: type[RaypipeError], code: int) -> None:
    assert kind.exit_code == code
