"""The Franka Hand as an opening between 0 and 1: its SDK's calls block for the whole motion, so threads make them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from .. import fr3
from ..errors import ConfigError, OperatorNeeded, StaleReading
from ..worker import Worker

MAX_WIDTH_M = fr3.SPEC.gripper_width_m
HOMED_WIDTH_M = 0.01  # a hand that has not been homed reports a stroke of about zero
POLL_S = 0.05  # how often the idle sender looks whether it is to end
PATIENCE_S = 5.0  # full stroke at the slowest sensible speed takes 2 s


@dataclass(frozen=True)
class HandCfg:
    """How the fingers move."""

    speed_m_s: float = 0.1
    """Speed of the opening's width, m/s."""
    force_n: float = 30.0
    """Force of a grasp, N; the hand is rated for 70 N continuously."""
    hysteresis: float = 0.1
    """An opening that differs by less from the one sent last is not sent, 0..1."""
    grasp_below: float = 0.5
    """Closing to less than this opening is a grasp: the fingers close with `force_n` until something stops them, 0..1."""
    max_age_s: float = 0.5
    """A measured width older than this is an error, s; the hand reports about 20 a second."""

    def __post_init__(self) -> None:
        if not (0 < self.speed_m_s <= 0.2 and 0 < self.force_n <= 70):
            raise ConfigError(f"a Franka Hand moves at up to 0.2 m/s with up to 70 N, got {self}")
        if not (0 < self.hysteresis < 1 and 0 < self.grasp_below < 1 and self.max_age_s > 0):
            raise ConfigError(f"hysteresis and grasp_below are openings in (0, 1), max_age_s is positive, got {self}")


class HandState(Protocol):
    """What the SDK reports, in m."""

    @property
    def width(self) -> float: ...
    @property
    def max_width(self) -> float: ...


class HandPort(Protocol):
    """What is used of the SDK's gripper; every call blocks."""

    @property
    def state(self) -> HandState: ...
    def move(self, width: float, speed: float) -> bool: ...
    def grasp(
        self, width: float, speed: float, force: float, epsilon_inner: float = ..., epsilon_outer: float = ...
    ) -> bool: ...


class FrankaHand:
    """Newest opening wins: a motion under way is finished first, what was asked for in between is skipped.

    A grasp that closes on nothing and a move that an object stops are no errors: the measured opening tells. What the SDK
    raises is kept, and every later `command` and `read` raises it.
    """

    def __init__(self, name: str, port: HandPort, now: Callable[[], float], cfg: HandCfg | None = None) -> None:
        """`now`: monotonic time, s. Raises OperatorNeeded if the hand has not been homed."""
        self._name, self._port, self._now, self._cfg = name, port, now, cfg or HandCfg()
        state = port.state
        if state.max_width < HOMED_WIDTH_M:
            raise OperatorNeeded(f"{name}: the hand is not homed; clear its fingers and home it in Desk")
        self._max_width_m = state.max_width
        self._measured = (now(), state.width)
        self._sent = self._wanted = state.width / MAX_WIDTH_M
        self._grasping = False  # the last thing sent was a grasp
        self._changed = threading.Condition()
        self._reader = Worker(name, "hand's reader", self._measure, patience_s=PATIENCE_S)
        self._sender = Worker(name, "hand", self._send_newest, patience_s=PATIENCE_S)

    def __enter__(self) -> Self:
        self._reader.start()
        self._sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()
        self._reader.close()
        del self._port  # the SDK disconnects when its object goes, and a kept error would keep it

    def command(self, opening: float) -> float:
        """Ask for an opening; returns it as clipped to 0..1."""
        self._sender.check()
        with self._changed:
            self._wanted = min(max(opening, 0.0), 1.0)
            self._changed.notify()
            return self._wanted

    def hold(self) -> None:
        """Send nothing that is not on its way; a grasped object stays grasped."""
        with self._changed:
            self._wanted = self._sent

    def read(self) -> float:
        """Measured opening, 0..1."""
        self._sender.check()
        self._reader.check()
        t, width = self._measured
        age = self._now() - t
        if age > self._cfg.max_age_s:
            raise StaleReading(self._name, f"the hand's width is {age:.2f} s old, allowed is {self._cfg.max_age_s} s")
        return min(width / MAX_WIDTH_M, 1.0)

    def _measure(self) -> None:
        self._measured = (self._now(), self._port.state.width)

    def _send_newest(self) -> None:
        with self._changed:
            if not self._changed.wait_for(self._due, timeout=POLL_S):
                return
            closing = self._wanted < self._sent
            self._sent = goal = self._wanted
            self._grasping = grasp = closing and goal < self._cfg.grasp_below
        width = min(goal * MAX_WIDTH_M, self._max_width_m)
        if grasp:
            # Any width counts as grasped: what is in the way is not known beforehand.
            self._port.grasp(
                width, self._cfg.speed_m_s, self._cfg.force_n, epsilon_inner=MAX_WIDTH_M, epsilon_outer=MAX_WIDTH_M
            )
        else:
            self._port.move(width, self._cfg.speed_m_s)

    def _due(self) -> bool:
        """Whether the wanted opening differs enough from the last one sent; fully open and closed are always reached."""
        change = abs(self._wanted - self._sent)
        at_an_end = self._wanted in (0.0, 1.0) and change > 0
        closing_already = self._grasping and self._wanted < self._sent
        return not closing_already and (at_an_end or change > self._cfg.hysteresis)
