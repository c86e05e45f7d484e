"""The xArm Gripper, first or second generation, as an opening between 0 and 1.

It hangs on a slow serial line at the tool (tens of ms a message), so a thread of its own talks to it over a connection of
its own: on the arm's it would hold up the stream of targets.
"""

import importlib
import threading
from dataclasses import dataclass
from typing import Any, Literal, Self

from ..clock import Clock
from ..errors import ConfigError, DeviceFault, OperatorNeeded, StaleReading
from ..worker import Worker
from .xarm_link import NAME, XArmLink

BAUD = 2_000_000
STROKE_M = 0.084
FIRST_OPEN, SECOND_OPEN = 850.0, 84.0  # the SDK's units of a full opening: pulses, mm
PATIENCE_S = 5.0


@dataclass(frozen=True)
class XArmGripperCfg:
    """Which gripper, and how its fingers move."""

    generation: Literal[1, 2] = 1
    """1: xArm Gripper, 2: xArm Gripper G2."""
    speed: float = 0.5
    """Fraction of the full speed, (0, 1]."""
    force: float = 0.5
    """Fraction of the full force, (0, 1]; only the second generation has a choice."""
    hysteresis: float = 0.03
    """An opening that differs by less from the one sent last is not sent, 0..1."""
    hz: float = 8.0
    """Commands and readings a second, at most."""
    max_age_s: float = 1.0
    """A measured opening older than this is an error, s."""

    def __post_init__(self) -> None:
        if self.generation not in (1, 2):
            raise ConfigError(f"there are xArm Grippers of generation 1 and 2, got {self.generation}")
        if not (0 < self.speed <= 1 and 0 < self.force <= 1 and 0 < self.hysteresis < 1):
            raise ConfigError(f"speed and force are in (0, 1], hysteresis is in (0, 1), got {self}")
        if not (0 < self.hz <= 10 and self.max_age_s > 1 / self.hz):
            raise ConfigError(f"hz must be in (0, 10] and max_age_s longer than a period, got {self}")


class XArmGripper:
    """Newest opening wins. What goes wrong in the thread is raised by every later `command` and `read`."""

    def __init__(self, link: XArmLink, clock: Clock, cfg: XArmGripperCfg) -> None:
        self._link, self._clock, self._cfg = link, clock, cfg
        self._changed = threading.Lock()
        self._wanted: float | None = None  # None: nobody has asked for anything yet
        self._sent = -1.0
        self._measured = (0.0, 0.0)  # when, s, and the opening
        self._worker = Worker(NAME, "gripper", self._cycle, patience_s=PATIENCE_S)

    def __enter__(self) -> Self:
        """Enable the gripper and read it once. Raises OperatorNeeded if the serial line has another speed."""
        baud = self._link.call("get_rs485_baudrate")
        if baud != BAUD:
            raise OperatorNeeded(
                f"{NAME}: the tool's RS485 line runs at {baud} baud; set {BAUD} in UFACTORY Studio and see that the gripper "
                "is mounted"
            )
        if self._cfg.generation == 1:
            self._link.call("set_gripper_enable", True)
            self._link.call("set_gripper_mode", 0)
            self._link.call("set_gripper_speed", round(1000 + 4000 * self._cfg.speed))  # r/min
        self._measure()
        self._worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def command(self, opening: float) -> float:
        """Ask for an opening; returns it as clipped to 0..1."""
        self._worker.check()
        with self._changed:
            self._wanted = min(max(opening, 0.0), 1.0)
            return self._wanted

    def hold(self) -> None:
        """Send nothing that is not on its way; a grasped object stays grasped."""
        with self._changed:
            self._wanted = None

    def read(self) -> float:
        """Measured opening, 0..1."""
        self._worker.check()
        t, opening = self._measured
        age = self._clock.now() - t
        if age > self._cfg.max_age_s:
            raise StaleReading(NAME, f"the gripper's opening is {age:.2f} s old, allowed is {self._cfg.max_age_s} s")
        return opening

    def clear(self) -> None:
        """Clear the gripper's own errors: only when an operator asks for it, before it is entered."""
        self._link.call("clean_gripper_error")

    def _cycle(self) -> None:
        start = self._clock.now()
        with self._changed:
            wanted = self._wanted
        if wanted is not None and self._due(wanted):
            self._send(wanted)
            self._sent = wanted
        self._measure()
        self._clock.sleep_until(start + 1 / self._cfg.hz)

    def _due(self, wanted: float) -> bool:
        change = abs(wanted - self._sent)
        return change > self._cfg.hysteresis or (wanted in (0.0, 1.0) and change > 0)

    def _send(self, opening: float) -> None:
        # Without wait_motion=False the SDK waits until the arm stands.
        how: dict[str, Any] = {"wait": False, "wait_motion": False}
        if self._cfg.generation == 1:
            self._link.call("set_gripper_position", round(FIRST_OPEN * opening), **how)
        else:
            speed, force = round(15 + 210 * self._cfg.speed), max(1, round(100 * self._cfg.force))  # mm/s, %
            self._link.call("set_gripper_g2_position", SECOND_OPEN * opening, speed=speed, force=force, **how)

    def _measure(self) -> None:
        error = self._link.call("get_gripper_err_code")
        if error:
            said = importlib.import_module("xarm.core.config.x_code").GripperError(error)
            raise DeviceFault(
                NAME,
                f"gripper error G{error}, {said.title['en']}: {said.description['en'].rstrip('.')}; free the fingers, "
                "then call recover()",
            )
        if self._cfg.generation == 1:
            opening = self._link.call("get_gripper_position") / FIRST_OPEN
        else:
            opening = self._link.call("get_gripper_g2_position") / SECOND_OPEN
        self._measured = (self._clock.now(), min(max(opening, 0.0), 1.0))
