"""A person beside a policy: takes the arm over while the dead-man is held, then the policy goes on from what it sees.

policy -> (dead-man) -> the person moves the arm from where it was told to go -> (let go) -> the arm stays for `HOLD_S` ->
the policy forgets its plan, looks, and is led to its commands at `RETURN_RAD_S`

All of it is one episode: `control_mode` says who decided, frame by frame.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np

from ..robot.control import CommandSource, Decision
from ..robot.kinematics import Kinematics
from ..robot.rig import Rig
from ..robot.twin.cell import Episode
from ..robot.types import ArmCommand, ControlMode, Observation
from .device import HandDevice, TeleopEvent, TeleopInput
from .source import TeleopSource, joints_towards

HOLD_S = 0.5  # long enough for a person who only changes the grip, and for the arm to come to rest
RETURN_RAD_S = 0.5  # of each joint, until the policy has the arm where it wants it: slow enough to take over again
NO_CHUNK = -1  # chunk index and step of what a person decides


class Planner(CommandSource, Protocol):
    """A source of commands that plans ahead."""

    def replan(self) -> None:
        """Forget the plan: the next decision is made from its observation."""
        ...


class PlannerFactory(Protocol):
    """Makes the policy of an episode."""

    @property
    def operator(self) -> str:
        """Who acts, for the label."""
        ...

    @property
    def policy_hash(self) -> str:
        """Checkpoint that acts."""
        ...

    def __call__(self, episode: Episode, rig: Rig, seed: int) -> Planner: ...


class TakeoverSource:
    """CommandSource of both; an event of the device ends the episode whoever decides."""

    def __init__(self, policy: Planner, device: HandDevice, kinematics: Kinematics, control_hz: float) -> None:
        self._policy, self._device = policy, device
        self._kinematics, self._control_hz = kinematics, control_hz
        self._person: TeleopSource | None = None  # while it is the person's turn
        self._hold = 0  # control periods before it is the policy's
        self._led = False  # the policy does not have the arm where it wants it yet
        self._last: ArmCommand | None = None
        self.event: TeleopEvent | None = None

    def wants_frames(self) -> bool:
        return self._person is None and self._policy.wants_frames()

    def next(self, obs: Observation) -> Decision | None:
        wish = self._device.read(obs.arm)
        if wish.event is not None:
            self.event = wish.event
            return None
        if wish.engaged or self._person is not None:
            decision = self._by_hand(wish, obs)
        else:
            decision = self._by_policy(obs)
        self._last = None if decision is None else decision.command
        return decision

    def _by_hand(self, wish: TeleopInput, obs: Observation) -> Decision | None:
        person = self._person
        if person is None:
            person = self._person = TeleopSource(
                self._device, self._kinematics, self._control_hz, ControlMode.INTERVENTION
            )
            person.start(obs.arm, self._last)
            # The device's own opening is from before; what the policy holds must not drop.
            gripper = obs.arm.gripper if self._last is None else self._last.gripper
            self._device.start_episode(gripper)
            wish = replace(wish, gripper=gripper)
        self._hold = max(1, round(HOLD_S * self._control_hz)) if wish.engaged else self._hold - 1
        if self._hold == 0:
            self._person, self._led = None, True
            self._policy.replan()
        decision = person.follow(wish, obs)
        return None if decision is None else replace(decision, chunk_index=NO_CHUNK, chunk_step=NO_CHUNK)

    def _by_policy(self, obs: Observation) -> Decision | None:
        decision = self._policy.next(obs)
        if decision is None or self._last is None or not self._led:
            return decision
        wanted = decision.command
        q = joints_towards(self._last.q, wanted.q, RETURN_RAD_S / self._control_hz)
        self._led = not np.allclose(q, wanted.q, atol=1e-9)
        return replace(decision, command=ArmCommand(q, wanted.gripper))
