"""From what a person wants to joint targets: the CommandSource of every teleoperated episode."""

import numpy as np
from scipy.spatial.transform import Rotation

from ..robot.control import Decision
from ..robot.errors import DeviceFault
from ..robot.kinematics import Kinematics
from ..robot.types import ArmCommand, ArmState, ControlMode, Floats, Observation
from .device import JointTarget, TeleopDevice, TeleopEvent, TeleopInput, ToolDelta, ToolPose

MAX_TOOL_SPEED_M_S, MAX_TOOL_TURN_RAD_S = 0.6, 1.5  # a device that asks for more gets there later, not faster
MAX_JOINT_SPEED_RAD_S = 1.5  # likewise, of devices that ask for joints
MAX_LEAD_RAD = 0.05  # of the target before the measured joints at release; twice what a servo lags at full speed


class TeleopSource:
    """Integrates a device's wishes into a tool pose and solves for joints near the last ones.

    Without the dead-man arm and gripper hold their last target, and the tool pose is taken up again from there: no jump.
    """

    def __init__(
        self,
        device: TeleopDevice,
        kinematics: Kinematics,
        control_hz: float,
        mode: ControlMode = ControlMode.HUMAN,
    ) -> None:
        self._device, self._kinematics, self._mode = device, kinematics, mode
        self._period = 1.0 / control_hz
        self._q: Floats | None = None
        self._X_BE = np.eye(4)
        self._gripper = 1.0
        self._moving = False
        self.event: TeleopEvent | None = None

    def wants_frames(self) -> bool:
        return False

    def next(self, obs: Observation) -> Decision | None:
        return self.follow(self._device.read(obs.arm), obs)

    def start(self, state: ArmState, last: ArmCommand | None = None) -> None:
        """Take the arm up where it is: at the `last` command, if it is no further behind that than a servo is."""
        if last is None:
            last = ArmCommand(state.q, state.gripper)
        self._take_up(last.q if np.abs(last.q - state.q).max() <= MAX_LEAD_RAD else state.q)
        self._gripper = last.gripper

    def follow(self, wish: TeleopInput, obs: Observation) -> Decision | None:
        """What becomes of a wish; None ends the episode."""
        if self._q is None:
            self.start(obs.arm)
        assert self._q is not None
        if wish.event is not None:
            self.event = wish.event
            return None
        target = wish.target if wish.engaged else None
        if wish.engaged:
            self._gripper = wish.gripper
        if self._moving and target is None and np.abs(self._q - obs.arm.q).max() > MAX_LEAD_RAD:
            # The arm is behind because the safety filter slowed it down. It has to stop here, not to catch up.
            self._take_up(obs.arm.q)
        self._moving = target is not None
        if target is not None:
            # Where the joints can really go, so that a wish out of reach does not wind up.
            self._take_up(self._nearer(self._q, target))
        return Decision(ArmCommand(self._q, self._gripper), self._mode)

    def _take_up(self, q: Floats) -> None:
        self._q = q.copy()
        self._X_BE = self._kinematics.forward(q)

    def _nearer(self, q: Floats, target: ToolDelta | ToolPose | JointTarget) -> Floats:
        """(dof,) joints from `q` on the way to `target`, no further than a control period allows."""
        if isinstance(target, JointTarget):
            self._check_finite(target.q, "a joint position")
            return joints_towards(q, target.q, MAX_JOINT_SPEED_RAD_S * self._period)
        wanted = moved(self._X_BE, target) if isinstance(target, ToolDelta) else target.X_BE
        self._check_finite(wanted, "a tool pose")
        nearer = towards(self._X_BE, wanted, MAX_TOOL_SPEED_M_S * self._period, MAX_TOOL_TURN_RAD_S * self._period)
        return self._kinematics.inverse(nearer, q)

    def _check_finite(self, wanted: Floats, what: str) -> None:
        if not np.isfinite(wanted).all():
            raise DeviceFault(type(self._device).__name__, f"asks for {what} that is not finite; check the device")


def moved(X_BE: Floats, delta: ToolDelta) -> Floats:
    """The pose after translating and rotating it by `delta`, both in base axes, about the tool's own origin."""
    X = X_BE.copy()
    X[:3, 3] += delta.translation_m
    X[:3, :3] = Rotation.from_rotvec(delta.rotation_rad).as_matrix() @ X_BE[:3, :3]
    return X


def towards(X: Floats, X_goal: Floats, max_move_m: float, max_turn_rad: float) -> Floats:
    """The pose on the way from `X` to `X_goal`, no further than the two bounds allow."""
    move = X_goal[:3, 3] - X[:3, 3]
    turn = Rotation.from_matrix(X_goal[:3, :3] @ X[:3, :3].T).as_rotvec()
    move *= min(1.0, max_move_m / max(float(np.linalg.norm(move)), 1e-9))
    turn *= min(1.0, max_turn_rad / max(float(np.linalg.norm(turn)), 1e-9))
    return moved(X, ToolDelta(move, turn))


def joints_towards(q: Floats, q_goal: Floats, max_move_rad: float) -> Floats:
    """(dof,) on the way from `q` to `q_goal`; no joint moves further than the bound."""
    return q + np.clip(q_goal - q, -max_move_rad, max_move_rad)
