"""From what a person wants to joint targets: the CommandSource of every teleoperated episode."""

import numpy as np
from scipy.spatial.transform import Rotation

from ..robot.control import Decision
from ..robot.errors import DeviceFault
from ..robot.kinematics import Kinematics
from ..robot.types import ArmCommand, ControlMode, Floats, Observation
from .device import TeleopDevice, TeleopEvent, ToolDelta

MAX_TOOL_SPEED_M_S, MAX_TOOL_TURN_RAD_S = 0.6, 1.5  # a device that asks for more gets there later, not faster
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
        self._engaged = False
        self.event: TeleopEvent | None = None

    def wants_frames(self) -> bool:
        return False

    def next(self, obs: Observation) -> Decision | None:
        if self._q is None:
            self._q = obs.arm.q.copy()
            self._X_BE = self._kinematics.forward(self._q)
            self._gripper = obs.arm.gripper
        wish = self._device.read(obs.arm)
        if wish.event is not None:
            self.event = wish.event
            return None
        if wish.engaged:
            self._gripper = wish.gripper
        elif self._engaged and np.abs(self._q - obs.arm.q).max() > MAX_LEAD_RAD:
            # The arm is behind because the safety filter slowed it down. It has to stop here, not to catch up.
            self._q = obs.arm.q.copy()
            self._X_BE = self._kinematics.forward(self._q)
        self._engaged = wish.engaged
        if wish.engaged and wish.target is not None:
            target = wish.target
            wanted = moved(self._X_BE, target) if isinstance(target, ToolDelta) else target.X_BE
            if not np.isfinite(wanted).all():
                raise DeviceFault(
                    type(self._device).__name__, "asks for a tool pose that is not finite; check the device"
                )
            nearer = towards(self._X_BE, wanted, MAX_TOOL_SPEED_M_S * self._period, MAX_TOOL_TURN_RAD_S * self._period)
            self._q = self._kinematics.inverse(nearer, self._q)
            # Where the joints can really go, so that a wish out of reach does not wind up.
            self._X_BE = self._kinematics.forward(self._q)
        return Decision(ArmCommand(self._q, self._gripper), self._mode)


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
