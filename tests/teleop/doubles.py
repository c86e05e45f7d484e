"""Doubles of a policy and of a person's hand, for everything in which the two share an arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from armflow.robot.clock import SimClock
from armflow.robot.control import CommandSource, Decision, EpisodeResult, LoopCfg, observe, run_episode
from armflow.robot.errors import DeviceFault
from armflow.robot.fakes import FakeArm
from armflow.robot.rig import load_rig
from armflow.robot.safety import JointSafety
from armflow.robot.types import ArmCommand, ArmState, ControlMode, Floats, Observation
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta

HOME = np.array(load_rig().arm.home_q)
HZ = 10.0
CHUNK = 4  # steps


class Planner:
    """Plans `CHUNK` equal moves of every joint, with the gripper closed, from where it sees the arm."""

    def __init__(self, move_rad: float = 0.01, jump_rad: float = 0.0) -> None:
        """`jump_rad`: how far from the arm its plans begin, from the second one on."""
        self._move_rad, self._jump_rad = move_rad, jump_rad
        self._queue: list[ArmCommand] = []
        self.seen: list[Floats] = []  # joints at which it planned

    def wants_frames(self) -> bool:
        return not self._queue

    def next(self, obs: Observation) -> Decision:
        if not self._queue:
            start = obs.arm.q + (self._jump_rad if self.seen else 0.0)
            self._queue = [ArmCommand(start + i * self._move_rad, 0.0) for i in range(1, CHUNK + 1)]
            self.seen.append(obs.arm.q)
        command = self._queue.pop(0)
        return Decision(command, ControlMode.POLICY, len(self.seen) - 1, CHUNK - 1 - len(self._queue))

    def replan(self) -> None:
        self._queue.clear()


@dataclass
class Hand:
    """HandDevice that follows a script: per reading a letter, `.` not engaged, `h` held still, `n` held with no target,
    `u` up, `d` down, `E` an event, `!` unplugged; then `.` for ever. Its gripper is open until it is told otherwise, opened by
    `o`, and opened or closed by `p`."""

    script: str
    event: TeleopEvent = TeleopEvent.SUCCESS
    gripper: float = 1.0
    name: str = "joystick"
    usage: str = "pull it"
    step_m: float = 0.02  # up or down

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def start_episode(self, gripper: float) -> None:
        self.gripper = gripper

    def read(self, state: ArmState) -> TeleopInput:
        letter, self.script = self.script[:1] or ".", self.script[1:]
        if letter == "!":
            raise DeviceFault(self.name, "unplugged")
        if letter == "o":
            self.gripper = 1.0
        if letter == "p":
            self.gripper = 0.0 if self.gripper > 0.5 else 1.0
        move = ToolDelta(np.array([0, 0, self.step_m * ((letter == "u") - (letter == "d"))]), np.zeros(3))
        target = None if letter == "n" else move
        return TeleopInput(letter in "hudonp", target, self.gripper, self.event if letter == "E" else None)


def played(source: CommandSource, arm: FakeArm, clock: SimClock, ticks: int) -> list[Decision]:
    """The decisions of so many ticks on an arm that follows at once, without a safety filter."""
    decisions = []
    for _ in range(ticks):
        decision = source.next(observe(arm, {}, clock, 1.0))
        assert decision is not None
        arm.command(decision.command)
        decisions.append(decision)
    return decisions


def run_out(source: CommandSource, arm: FakeArm, clock: SimClock) -> EpisodeResult:
    """An episode of the control loop, behind the safety filter, until it ends by itself."""
    safety = JointSafety(arm.spec, load_rig().safety)
    return run_episode(arm=arm, cameras={}, source=source, safety=safety, clock=clock, cfg=LoopCfg(fps=HZ))


def modes(decisions: Sequence[Decision]) -> list[ControlMode]:
    return [d.mode for d in decisions]


def joints(decisions: Sequence[Decision]) -> Floats:
    """(n, 7)"""
    return np.stack([d.command.q for d in decisions])
