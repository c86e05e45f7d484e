"""One arm between a policy and a person's hand: whoever decides next goes on from where the other told the arm to go.

policy -> (take) -> the hand has the arm, from its last command on -> (give back) -> the policy forgets its plan, looks, and
is led to its commands at `RETURN_RAD_S`

Who decides, and when, is for the sources that use it: `takeover.py`, `hold_to_run.py`.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np

from ..robot.control import CommandSource, Decision
from ..robot.kinematics import Kinematics
from ..robot.rig import Rig
from ..robot.types import ArmCommand, ControlMode, Observation
from .device import HandDevice, TeleopInput
from .source import TeleopSource, joints_towards

RETURN_RAD_S = 0.5  # of each joint, until the policy has the arm where it wants it: slow enough to take over again
NO_CHUNK = -1  # chunk index and step of what no policy decides


class Planner(CommandSource, Protocol):
    """A source of commands that plans ahead."""

    def replan(self) -> None:
        """Forget the plan: the next decision is made from its observation."""
        ...


class PlannerFactory(Protocol):
    """Makes the policy of an episode, in the twin and on hardware alike; must survive pickling into a worker."""

    @property
    def operator(self) -> str:
        """Who acts, for the label."""
        ...

    @property
    def policy_hash(self) -> str:
        """Checkpoint that acts."""
        ...

    def prepare(self, rig: Rig) -> None:
        """Load the policy and let it decide once for nothing, so that no arm waits for its first decision. Raises
        SchemaMismatch if `rig` is not what it was trained on."""
        ...

    def __call__(self, instruction: str, seed: int) -> Planner:
        """`seed` is all that its noise depends on."""
        ...


class Handover:
    """The commands of one episode."""

    def __init__(self, policy: Planner, device: HandDevice, kinematics: Kinematics, control_hz: float) -> None:
        self._policy, self._device = policy, device
        self._kinematics, self._control_hz = kinematics, control_hz
        self._hand: TeleopSource | None = None  # while it has the arm
        self._led = False  # the policy does not have the arm where it wants it yet
        self._last: ArmCommand | None = None

    @property
    def begun(self) -> bool:
        """Whether it is known where the arm was told to go."""
        return self._last is not None

    @property
    def in_hand(self) -> bool:
        return self._hand is not None

    def plans(self) -> bool:
        """Whether the policy would look at images now."""
        return self._policy.wants_frames()

    def begin(self, obs: Observation) -> None:
        """Lead the policy to its first command, too, from where the arm is."""
        self._last, self._led = ArmCommand(obs.arm.q, obs.arm.gripper), True

    def take(self, obs: Observation) -> float:
        """The arm is the hand's, which has not moved it yet. Returns the gripper's opening, which the device is told."""
        if self._last is None:
            self._last = ArmCommand(obs.arm.q, obs.arm.gripper)
        # The device's own opening is from before; what the policy holds must not drop.
        self._device.start_episode(self._last.gripper)
        self._hand = TeleopSource(self._device, self._kinematics, self._control_hz, ControlMode.INTERVENTION)
        self._hand.start(obs.arm, self._last)
        self._policy.replan()
        return self._last.gripper

    def give_back(self) -> None:
        """The next decision is the policy's."""
        self._hand, self._led = None, True

    def by_hand(self, wish: TeleopInput, obs: Observation) -> Decision:
        """What becomes of a wish without an event; the arm has been taken."""
        assert self._hand is not None
        decision = self._hand.follow(wish, obs)
        assert decision is not None
        return self._decided(replace(decision, chunk_index=NO_CHUNK, chunk_step=NO_CHUNK))

    def by_policy(self, obs: Observation) -> Decision | None:
        decision = self._policy.next(obs)
        if decision is None:
            return None
        if self._led and self._last is not None:
            wanted = decision.command
            q = joints_towards(self._last.q, wanted.q, RETURN_RAD_S / self._control_hz)
            self._led = not np.allclose(q, wanted.q, atol=1e-9)
            decision = replace(decision, command=ArmCommand(q, wanted.gripper))
        return self._decided(decision)

    def _decided(self, decision: Decision) -> Decision:
        self._last = decision.command
        return decision
