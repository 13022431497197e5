"""Measures the processor time and memory of a process and all its descendants, also of those that end meanwhile."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import psutil


class Tree:
    """`with Tree() as tree: …`, then `tree.cpu_s` (user + system, seconds) and `tree.peak_bytes` (unshared memory)."""

    def __init__(self, every_s: float = 0.2) -> None:
        self._every_s = every_s
        self._seen: dict[int, float] = {}
        self._ended = threading.Event()
        self.peak_bytes = 0

    def _sample(self) -> None:
        me = psutil.Process()
        memory = 0
        for process in [me, *me.children(recursive=True)]:
            try:
                times = process.cpu_times()
                memory += process.memory_info().rss - process.memory_info().shared
                self._seen[process.pid] = times.user + times.system
            except psutil.Error:
                continue
        self.peak_bytes = max(self.peak_bytes, memory)

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            self._sample()

    def __enter__(self) -> Self:
        self._sample()
        self._start = sum(self._seen.values())
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._sample()
        self.wall_s = time.monotonic() - self._began
        self.cpu_s = sum(self._seen.values()) - self._start
