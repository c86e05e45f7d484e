"""A person beside a policy in the twin: takes the arm over while the dead-man is held, then the policy goes on from what it sees.

policy -> (dead-man) -> the person moves the arm from where it was told to go -> (let go) -> the arm stays for `HOLD_S` ->
the policy plans anew

All of it is one episode: `control_mode` says who decided, frame by frame. On hardware a policy acts only while the dead-man
is held: `hold_to_run.py`.
"""

from dataclasses import replace

from ..robot.control import Decision
from ..robot.kinematics import Kinematics
from ..robot.types import Observation
from .device import HandDevice, TeleopEvent
from .handover import Handover, Planner

HOLD_S = 0.5  # long enough for a person who only changes the grip, and for the arm to come to rest


class TakeoverSource:
    """CommandSource of both; an event of the device ends the episode whoever decides."""

    def __init__(self, policy: Planner, device: HandDevice, kinematics: Kinematics, control_hz: float) -> None:
        self._device, self._arm = device, Handover(policy, device, kinematics, control_hz)
        self._hold_periods = max(1, round(HOLD_S * control_hz))
        self._hold = 0  # control periods before it is the policy's turn
        self.event: TeleopEvent | None = None

    def wants_frames(self) -> bool:
        return not self._arm.in_hand and self._arm.plans()

    def next(self, obs: Observation) -> Decision | None:
        wish = self._device.read(obs.arm)
        if wish.event is not None:
            self.event = wish.event
            return None
        if wish.engaged and not self._arm.in_hand:
            wish = replace(wish, gripper=self._arm.take(obs))
        if not self._arm.in_hand:
            return self._arm.by_policy(obs)
        decision = self._arm.by_hand(wish, obs)
        self._hold = self._hold_periods if wish.engaged else self._hold - 1
        if self._hold == 0:
            self._arm.give_back()
        return decision
