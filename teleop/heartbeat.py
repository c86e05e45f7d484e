"""Keys that somebody at the far end of a connection holds: a dead-man that needs no message to let go.

What the far end says carries a stamp, the newest time of this computer's clock that it had been told by then. So it was
true after that time, whatever clocks, buffers and stalls lie between, and it counts until the stamp is `LIMIT_S` old. Silence,
a slow connection and a burst after a stall are all the same: what is too old lets go of everything.
"""

import threading
import time
from collections.abc import Callable, Set

from .device import TeleopInput
from .keys import HeldKeys

# The arm goes on for so long at most: 3 cm at full speed. A beat every 50 ms, and 150 ms for there and back.
LIMIT_S = 0.25


class Heartbeats(HeldKeys):
    """The keys of `keys.py`, held while beats say so. Whoever was let go of by force has to let go of everything once before
    a key counts again: nobody's arm starts because a connection is back."""

    def __init__(
        self, control_hz: float, *, limit_s: float = LIMIT_S, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`now`: monotonic, s, the clock of the stamps."""
        super().__init__(control_hz)
        self._limit_s, self._now = limit_s, now
        self._beat_lock = threading.Lock()
        self._counts_until_s = 0.0
        self._trusted = False  # all keys have been seen released since the last time they were let go of by force

    def beat(self, stamp_s: float, held: Set[str]) -> None:
        """These keys were held at some time after `stamp_s`. A stamp that is old or from the future lets go of all."""
        with self._beat_lock:
            now = self._now()
            self._expire(now)
            if not 0 <= now - stamp_s <= self._limit_s:
                self._drop()
                return
            self._counts_until_s = stamp_s + self._limit_s
            self._trusted |= not held
            if self._trusted:
                self._hold(held)

    def drop(self) -> None:
        """Let go of all by force: nobody is there, or somebody else."""
        with self._beat_lock:
            self._drop()

    def wish(self) -> TeleopInput:
        with self._beat_lock:
            self._expire(self._now())
        return super().wish()

    @property
    def engaged(self) -> bool:
        """Whether the dead-man is held."""
        with self._beat_lock:
            self._expire(self._now())
            return "shift" in self.held

    @property
    def trusted(self) -> bool:
        """False: everything has to be let go of before a key counts."""
        with self._beat_lock:
            return self._trusted

    def _expire(self, now: float) -> None:
        if now > self._counts_until_s:
            self._drop()

    def _drop(self) -> None:
        self._hold(frozenset())
        self._trusted = False

    def _hold(self, held: Set[str]) -> None:
        before = self.held
        for key in before - held:
            self.release(key)
        for key in sorted(held - before, key=lambda key: key != "shift"):  # first, since it decides what space means
            self.press(key)
