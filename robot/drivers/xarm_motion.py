"""The xArm's joint online planning (mode 6) behind the face of a servo: the control box makes the path, this brakes it.

The control box leads to its last target for ever; without a fresh one a thread has it brake and hold.
"""

import threading
from collections.abc import Callable
from typing import Protocol, Self

import numpy as np

from ..clock import Clock
from ..errors import DeviceError, SafetyStop
from ..interpolator import MotionLimits, Setpoint
from ..servo import ServoStats
from ..types import Floats
from ..worker import Worker

POLL_S = 0.01  # how often the watchdog looks
ON_ITS_WAY_S = 0.02  # until a measured speed has become a target that is obeyed; with less the arm swings back


class Motion(Protocol):
    """What the driver wants of a way to move: `Servo` is one, `OnlinePlanning` the other."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def command(self, q: Floats) -> Floats: ...
    def hold(self) -> None: ...
    def read(self) -> Setpoint: ...
    @property
    def failed(self) -> bool: ...
    @property
    def at_rest(self) -> bool: ...
    @property
    def stats(self) -> ServoStats: ...


class OnlinePlanning:
    """Passes targets on while its context is open; any thread may command, hold and read."""

    def __init__(
        self,
        name: str,
        limits: MotionLimits,
        q: Floats,
        send: Callable[[Floats], None],
        where: Callable[[], tuple[Floats, Floats]],
        stop: Callable[[], None],
        timeout_s: float,
        clock: Clock,
    ) -> None:
        """`q` (dof,) rad: the measured pose; `send` a target; `where` the arm is and how fast it moves, rad and rad/s;
        `stop` somehow: if braking fails."""
        self._name, self._limits, self._send, self._where, self._stop = name, limits, send, where, stop
        self._timeout_s, self._clock = timeout_s, clock
        self._lock = threading.Lock()  # keeps targets in order, and counters
        self._target = q
        self._fresh_until: float | None = None  # None: braking, or holding
        self._commands = self._timeouts = 0
        self._worker = Worker(name, "watchdog", self._watch)

    def __enter__(self) -> Self:
        self._worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def command(self, q: Floats) -> Floats:
        """Lead to `q` (dof,) rad from now on; returns it as clipped to the joint range.

        Raises SafetyStop and holds if `q` is not a finite vector of the right length.
        """
        self._worker.check()
        if q.shape != self._limits.q_min.shape or not np.isfinite(q).all():
            self.hold()
            raise SafetyStop(f"{self._name} wants a finite joint target of shape {self._limits.q_min.shape}, got {q}")
        with self._lock:
            self._fresh_until = self._clock.now() + self._timeout_s
            self._aim(np.clip(q, self._limits.q_min, self._limits.q_max))
            self._commands += 1
            return self._target

    def hold(self) -> None:
        """Brake inside the limits and stay. Idempotent, from any thread; the next command moves again.

        If that fails the arm is stopped, and the DeviceError raised.
        """
        with self._lock:
            self._brake()

    def read(self) -> Setpoint:
        """Where the control box leads to. Raises what stopped the watchdog."""
        self._worker.check()
        with self._lock:
            return Setpoint(self._target, np.zeros_like(self._target), np.zeros_like(self._target))

    @property
    def failed(self) -> bool:
        return self._worker.failed

    @property
    def at_rest(self) -> bool:
        return not self._moving(self._where()[1])

    @property
    def stats(self) -> ServoStats:
        """Commands count as ticks; the control box has the schedule, so nothing overruns."""
        with self._lock:
            return ServoStats(self._commands, 0, self._timeouts)

    def _watch(self) -> None:
        self._clock.sleep_until(self._clock.now() + POLL_S)
        with self._lock:
            if self._fresh_until is not None and self._clock.now() > self._fresh_until:
                self._timeouts += self._brake()

    def _brake(self) -> bool:
        """Aim at where the arm comes to rest from its present speed; whether it was moving."""
        if self._fresh_until is None:
            return False
        self._fresh_until = None
        try:
            q, dq = self._where()
            rest = q + dq * (np.abs(dq) / (2 * self._limits.ddq_max) + ON_ITS_WAY_S)
            self._aim(np.clip(rest, self._limits.q_min, self._limits.q_max))
        except DeviceError:
            self._stop()
            raise
        return self._moving(dq)

    def _aim(self, q: Floats) -> None:
        self._send(q)
        self._target = q

    @staticmethod
    def _moving(dq: Floats) -> bool:
        return bool(np.abs(dq).max() > 0.01)  # rad/s, above the noise of standing joints
