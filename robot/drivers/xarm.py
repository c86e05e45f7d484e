"""UFACTORY xArm7 with an xArm Gripper through xarm-python-sdk. Not a safety function.

Joint online planning (mode 6) takes targets of a loop at 10 to 50 Hz as they are; servo mode (mode 1) jumps to every point
at once, so the servo makes the path. Neither has a watchdog: ours brakes. Nothing is ever cleared by itself: after a fault
an operator looks and calls `recover`.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

from .. import xarm7
from ..clock import Clock, MonotonicClock
from ..errors import ConfigError, DeviceError, DeviceFault, DeviceTimeout
from ..interpolator import MotionLimits, Setpoint
from ..servo import Servo, ServoCfg, ServoStats
from ..types import ArmCommand, ArmState, Floats
from .leaving import leave
from .xarm_gripper import XArmGripper, XArmGripperCfg
from .xarm_link import NAME, READY, XArmLink
from .xarm_motion import Motion, OnlinePlanning
from .xarm_safety import XArmSafetyCfg, apply_safety

MODES = {"online": 6, "servo": 1}
OLDEST_FIRMWARE = (1, 10, 0)  # has joint online planning
MAX_SERVO_HZ = 250.0  # the control box drops what comes faster
READY_WITHIN_S = 3.0
REST_WITHIN_S = 3.0


@dataclass(frozen=True)
class XArmCfg:
    """One xArm7 and how it is driven. Fractions are of the limits in `robot/xarm7.py`."""

    host: str
    """Address of the control box, by name or number."""
    motion: Literal["online", "servo"] = "online"
    """Who makes a path of the targets: the control box (joint online planning) or our servo (servo mode)."""
    speed_scale: float = 0.3
    """Fraction of the joints' speed; not less than the safety filter's, or the arm falls behind."""
    acceleration_scale: float = 0.3
    """Fraction of the joints' acceleration, 20 rad/s^2."""
    jerk_scale: float = 0.2
    """Fraction of 500 rad/s^3; only the servo uses it."""
    joint_margin_rad: float = 0.05
    """Distance kept from each end of the joint range, rad."""
    watchdog_s: float = 0.2
    """Without a fresh target for this long the arm brakes and holds, s; two ticks of a loop at 10 Hz."""
    servo_hz: float = 200.0
    """Rate of the servo's setpoints, 100 to 250."""
    safety: XArmSafetyCfg = field(default_factory=XArmSafetyCfg)
    """The control box's own safety functions."""
    gripper: XArmGripperCfg = field(default_factory=XArmGripperCfg)
    """Which gripper, and how it moves."""
    max_state_age_s: float = 0.2
    """A report older than this is an error, s; the control box sends 100 a second."""
    reply_timeout_s: float = 0.2
    """How long the control box may take to answer once the arm is in control, s."""
    connect_timeout_s: float = 5.0
    """How long connecting may take, s."""

    def __post_init__(self) -> None:
        if self.motion not in MODES:
            raise ConfigError(f"motion must be one of {', '.join(MODES)}, got {self.motion!r}")
        for name in ("speed_scale", "acceleration_scale", "jerk_scale"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if not 0.0 < self.watchdog_s <= 0.2:
            raise ConfigError(f"watchdog_s must be in (0, 0.2] s, got {self.watchdog_s}")
        if not 100.0 <= self.servo_hz <= MAX_SERVO_HZ:
            raise ConfigError(f"servo_hz must be 100 to {MAX_SERVO_HZ:.0f}, got {self.servo_hz}")
        for name in ("max_state_age_s", "reply_timeout_s", "connect_timeout_s"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0.0 <= self.joint_margin_rad < 0.5:
            raise ConfigError(f"joint_margin_rad must be in [0, 0.5), got {self.joint_margin_rad}")
        fastest = float(self.limits.dq_max.max())
        if self.safety.reduced_mode and fastest > self.safety.reduced_joint_speed_rad_s:
            raise ConfigError(
                f"speed_scale {self.speed_scale} is {fastest:.2f} rad/s, reduced mode allows "
                f"{self.safety.reduced_joint_speed_rad_s} rad/s: lower the one or raise the other"
            )

    @property
    def limits(self) -> MotionLimits:
        """What the path never exceeds; the jerk is the control box's business when it plans online."""
        return MotionLimits.of(
            xarm7.SPEC,
            margin_rad=self.joint_margin_rad,
            speed_scale=self.speed_scale,
            ddq_max=self.acceleration_scale * xarm7.SPEC.ddq_max,
            jerk_max=self.jerk_scale * xarm7.JERK_MAX,
        )


class XArm7:
    """ArmDriver; a context manager that connects, takes control where the arm stands, and on the way out stops and lets go.

    `recover` is for the operator, inside the context after a fault or outside of it when `with` refuses to begin.
    """

    spec = xarm7.SPEC

    def __init__(self, cfg: XArmCfg, clock: Clock | None = None) -> None:
        self._cfg, self._clock = cfg, clock or MonotonicClock()
        self._mode = MODES[cfg.motion]
        self._link: XArmLink | None = None
        self._gripper: XArmGripper | None = None
        self._motion: Motion | None = None
        self._open = ExitStack()  # both links, gripper, motion
        self._entered = False

    def __enter__(self) -> Self:
        self._connect_and_take_control(clear=False)
        self._entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self._entered = False
        leave(self._come_to_rest, self._let_go, error)

    def read(self) -> ArmState:
        """Newest measurement; effort is the torque that the control box estimates.

        Raises DeviceFault after an error, an emergency stop or a lost connection, until `recover`; StaleReading if reports
        have stopped coming.
        """
        link, motion, gripper = self._opened()
        link.check(self._mode, self._cfg.max_state_age_s)
        motion.read()
        asked = self._clock.now()
        q, dq, effort = self._joint_states(link)
        t = (asked + self._clock.now()) / 2
        return ArmState(t=t, q=q, dq=dq, effort=effort, gripper=gripper.read())

    def command(self, cmd: ArmCommand) -> ArmCommand:
        """Send a target; returns it as clipped to the joint range (less the margin) and to an opening of 0..1."""
        link, motion, gripper = self._opened()
        if link.fault is not None:
            raise link.fault
        return ArmCommand(motion.command(cmd.q), gripper.command(cmd.gripper))

    def hold(self) -> None:
        """Brake inside the limits and stay; a grasped object stays grasped. After a fault: stop, if the box still listens."""
        link, motion, gripper = self._opened()
        gripper.hold()
        if link.fault is None:
            motion.hold()
        else:
            link.stop()

    def look(self) -> str:
        """Connect, see whether it would start, and disconnect; nothing moves. Raises what entering the context would."""
        with ExitStack() as stack:
            link = self._connect(stack, reports=False)
            link.refuse_unless_clear()
            return f"answers at {self._cfg.host}, firmware {'.'.join(map(str, link.firmware))}, without errors"

    @property
    def motion_stats(self) -> ServoStats:
        """Targets or setpoints, overruns and timeouts since control was taken."""
        return self._opened()[1].stats

    def recover(self) -> None:
        """Connect anew, clear errors and take control where the arm stands. Only for an operator who has looked at it.

        Raises OperatorNeeded while an emergency stop is pressed, DeviceFault if errors stay.
        """
        if not self._entered:
            with ExitStack() as stack:
                self._connect(stack, reports=False).clear()
        elif not self._healthy():
            self._let_go()
            self._connect_and_take_control(clear=True)

    def _healthy(self) -> bool:
        try:
            self.read()
        except DeviceError:
            return False
        return True

    def _connect_and_take_control(self, *, clear: bool) -> None:
        with ExitStack() as stack:
            link = self._connect(stack, reports=True)
            if clear:
                link.clear()
            link.refuse_unless_clear()
            stack.callback(link.stop)  # how the arm is left
            self._prepare(link)
            tool = self._connect(stack, reports=False)
            gripper = XArmGripper(tool, self._clock, self._cfg.gripper)
            if clear:
                gripper.clear()
            for one in (link, tool):
                one.limit_waiting(self._cfg.reply_timeout_s)
            stack.enter_context(gripper)
            motion = stack.enter_context(self._make_motion(link))
            self._link, self._gripper, self._motion, self._open = link, gripper, motion, stack.pop_all()

    def _connect(self, stack: ExitStack, *, reports: bool) -> XArmLink:
        link = XArmLink(self._cfg.host, self._clock, reports=reports)
        link.open(self._cfg.connect_timeout_s)
        stack.callback(link.close)
        if link.joints != self.spec.dof or link.firmware < OLDEST_FIRMWARE:
            raise ConfigError(
                f"{self._cfg.host} is an arm with {link.joints} joints and firmware {'.'.join(map(str, link.firmware))}; "
                f"expected an xArm7 with {'.'.join(map(str, OLDEST_FIRMWARE))} or later"
            )
        return link

    def _prepare(self, link: XArmLink) -> None:
        """Enable the arm in our mode with the rig's safety settings; it does not move."""
        link.call("motion_enable", True)
        link.call("set_mode", self._mode)
        apply_safety(link, self._cfg.safety)
        link.call("set_state", 0)  # settings put the arm into state 5, in which it drops commands
        deadline = self._clock.now() + READY_WITHIN_S
        while (report := link.report) is None or report.state not in READY or report.mode != self._mode:
            if self._clock.now() > deadline:
                raise DeviceTimeout(
                    NAME, f"the arm was not ready within {READY_WITHIN_S} s ({report}); look at UFACTORY Studio"
                )
            self._clock.sleep_until(self._clock.now() + 0.01)

    def _make_motion(self, link: XArmLink) -> Motion:
        cfg, limits = self._cfg, self._cfg.limits
        q = self._joint_states(link)[0]
        if cfg.motion == "servo":
            return Servo(
                NAME,
                limits,
                q,
                lambda setpoint: self._send_setpoint(link, setpoint),
                ServoCfg(hz=cfg.servo_hz, timeout_s=cfg.watchdog_s),
                self._clock,
            )
        return OnlinePlanning(
            NAME,
            limits,
            q,
            lambda target: self._send_target(link, target),
            lambda: self._joint_states(link)[:2],
            link.stop,
            cfg.watchdog_s,
            self._clock,
        )

    def _send_setpoint(self, link: XArmLink, setpoint: Setpoint) -> None:
        link.call("set_servo_angle_j", setpoint.q.tolist(), is_radian=True)

    def _send_target(self, link: XArmLink, target: Floats) -> None:
        limits = self._cfg.limits
        link.call(
            "set_servo_angle",
            angle=target.tolist(),
            speed=float(limits.dq_max.max()),
            mvacc=float(limits.ddq_max.max()),
            is_radian=True,
            wait=False,
        )

    @staticmethod
    def _joint_states(link: XArmLink) -> tuple[Floats, Floats, Floats]:
        """Positions, velocities and torques of one instant: rad, rad/s, N m."""
        q, dq, effort = link.call("get_joint_states", is_radian=True)
        return _floats(q), _floats(dq), _floats(effort)

    def _opened(self) -> tuple[XArmLink, Motion, XArmGripper]:
        if self._link is None or self._motion is None or self._gripper is None:
            raise DeviceFault(NAME, "not in control; use the arm within `with`, or call recover() again if that failed")
        return self._link, self._motion, self._gripper

    def _come_to_rest(self) -> None:
        """Hold and wait until the arm stands; after a fault there is nothing to wait for."""
        if self._link is None or self._motion is None or self._link.fault is not None:
            return
        self.hold()
        deadline = self._clock.now() + REST_WITHIN_S
        while not (self._motion.failed or self._motion.at_rest) and self._clock.now() < deadline:
            self._clock.sleep_until(self._clock.now() + 0.01)

    def _let_go(self) -> None:
        """Close everything, so that another program can take over."""
        try:
            self._open.close()
        finally:
            self._link = self._motion = self._gripper = None


def _floats(values: Any) -> Floats:
    return np.array(values, dtype=np.float64)
