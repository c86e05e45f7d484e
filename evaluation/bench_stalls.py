"""When the machine let nobody run: a process of the highest priority that only sleeps notes when it wakes late.

Virtual machines stand still while their host is busy, or has given them all the processor time that they were promised; real
ones do so in firmware. No program can do anything about it, so a benchmark has to know it.

`python -m armflow.evaluation.bench_stalls` watches until its standard input ends, and prints [[from, to], ...], s.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np

TICK_S = 0.001
LATE_S = 0.002  # of a tick that is a stall
PRIORITY = 50  # far above the control loop's

Span = tuple[float, float]
"""From and to, s, monotonic clock."""
Period = tuple[float, float, float]
"""From and to, s, monotonic clock, and its error, s."""


class StallWatch:
    """Watches in a process of its own while the context is open."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def end(self) -> list[Span]:
        """The stalls until now."""
        out, _ = self._process.communicate()
        return [(start, end) for start, end in json.loads(out)]


def quantile_outside(share: float, count: int, worst: Sequence[Period], stalls: Sequence[Span]) -> float:
    """A high quantile, s, of the errors of `count` periods, of which `worst` are the largest in falling order, without those
    that a stall touched. A period begins where the one before ended late, so both are touched."""
    touched = [any(a < end and b > start - error for a, b in stalls) for start, end, error in worst]
    left = [error for (_, _, error), hit in zip(worst, touched, strict=True) if not hit]
    rank = (1 - share) * (count - sum(touched) - 1)  # from the largest downwards
    return float(np.interp(rank, range(len(left)), left)) if left else 0.0


def main() -> None:
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    stalls: list[Span] = []
    last = time.monotonic()
    while not over.is_set():
        time.sleep(TICK_S)
        now = time.monotonic()
        if now - last > TICK_S + LATE_S:
            stalls.append((last, now))
        last = now
    json.dump(stalls, sys.stdout)


if __name__ == "__main__":
    main()
