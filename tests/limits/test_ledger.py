"""The ledger of a call log: several lives write to it, are killed, and none forgets what it spent."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import gettempdir

import pytest

from raypipe.limits import Caps, Cost, LedgerPlace, Spent
from raypipe.limits.ledger import Book, Leg, leg_line
from raypipe.limits.ledger_store import LedgerFile, ledger_at
from raypipe.limits.life import LifeLedger
from raypipe.limits.messages import NOTHING
from raypipe.storage.paths import parse_path

ONE = Cost(1, 10, 5, 0.5)


def opened(calls: Path, leg: str = "leg") -> LifeLedger:
    return LedgerPlace(calls, leg).open()


def killed(calls: Path, most: int) -> None:
    """A process that covers so many calls, and is killed."""
    program = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from raypipe.limits import Caps, Cost, LedgerPlace\n"
        "life = LedgerPlace(Path(sys.argv[1]), 'killed').open()\n"
        f"life.cover(Cost({most}, {10 * most}, {5 * most}, {0.5 * most}), Cost(1), Caps(calls=10**6))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(calls)], check=False).returncode == -9


def test_what_a_killed_life_covered_counts_as_spent(tmp_path: Path) -> None:
    killed(tmp_path, 7)
    mine = opened(tmp_path)
    assert mine.others.gone == mine.others.most == mine.others.lost == Cost(7, 70, 35, 3.5)
    mine.cover(Cost(9), Cost(1), Caps(calls=10))
    assert mine.covered.calls == 3


def test_lives_that_go_on_share_a_cap(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    one.cover(Cost(6), Cost(1), Caps(calls=10))
    two.cover(Cost(9), Cost(1), Caps(calls=10))
    assert (one.covered.calls, two.covered.calls) == (6, 4)
    assert two.others.gone == NOTHING, "it may be given back"
    one.close((Spent("s", "m", 2),))
    two.cover(Cost(9), Cost(1), Caps(calls=10))
    assert (two.covered.calls, two.others.gone.calls) == (8, 2)


def test_lives_over_a_log_in_a_store_share_a_cap(bucket: str) -> None:
    calls = parse_path(f"{bucket}/out/calls")
    one, two = (LedgerPlace(calls, "leg").open() for _ in range(2))
    one.cover(Cost(6), Cost(1), Caps(calls=10))
    two.cover(Cost(9), Cost(1), Caps(calls=10))
    assert (one.covered.calls, two.covered.calls) == (6, 4)
    one.close((Spent("s", "m", 2),))
    two.cover(Cost(9), Cost(1), Caps(calls=10))
    assert (two.covered.calls, two.others.gone.calls) == (8, 2)
    [ended] = [life for life in ledger_at(calls).update(lambda book: b"").lives.values() if life.has_ended]
    assert ended.cost == Cost(2)


def spend(calls: str, seed: int, cap: int) -> int:
    """How much a process could cover one by one."""
    rng, life, spent = random.Random(seed), LedgerPlace(Path(calls), "leg").open(), 0
    while True:
        life.cover(Cost(spent + 1), Cost(1), Caps(calls=cap))
        if life.covered.calls <= spent:
            break
        spent += 1
        if rng.random() < 0.3:
            life.note(partial(tuple, [Spent("s", "m", spent)]), Cost(spent))
    life.close((Spent("s", "m", spent),))
    return spent


def test_processes_at_once_never_pass_a_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Their modules are found as in a fresh process: pipeline files of other tests have put their folders there.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not Path(place).is_relative_to(gettempdir())])
    with get_context("spawn").Pool(3) as processes:
        spent = processes.starmap(spend, [(str(tmp_path), seed, 200) for seed in range(3)])
    assert sum(spent) == 200
    book = ledger_at(tmp_path).update(lambda book: b"")
    assert sum(life.cost.calls for life in book.lives.values()) == 200


@pytest.mark.parametrize("seed", range(20))
def test_damaged_lines_are_mended_by_the_next(tmp_path: Path, seed: int) -> None:
    rng, life = random.Random(seed), opened(tmp_path)
    path = tmp_path / "_ledger.jsonl"
    life.cover(Cost(5), Cost(1), Caps(calls=10))
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    with path.open("ab") as file:
        file.write(b"0000 {torn")
    life.close((Spent("s", "m", 3, 0, 0, 30, 3, 0.3),))
    book = LedgerFile(tmp_path).update(lambda book: b"")
    assert book.damaged >= 1
    assert [one.cost for one in book.lives.values() if one.has_ended] == [Cost(3, 30, 3, 0.3)]
    assert opened(tmp_path).others.gone.calls == 3


def test_a_long_file_is_written_anew_and_others_go_on(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    for number in range(1, 9000):
        one.cover(Cost(10 * number), Cost(0), Caps(calls=10**9))
    assert os.path.getsize(tmp_path / "_ledger.jsonl") < 2**21
    two.cover(Cost(1), Cost(1), Caps(calls=89_990 + 5))
    assert two.covered.calls == 1
    assert two.others.most.calls == 10 * 8999


def test_calls_whose_tokens_nobody_counted_are_taken_for_usual_ones(tmp_path: Path) -> None:
    life = opened(tmp_path)
    life.note(lambda: (), NOTHING)
    book = Book()
    book.read(leg_line(Leg("leg", "folder")))
    life.cover(Cost(4), Cost(1), Caps(calls=10))
    store = LedgerFile(tmp_path)
    [one] = store.update(lambda book: b"").lives.values()
    assert one.unknown == Cost(4)
    assert replace(one, spent=(Spent("s", "m", 2, 0, 0, 20, 8, 1.0),)).unknown == Cost(2, 20, 8, 1.0)
