"""Lists everything that can go wrong, and which of it is worth trying again.

    RaypipeError
    ├── SpecError            the pipeline or its configuration is unsound (exit 1)
    ├── InputError           the input cannot be read as rows (exit 1)
    ├── OutputError          the output folder cannot be used (exit 1)
    ├── RowError             one row cannot pass one step; it becomes a failed row
    │   └── CallError        a model call went wrong; it says whether trying again can help
    ├── StepFailedError      a step that is given all rows failed, so none of them went on (exit 3)
    ├── RowsKeptError        rows failed, and those of an earlier run, which are more, were kept (exit 3)
    ├── StoppedError         stopped on request; the run can be resumed (exit 4)
    ├── HaltedError          no call is sent any more; the row is left as it is
    └── InfrastructureError  an endpoint, engine or worker cannot be used at all (exit 5)
        └── ReplicaLostError one worker is gone; its unfinished rows can go to another

Every class takes one positional message and optional fields with defaults, so that each
survives pickle, a trip through Ray and `to_json` unchanged. Errors of other libraries are translated
where they are caught and never cross a process.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, cast

_LONGEST_PROBLEM = 2000
"""Characters of one violation."""
_MOST_VIOLATIONS = 200
"""Violations that a message lists."""


def shorten(text: str, most: int = 200) -> str:
    """The text, its middle left out where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-(most // 2) :]}"


class Retry(StrEnum):
    """Whether the same call can succeed later."""

    NEVER = "never"
    LATER = "later"
    SLOW_DOWN = "slow_down"


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason why a pipeline is unsound: `where` names the place, `problem` is one sentence."""

    where: str
    problem: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "problem", shorten(self.problem, _LONGEST_PROBLEM))

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" if self.where else self.problem


class RaypipeError(Exception):
    """Base of all errors of raypipe. `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 5
    longest: ClassVar[int] = 20_000
    """Most characters of a message, whatever value somebody writes into one."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shorten(message, self.longest))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), str(self), dict(vars(self)))


def _restore(kind: type[RaypipeError], message: str, fields: dict[str, Any]) -> RaypipeError:
    error = kind(message)
    vars(error).update(fields)
    return error


class SpecError(RaypipeError):
    """The pipeline, its configuration or the command's arguments are unsound.

    All violations found are carried as data in `violations`.
    """

    exit_code = 1
    longest = _MOST_VIOLATIONS * (_LONGEST_PROBLEM + 200)

    def __init__(self, message: str = "", violations: Iterable[Violation] = ()) -> None:
        found = tuple(violations)
        lines = [str(violation) for violation in found[:_MOST_VIOLATIONS]]
        more = [f"… and {len(found) - _MOST_VIOLATIONS} more"] if len(found) > _MOST_VIOLATIONS else []
        super().__init__(message or "\n".join(lines + more))
        self.violations = found

    @classmethod
    def of(cls, where: str, problem: str) -> SpecError:
        """An error with one violation: `problem` is one sentence about `where`."""
        return cls(violations=[Violation(where, problem)])


class InputError(RaypipeError):
    """The input cannot be read as rows."""

    exit_code = 1


class OutputError(RaypipeError):
    """The output folder cannot be used."""

    exit_code = 1


class RowError(RaypipeError):
    """One row cannot pass one step; `kind` groups such failures (`parse`, `template`, …)."""

    longest = 4000

    def __init__(self, message: str = "", kind: str = "step") -> None:
        super().__init__(message)
        self.kind = kind


class CallError(RowError):
    """A model call went wrong.

    `retry` is the adapter's classification, `after_s` the pause the endpoint asked for in
    seconds, `status` the HTTP status (0: no answer at all).
    """

    maybe_worked_on: ClassVar[frozenset[int]] = frozenset({408, 499, 504, 524})
    """Of the statuses of errors, those that say no more than that somebody on the way did not wait any longer."""

    def __init__(
        self,
        message: str = "",
        kind: str = "call",
        retry: Retry = Retry.NEVER,
        after_s: float | None = None,
        status: int = 0,
    ) -> None:
        super().__init__(message, kind)
        self.retry = retry
        self.after_s = after_s
        self.status = status

    @property
    def is_free(self) -> bool:
        """Whether nobody can have worked on the call: no connection was made, or its status says that it was refused.

        Any status from 300 on says so, but for those of a gateway, or a server, that gave up waiting for the model.
        A connection that broke, silence, and a 200 without an answer do not.
        """
        return self.kind == "unreachable" or (self.status >= 300 and self.status not in self.maybe_worked_on)


class StepFailedError(RaypipeError):
    """A step that is given all rows failed, so none of them went on; what other steps made is committed."""

    exit_code = 3


class RowsKeptError(RaypipeError):
    """Rows failed, and the rows that an earlier run left in the folder are more, so these were kept."""

    exit_code = 3


class StoppedError(RaypipeError):
    """The run was stopped on request and can be resumed."""

    exit_code = 4


class HaltedError(RaypipeError):
    """No call is sent any more: the run is being stopped, or its budget is spent. The row can be resumed."""

    exit_code = 4


class InfrastructureError(RaypipeError):
    """Something the whole run depends on cannot be used: an endpoint, an engine, a worker."""


_CANNOT_GO_ON = "the run cannot go on: "


def halt_reason(error: RaypipeError) -> str:
    """Why no call is sent any more, as text that travels with results; `stopped_by` makes an error of it again."""
    return str(error) if error.exit_code == StoppedError.exit_code else f"{_CANNOT_GO_ON}{error}"


def stop_error(reason: str, rest: str) -> RaypipeError:
    """The error that ends a run in which no call was sent any more for `reason`; `rest` follows it."""
    kind = InfrastructureError if reason.startswith(_CANNOT_GO_ON) else StoppedError
    return kind(f"{reason}{rest}")


class ReplicaLostError(InfrastructureError):
    """A worker is gone; its unfinished rows can go to another."""


def to_json(error: RaypipeError) -> bytes:
    """An error as text, with its class and its fields."""
    fields: dict[str, Any] = {}
    for name, value in vars(error).items():
        if isinstance(value, tuple):
            found = cast("tuple[Violation, ...]", value)
            fields[name] = [{"where": one.where, "problem": one.problem} for one in found]
        else:
            fields[name] = value if value is None or isinstance(value, str | int | float) else str(value)
    return json.dumps({"error": type(error).__name__, "message": str(error), "fields": fields}).encode()


def from_json(text: bytes) -> RaypipeError:
    """The error that `to_json` wrote; one of an unknown class becomes an InfrastructureError."""
    written = json.loads(text)
    fields: dict[str, Any] = written["fields"]
    if "violations" in fields:
        fields["violations"] = tuple(Violation(**one) for one in fields["violations"])
    if "retry" in fields:
        fields["retry"] = Retry(fields["retry"])
    kinds: list[type[RaypipeError]] = [RaypipeError]
    for kind in kinds:  # grows meanwhile, until all subclasses are in it
        kinds.extend(kind.__subclasses__())
    known = {kind.__name__: kind for kind in kinds}
    return _restore(known.get(written["error"], InfrastructureError), written["message"], fields)


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint ` (did you mean 'x'?)` for a misspelt `name`, or the list of what is allowed."""
    match = difflib.get_close_matches(name, known, n=1)
    if match:
        return f" (did you mean {match[0]!r}?)"
    return f" (allowed: {', '.join(sorted(known))})" if known else ""
