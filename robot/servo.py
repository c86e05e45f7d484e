"""The thread between a control loop at 10 to 50 Hz and an arm that wants a smooth reference at 100 to 500 Hz.

Newest target in, a path inside the limits out. It damages less when the loop stalls or jumps; it is not a safety function.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from .clock import Clock, MonotonicClock
from .errors import ConfigError, SafetyStop
from .interpolator import Interpolator, MotionLimits, Setpoint
from .types import Floats
from .worker import Worker

MAX_STEP_S = 0.02  # a tick that comes later than this moves the path no further: it waits for the arm, it does not jump


@dataclass(frozen=True)
class ServoCfg:
    """Rate and patience of a servo."""

    hz: float = 200.0
    """Setpoints a second, 100 to 500."""
    timeout_s: float = 0.2
    """Without a fresh target for this long the arm brakes and holds, s; two ticks of a loop at 10 Hz."""

    def __post_init__(self) -> None:
        if not 100.0 <= self.hz <= 500.0:
            raise ConfigError(f"a servo runs at 100 to 500 Hz, got {self.hz}")
        if not 0.0 < self.timeout_s <= 1.0:
            raise ConfigError(f"a servo's timeout_s must be in (0, 1] s, got {self.timeout_s}")


@dataclass(frozen=True)
class ServoStats:
    """What a servo has done since it was made."""

    ticks: int  # setpoints sent
    overruns: int  # slots of the schedule that had passed before the previous tick was done; they are skipped
    timeouts: int  # times the arm was braked because no fresh target came while it was on its way to one


class Servo:
    """Sends setpoints at its own rate while its context is open; any thread may command, hold and read.

    A target counts as fresh for `timeout_s`. Then the arm brakes inside the limits and holds until the next one. Whatever
    `send` raises is kept: the servo has stopped, and every later `command` and `read` raises it. Make a new servo to go on.
    """

    def __init__(
        self,
        name: str,
        limits: MotionLimits,
        q: Floats,
        send: Callable[[Setpoint], None],
        cfg: ServoCfg | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`name` of the arm, for messages; `q` (dof,) rad: the measured pose, where the path starts."""
        self._name, self._send = name, send
        self._cfg, self._clock = cfg or ServoCfg(), clock or MonotonicClock()
        self._path = Interpolator(limits, q)
        self._lock = threading.Lock()  # path, fresh_until and counters
        self._last_tick = self._clock.now()
        self._fresh_until: float | None = None  # None: braking, or holding
        self._ticks = self._overruns = self._timeouts = 0
        self._start = self._last_tick
        self._slot = 0  # of the schedule; only the thread counts it
        self._worker = Worker(name, "servo", self._next_slot)

    def __enter__(self) -> Self:
        self._start = self._clock.now()
        self._worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sending; the last setpoint stays in force. Hold and wait for `at_rest` before, if the arm moves."""
        self._worker.close()

    def command(self, q: Floats) -> Floats:
        """Lead to `q` (dof,) rad from now on; returns it as clipped to the joint range.

        Raises SafetyStop and holds if `q` is not a finite vector of the right length; raises what `send` raised.
        """
        self._worker.check()
        if q.shape != self._path.limits.q_min.shape or not np.isfinite(q).all():
            self.hold()
            raise SafetyStop(
                f"{self._name} wants a finite joint target of shape {self._path.limits.q_min.shape}, got {q}"
            )
        with self._lock:
            self._fresh_until = self._clock.now() + self._cfg.timeout_s
            return self._path.aim(q)

    def hold(self) -> None:
        """Brake inside the limits and stay. Idempotent, from any thread; the next command moves again."""
        with self._lock:
            if self._fresh_until is not None:
                self._fresh_until = None
                self._path.brake()

    def read(self) -> Setpoint:
        """The newest setpoint. Raises what `send` raised."""
        self._worker.check()
        with self._lock:
            return self._path.setpoint

    @property
    def failed(self) -> bool:
        """Whether `send` raised something: nothing is sent any more."""
        return self._worker.failed

    @property
    def at_rest(self) -> bool:
        with self._lock:
            return self._path.at_rest

    @property
    def stats(self) -> ServoStats:
        with self._lock:
            return ServoStats(self._ticks, self._overruns, self._timeouts)

    def tick(self) -> None:
        """Send one setpoint for now: what the thread does at every slot of its schedule."""
        with self._lock:
            now = self._clock.now()
            dt, self._last_tick = min(now - self._last_tick, MAX_STEP_S), now
            if self._fresh_until is not None and now > self._fresh_until:
                self._fresh_until = None
                self._timeouts += not self._path.at_rest
                self._path.brake()
            setpoint = self._path.step(dt)
            self._ticks += 1
        self._send(setpoint)

    def _next_slot(self) -> None:
        period = 1.0 / self._cfg.hz
        self._clock.sleep_until(self._start + self._slot * period)
        self.tick()
        missed = max(0, int((self._clock.now() - self._start) / period + 1e-9) - self._slot)
        with self._lock:
            self._overruns += missed
        self._slot += missed + 1
