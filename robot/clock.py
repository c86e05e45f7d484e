"""Time as an argument: the wall's monotonic clock, or a simulated one that only moves when told to."""

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds on a monotonic scale."""
        ...

    def sleep_until(self, t: float) -> None:
        """Return once `now() >= t`; at once if that is already so."""
        ...


class MonotonicClock:
    """`time.monotonic`, sleeping coarsely and then spinning the last half millisecond."""

    SPIN_S = 0.0005  # the scheduler wakes late by up to this much on an idle Linux box

    def now(self) -> float:
        return time.monotonic()

    def sleep_until(self, t: float) -> None:
        while (left := t - time.monotonic()) > 0:
            if left > self.SPIN_S:
                time.sleep(left - self.SPIN_S)


class SimClock:
    """Starts at zero and jumps to whatever time is slept for: as fast as possible, fully repeatable."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def sleep_until(self, t: float) -> None:
        self._now = max(self._now, t)
