"""A person with the hand on the dead-man of a policy: on hardware the policy acts only while it is held.

held and still         the policy acts
held, and moved        the person moves the arm, from where it was told to go; the policy goes on `HOLD_S` after the last move
let go                 nobody acts: the arm comes to rest and stays, gripper included, for as long as that takes

The policy always goes on with a new plan, from what it sees then, and is led to its commands: no jump. An episode begins as
after a pause. All of it is one episode: `control_mode` says who decided, frame by frame, and that nobody did.

Only for a device that can be held still: a leader arm always wants the arm somewhere.
"""

from dataclasses import replace

from ..robot.control import Decision
from ..robot.kinematics import Kinematics
from ..robot.types import ControlMode, Observation
from .device import HandDevice, TeleopEvent, TeleopInput, ToolDelta
from .handover import Handover, Planner
from .takeover import HOLD_S

USAGE = "while you hold it the policy moves the arm; move the device meanwhile, and you do"


class HoldToRunSource:
    """CommandSource of policy and person; an event of the device ends the episode whoever decides, or nobody."""

    def __init__(self, policy: Planner, device: HandDevice, kinematics: Kinematics, control_hz: float) -> None:
        self._device, self._arm = device, Handover(policy, device, kinematics, control_hz)
        self._hold_periods = max(1, round(HOLD_S * control_hz))
        self._hold = 0  # control periods of a held and still device before it is the policy's turn
        self._opening: float | None = None  # the device's, at its last reading
        self.event: TeleopEvent | None = None

    def wants_frames(self) -> bool:
        return self._arm.plans()

    def next(self, obs: Observation) -> Decision | None:
        wish = self._device.read(obs.arm)
        if wish.event is not None:
            self.event = wish.event
            return None
        pressed = wish.engaged and self._opening is not None and wish.gripper != self._opening
        moved = wish.engaged and (pressed or moves(wish))
        if not self._arm.begun:
            self._arm.begin(obs)
        if not self._arm.in_hand and (moved or not wish.engaged):
            wish = replace(wish, gripper=self._taken(obs, pressed))
        self._opening = wish.gripper
        if not wish.engaged:
            return replace(self._arm.by_hand(wish, obs), mode=ControlMode.PAUSE)
        if moved or self._hold > 0:
            self._hold = self._hold_periods if moved else self._hold - 1
            return self._arm.by_hand(wish, obs)
        if self._arm.in_hand:
            self._arm.give_back()
        return self._arm.by_policy(obs)

    def _taken(self, obs: Observation, pressed: bool) -> float:
        """The gripper's opening after taking the arm: as it is, or the other way if that is what the person has pressed. The
        device does not know what the policy did with the gripper, so what it wants now says only that it was pressed."""
        opening = self._arm.take(obs)
        if pressed:
            opening = 0.0 if opening > 0.5 else 1.0
            self._device.start_episode(opening)
        return opening


def moves(wish: TeleopInput) -> bool:
    """Whether the device asks the arm to move, not to stay."""
    target = wish.target
    if isinstance(target, ToolDelta):
        return bool(target.translation_m.any() or target.rotation_rad.any())
    return target is not None
