"""Franka Research 3 with a Franka Hand through franky: joint impedance, fed by the servo. Not a safety function.

franky's tracker keeps its last reference for ever and passes steps on as they are; the servo makes paths of targets and
brakes when they stop coming. Nothing is ever cleared by itself: after a fault an operator looks and calls `recover`.
"""

import importlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Self

import numpy as np

from .. import fr3
from ..clock import Clock, MonotonicClock
from ..errors import ConfigError, DeviceFault, DeviceNotFound, DeviceTimeout, OperatorNeeded, StaleReading
from ..interpolator import MotionLimits, Setpoint
from ..servo import Servo, ServoCfg, ServoStats
from ..types import ArmCommand, ArmSpec, ArmState, Floats
from .franka_hand import FrankaHand, HandCfg
from .leaving import leave
from .within import within

END_DECELERATION = {fr3.SPEC.name: fr3.END_DECELERATION}  # rad/s^2, of arms whose speed limits fall towards the ends
REST_WITHIN_S = 3.0  # from full speed the servo needs 0.9 s
LOST_WITHIN_S = 1.0  # how long the SDK may take to say why control was lost
RECOVER = "look at the arm and at what it touches, then call recover()"


@dataclass(frozen=True)
class FrankaCfg:
    """One FR3 or Panda and how it is driven. Fractions are of the limits in `robot/fr3.py` and `robot/panda.py`."""

    host: str
    """Address of the control unit's FCI, by name or number."""
    stiffness: tuple[float, ...] = (400.0, 400.0, 400.0, 400.0, 150.0, 100.0, 40.0)
    """Joint stiffness, N m/rad; low on the wrist, whose joints give 12 N m."""
    damping: tuple[float, ...] | None = None
    """Joint damping, N m s/rad; None is franky's 2 sqrt(stiffness)."""
    servo: ServoCfg = field(default_factory=ServoCfg)
    """Rate of the reference, and for how long a target counts as fresh."""
    speed_scale: float = 0.6
    """Fraction of the joints' speed; not less than the safety filter's, or the arm falls behind."""
    acceleration_scale: float = 0.7
    """Fraction of the deceleration that is allowed near the ends of the joint range, used everywhere."""
    jerk_scale: float = 0.05
    """Fraction of the joints' jerk, 5000 rad/s^3."""
    joint_margin_rad: float = 0.05
    """Distance kept from each end of the joint range, rad."""
    collision_torque_nm: float = 20.0
    """External joint torque at which the controller stops the arm, N m."""
    collision_force_n: float = 30.0
    """External force at the tool at which the controller stops the arm, N."""
    hand: HandCfg = field(default_factory=HandCfg)
    """Speed and force of the gripper, and when it grasps."""
    max_state_age_s: float = 0.1
    """A robot state older than this is an error, s; the robot sends 1000 a second."""
    connect_timeout_s: float = 5.0
    """How long connecting may take, s."""
    realtime: bool = False
    """Insist on a real-time kernel (PREEMPT_RT), as the vendor asks; without one the arm may stop for lost packets."""

    def __post_init__(self) -> None:
        for name in ("speed_scale", "acceleration_scale", "jerk_scale"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        for name in ("stiffness", "damping"):
            gains = getattr(self, name)
            if gains is not None and (len(gains) != fr3.SPEC.dof or not all(0.0 < g < np.inf for g in gains)):
                raise ConfigError(f"{name} must be {fr3.SPEC.dof} positive numbers, got {gains}")
        for name in ("collision_torque_nm", "collision_force_n", "max_state_age_s", "connect_timeout_s"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0.0 <= self.joint_margin_rad < 0.5:
            raise ConfigError(f"joint_margin_rad must be in [0, 0.5), got {self.joint_margin_rad}")

    def limits(self, arm: ArmSpec) -> MotionLimits:
        """What the reference never exceeds."""
        ddq_max = np.minimum(arm.ddq_max, END_DECELERATION.get(arm.name, np.inf))
        assert arm.jerk_max is not None
        return MotionLimits.of(
            arm,
            margin_rad=self.joint_margin_rad,
            speed_scale=self.speed_scale,
            ddq_max=self.acceleration_scale * ddq_max,
            jerk_max=self.jerk_scale * arm.jerk_max,
        )


class FrankaArm:
    """ArmDriver; a context manager that connects, takes control where the arm stands, and on the way out stops and lets go.

    `recover` is for the operator, inside the context after a fault or outside of it when `with` refuses to begin.
    """

    def __init__(self, cfg: FrankaCfg, clock: Clock | None = None, arm: ArmSpec = fr3.SPEC) -> None:
        """`arm`: which one; the SDK does not tell."""
        self.spec, self._cfg, self._clock = arm, cfg, clock or MonotonicClock()
        self._sdk = _import_sdk()
        self._sdk_errors = (
            self._sdk.Exception,
            RuntimeError,
        )  # some broken connections are a "RuntimeError: Net Exception"
        self._robot: Any = None  # franky.Robot
        self._tracker: Any = None
        self._hand: FrankaHand | None = None
        self._servo: Servo | None = None
        self._in_control = ExitStack()  # servo, hand
        self._seen = (-1.0, 0.0)  # the robot's time of the newest state, and ours when it was first seen, s

    def __enter__(self) -> Self:
        self._robot = self._connect()
        try:
            self._refuse_unless_ready(self._state())
            self._take_control()
            self.read()
        except BaseException:
            self._let_go()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        leave(self._come_to_rest, self._let_go, error)

    def read(self) -> ArmState:
        """Newest measurement; effort is the measured joint torque.

        Raises DeviceFault after a reflex, a user stop or lost control, until `recover`; StaleReading if the state is old.
        """
        servo, hand = self._opened()
        servo.read()
        state = self._state()
        t = self._first_seen(state.time.to_sec())
        return ArmState(t=t, q=_copy(state.q), dq=_copy(state.dq), effort=_copy(state.tau_J), gripper=hand.read())

    def command(self, cmd: ArmCommand) -> ArmCommand:
        """Send a target; returns it as clipped to the joint range (less the margin) and to an opening of 0..1."""
        servo, hand = self._opened()
        return ArmCommand(servo.command(cmd.q), hand.command(cmd.gripper))

    def hold(self) -> None:
        """Brake inside the limits and stay; a grasped object stays grasped."""
        servo, hand = self._opened()
        servo.hold()
        hand.hold()
        if servo.failed and self._robot.is_in_control:  # the robot is fine, our reference is not
            try:
                self._robot.move(self._sdk.TorqueStopMotion(), asynchronous=True)
            except self._sdk_errors as error:
                raise DeviceFault(self.spec.name, f"it does not take the stop: {error}; press the user stop") from error

    def look(self) -> str:
        """Connect, see whether it would start, and disconnect; nothing moves. Raises what entering the context would."""
        self._robot = self._connect()
        try:
            self._refuse_unless_ready(self._state())
            return f"answers at {self._cfg.host}, idle and without errors"
        finally:
            self._let_go()

    @property
    def servo_stats(self) -> ServoStats:
        """Setpoints, overruns and timeouts since control was taken."""
        return self._opened()[0].stats

    def recover(self) -> None:
        """Clear the robot's errors and take control where it stands. Only for an operator who has looked at the arm.

        Raises OperatorNeeded while the user stop is pressed, DeviceFault if the errors stay.
        """
        if self._robot is None:
            self._robot = self._connect()
            try:
                self._clear_errors()
            finally:
                self._let_go()
            return
        if self._servo is not None and not self._servo.failed and self._robot.is_in_control:
            return
        self._in_control.close()
        self._tracker = self._servo = self._hand = None
        self._clear_errors()
        self._take_control()

    def _connect(self) -> Any:
        sdk, cfg = self._sdk, self._cfg
        kind = sdk.RealtimeConfig.Enforce if cfg.realtime else sdk.RealtimeConfig.Ignore
        try:
            return within(
                self.spec.name,
                lambda: sdk.Robot(cfg.host, realtime_config=kind),
                cfg.connect_timeout_s,
                f"{cfg.host} does not answer; is it the right address, FCI active in Desk, and no other program holding the arm?",
            )
        except sdk.NetworkException as error:
            raise DeviceNotFound(
                self.spec.name,
                f"no FCI at {cfg.host}: {error}; check the cable and the address, and that FCI is active in Desk",
            ) from error
        except sdk.IncompatibleVersionException as error:
            raise ConfigError(
                f"{self.spec.name} at {cfg.host}: {error}; franky-control must be built for the robot's system version"
            ) from error
        except sdk.RealtimeException as error:
            raise ConfigError(f"{self.spec.name}: {error}; boot a PREEMPT_RT kernel or set realtime = false") from error

    def _refuse_unless_ready(self, state: Any) -> None:
        modes = self._sdk.RobotMode
        if state.robot_mode == modes.UserStopped:
            raise OperatorNeeded(
                f"{self.spec.name}: the user stop is pressed; see that the cell is clear and release it"
            )
        if state.robot_mode == modes.Reflex or self._flags(state.current_errors):
            raise DeviceFault(self.spec.name, f"the robot has errors: {self._flags(state.current_errors)}; {RECOVER}")
        if state.robot_mode != modes.Idle:
            raise DeviceFault(
                self.spec.name,
                f"the robot is in mode {state.robot_mode.name}, expected Idle; end guiding or the other program, "
                "and see in Desk that the brakes are released",
            )

    def _take_control(self) -> None:
        """Begin to hold the measured pose, with a hand and a servo of its own."""
        cfg, sdk = self._cfg, self._sdk
        with ExitStack() as stack:
            try:
                self._robot.set_collision_behavior(cfg.collision_torque_nm, cfg.collision_force_n)
                gripper = within(
                    self.spec.name,
                    lambda: sdk.Gripper(cfg.host),
                    cfg.connect_timeout_s,
                    f"the hand at {cfg.host} does not answer; does another program hold it?",
                )
                self._hand = stack.enter_context(FrankaHand(self.spec.name, gripper, self._clock.now, cfg.hand))
                self._tracker = sdk.JointImpedanceTracker(self._robot, stiffness=cfg.stiffness, damping=cfg.damping)
                self._await_control()
            except self._sdk_errors as error:
                raise DeviceFault(
                    self.spec.name, f"control was refused: {error}; in Desk, release the brakes and activate FCI"
                ) from error
            q = _copy(self._state().q)
            self._servo = stack.enter_context(
                Servo(self.spec.name, cfg.limits(self.spec), q, self._send, cfg.servo, self._clock)
            )
            self._in_control = stack.pop_all()

    def _await_control(self) -> None:
        """Return once the controller runs. Raises the SDK's error if it refuses."""
        deadline = self._clock.now() + LOST_WITHIN_S
        while not self._robot.is_in_control or self._robot.state.robot_mode != self._sdk.RobotMode.Move:
            self._robot.poll_motion()
            if self._clock.now() > deadline:
                raise DeviceTimeout(
                    self.spec.name, f"the robot did not begin to move within {LOST_WITHIN_S} s; look at Desk"
                )
            self._clock.sleep_until(self._clock.now() + 0.005)

    def _send(self, setpoint: Setpoint) -> None:
        """One reference to the tracker; the servo's thread calls this. Raises DeviceFault once control is lost."""
        if not self._robot.is_in_control:
            raise self._lost_control()
        self._tracker.set_target(setpoint.q, dq=setpoint.dq)

    def _lost_control(self) -> DeviceFault:
        """Why, in the SDK's words, and what to do."""
        said = "the SDK gives no reason"
        try:
            self._robot.join_motion(LOST_WITHIN_S)
        except self._sdk_errors as error:
            said = " ".join(str(error).split())
        try:
            state = self._robot.state
        except self._sdk_errors as error:
            return DeviceFault(
                self.spec.name, f"the connection is lost ({said}; {error}); check the cable and Desk, connect again"
            )
        if state.robot_mode == self._sdk.RobotMode.UserStopped:
            return DeviceFault(
                self.spec.name, f"the user stop was pressed ({said}); clear the cell, release it, then call recover()"
            )
        flags = self._flags(state.current_errors) or self._flags(state.last_motion_errors)
        if state.robot_mode == self._sdk.RobotMode.Reflex:
            return DeviceFault(self.spec.name, f"the robot stopped by reflex: {', '.join(flags)} ({said}); {RECOVER}")
        return DeviceFault(
            self.spec.name, f"control was lost in mode {state.robot_mode.name} ({said}); look at Desk; {RECOVER}"
        )

    def _clear_errors(self) -> None:
        state = self._state()
        if state.robot_mode == self._sdk.RobotMode.UserStopped:
            raise OperatorNeeded(
                f"{self.spec.name}: the user stop is still pressed; see that the cell is clear and release it"
            )
        try:
            self._robot.recover_from_errors()
        except self._sdk_errors as error:
            raise DeviceFault(self.spec.name, f"its errors cannot be cleared: {error}; look at Desk") from error
        self._refuse_unless_ready(self._state())

    def _state(self) -> Any:
        try:
            return self._robot.state
        except self._sdk_errors as error:
            raise DeviceFault(
                self.spec.name, f"no state from {self._cfg.host}: {error}; check the cable and Desk"
            ) from error

    def _first_seen(self, robot_time: float) -> float:
        """When the state of that robot time reached us, s. Raises StaleReading if that is too long ago."""
        now = self._clock.now()
        if robot_time != self._seen[0]:
            self._seen = (robot_time, now)
        age = now - self._seen[1]
        if age > self._cfg.max_state_age_s:
            raise StaleReading(
                self.spec.name,
                f"the robot's state is {age:.2f} s old, allowed is {self._cfg.max_state_age_s} s; check the cable",
            )
        return self._seen[1]

    def _flags(self, errors: Any) -> list[str]:
        """Names of the flags that are set, as the vendor's manual has them."""
        return [name for name in dir(self._sdk.Errors) if not name.startswith("_") and getattr(errors, name) is True]

    def _opened(self) -> tuple[Servo, FrankaHand]:
        if self._servo is None or self._hand is None:
            raise DeviceFault(
                self.spec.name, "not in control; use the arm within `with`, or call recover() again if that failed"
            )
        return self._servo, self._hand

    def _come_to_rest(self) -> None:
        """Hold, wait until the reference stands, and end the motion; after a fault there is nothing to stop."""
        if self._servo is None or not self._robot.is_in_control:
            return
        self.hold()
        deadline = self._clock.now() + REST_WITHIN_S
        while not (self._servo.failed or self._servo.at_rest) and self._clock.now() < deadline:
            self._clock.sleep_until(self._clock.now() + 0.01)
        self._in_control.close()
        try:
            self._tracker.stop()
        except self._sdk_errors as error:
            raise DeviceFault(self.spec.name, f"it stopped with an error: {error}; look at the arm") from error

    def _let_go(self) -> None:
        """Close everything, so that another program can connect."""
        try:
            self._in_control.close()
        finally:
            self._robot = self._tracker = self._servo = self._hand = None  # the SDK disconnects when its object goes


def _copy(values: Any) -> Floats:
    return np.array(values, dtype=np.float64).reshape(-1)


def _import_sdk() -> ModuleType:
    try:
        return importlib.import_module("franky")
    except ImportError as error:
        raise DeviceNotFound("franka", f'franky is not installed ({error}); pip install "armflow[franka]"') from error
