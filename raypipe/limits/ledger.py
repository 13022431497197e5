"""Says what stands in the ledger of a call log: the runs that used it, and what each of their lives spent.

A life is one coordinator of a run from its start to its end. It writes down, before calls leave, the most that it will
have spent until it writes again, and after calls have ended what they took. A life that ended counts as what it spent;
one that was killed as the most that it had written, since nobody knows what became of its calls in flight. Each line
holds sums, not changes, so that one that is damaged is mended by the next. `docs/ledger.md` describes the format.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import orjson

from raypipe.limits.account import Account, estimate
from raypipe.limits.messages import NOTHING, Caps, Cost, Spent

VERSION = 1
_CRC_CHARACTERS = 8
KILLED = "killed"
"""Why a run ended that wrote down no end."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One run into a folder. Times are seconds since 1970 in UTC."""

    id: str
    folder: str
    """Stands for the run folder, as in the names of the call log's segments."""
    started: float = 0.0
    engine: str = ""
    caps: Caps = field(default_factory=Caps)
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """Prices that were given, by model."""
    ended: float | None = None
    why: str = ""
    """Why it ended; empty while it has not said so."""


@dataclass(frozen=True, slots=True)
class Life:
    """One coordinator of a run."""

    id: str
    leg: str
    process: tuple[str, int, float]
    """Machine, number and start of its process."""
    at: float = 0.0
    """When it last wrote."""
    spent: tuple[Spent, ...] = ()
    most: Cost = NOTHING
    """The most that it will have spent until it writes again."""
    has_ended: bool = False

    @property
    def cost(self) -> Cost:
        """What it is known to have spent."""
        return sum((entry.cost for entry in self.spent), NOTHING)

    @property
    def unknown(self) -> Cost:
        """What it may have spent beyond that.

        Where neither caps nor limits counted tokens, none are known of calls in flight: they are taken for usual ones.
        """
        most, cost = self.most, self.cost
        calls = max(0, most.calls - cost.calls)
        if self.has_ended or not calls:
            return NOTHING
        if most.tokens <= cost.tokens:
            each = calls / max(1, cost.calls)
            return Cost(calls, int(each * cost.input_tokens), int(each * cost.output_tokens), each * cost.usd)
        read, written = most.input_tokens - cost.input_tokens, most.output_tokens - cost.output_tokens
        return Cost(calls, max(0, read), max(0, written), max(0.0, most.usd - cost.usd))


class Book:
    """All that stands in a ledger."""

    def __init__(self) -> None:
        self.legs: dict[str, Leg] = {}
        self.lives: dict[str, Life] = {}
        self.damaged = 0
        """Lines that could not be read."""

    def read(self, lines: bytes) -> None:
        """Take over whole lines, the oldest first."""
        for line in lines.split(b"\n"):
            if line and not line.isspace():
                record = _decoded(line)
                if record is None or not self._take(record):
                    self.damaged += 1

    def _take(self, record: Mapping[str, Any]) -> bool:
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            if "leg" in record:
                one = dict(record["leg"])
                caps, prices = Caps(**one.pop("caps")), {name: tuple(two) for name, two in one.pop("prices").items()}
                leg = Leg(**one, caps=caps, prices=cast("dict[str, tuple[float, float]]", prices))
                self.legs[leg.id] = leg
            elif "life" in record:
                one = dict(record["life"])
                spent, most = tuple(Spent(*entry) for entry in one.pop("spent")), Cost(*one.pop("most"))
                life = Life(**one, spent=spent, most=most)
                self.lives[life.id] = replace(life, process=tuple(life.process))
            else:
                life = self.lives[record["of"]]
                self.lives[life.id] = replace(life, most=Cost(*record["most"]), at=record["at"])
            return True
        return False

    def lines(self) -> bytes:
        """The shortest ledger that says the same."""
        return b"".join([*map(leg_line, self.legs.values()), *map(life_line, self.lives.values())])

    def legs_of(self, folder: str) -> list[Leg]:
        """The runs into one folder, in the order in which they were begun."""
        return sorted((leg for leg in self.legs.values() if leg.folder == folder), key=lambda leg: leg.started)

    def lives_of(self, leg: Leg) -> list[Life]:
        return [life for life in self.lives.values() if life.leg == leg.id]

    def spent_by(self, leg: Leg) -> tuple[Spent, ...]:
        """What a run spent, by step and model; what may have been spent by lives that were killed is estimated."""
        account = Account()
        for life in self.lives_of(leg):
            for entry in life.spent:
                account.add(entry)
            if life.unknown != NOTHING:
                account.add(estimate(life.unknown))
        return account.entries


def leg_line(leg: Leg) -> bytes:
    return _encoded({"leg": asdict(leg)})


def life_line(life: Life) -> bytes:
    fields = {name: getattr(life, name) for name in ("id", "leg", "process", "at", "has_ended")}
    return _encoded({"life": fields | {"spent": [tuple(entry) for entry in life.spent], "most": _numbers(life.most)}})


def most_line(life: Life) -> bytes:
    """Shorter: nothing but the most has changed."""
    return _encoded({"of": life.id, "at": life.at, "most": _numbers(life.most)})


def _numbers(cost: Cost) -> tuple[int, int, int, float]:
    return cost.calls, cost.input_tokens, cost.output_tokens, cost.usd


def _encoded(record: Mapping[str, Any]) -> bytes:
    content = orjson.dumps({"v": VERSION, **record})
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _decoded(line: bytes) -> Mapping[str, Any] | None:
    content = line[_CRC_CHARACTERS + 1 :]
    if line[:_CRC_CHARACTERS] != b"%08x" % zlib.crc32(content):
        return None
    try:
        record: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, Any]", record) if isinstance(record, dict) else None


def this_process() -> tuple[str, int, float]:
    """What tells this process from all others: machine, number and start."""
    return _machine(), os.getpid(), _start_of(os.getpid())


def is_gone(process: tuple[str, int, float]) -> bool:
    """Whether a process of this machine has ended; of another machine's nobody knows."""
    machine, number, start = process
    return machine == _machine() and _start_of(number) != start


def _machine() -> str:
    """This machine since it was started, as far as its processes see one another."""
    seen = [os.uname().nodename]
    with suppress(OSError):
        seen += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(seen)


def _start_of(process: int) -> float:
    """When a process of this machine started; 0 where it is none, or a zombie."""
    import psutil

    try:
        found = psutil.Process(process)
        return 0.0 if found.status() == psutil.STATUS_ZOMBIE else found.create_time()
    except psutil.NoSuchProcess:
        return 0.0
