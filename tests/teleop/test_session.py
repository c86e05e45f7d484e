"""A person's session with any device: what it is told, what is recorded, and as whose."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from armflow.datasets.labels import newest_labels
from armflow.robot.clock import SimClock
from armflow.robot.errors import DeviceFault
from armflow.robot.fakes import FakeArm
from armflow.robot.rig import Rig
from armflow.robot.types import ArmState
from armflow.teleop.collect import Job
from armflow.teleop.device import HandDevice, TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.session import teleoperate, wait_until_engaged
from armflow.tests.teleop.doubles import Hand

JOBS = [Job("pick_peach", 11), Job("pick_peach", 12), Job("pick_peach", 13)]
READINGS = 4  # before the event of an episode


class Scripted:
    """HandDevice that moves up a little and says one event after the other; None is that it is unplugged."""

    name, usage = "joystick", "pull it to move"

    def __init__(self, *events: TeleopEvent | None) -> None:
        self._events = iter(events)
        self._left = 0
        self.told: list[float] = []  # openings, at the start of each episode
        self.open = False

    def __enter__(self) -> Self:
        self.open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open = False

    def start_episode(self, gripper: float) -> None:
        assert self.open
        self.told.append(gripper)
        self._left = READINGS

    def read(self, state: ArmState) -> TeleopInput:
        self._left -= 1
        event = None
        if self._left < 0:
            event = next(self._events)
            if event is None:
                raise DeviceFault("joystick", "unplugged")
        return TeleopInput(True, ToolDelta(np.array([0, 0, 0.005]), np.zeros(3)), 1.0, event)


pytestmark = pytest.mark.slow  # simulates and encodes episodes


def test_episodes_carry_the_persons_word_and_the_devices_name(
    rig: Rig, clock: SimClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device: HandDevice = Scripted(TeleopEvent.SUCCESS, TeleopEvent.DISCARD, TeleopEvent.FAILURE)
    teleoperate(rig, JOBS, tmp_path / "demos", device=device, clock=clock, rerun=False)
    labels = newest_labels(tmp_path / "demos").values()
    assert [(label.seed, label.outcome, label.operator) for label in labels] == [
        (11, "success", "joystick"),
        (13, "failure", "joystick"),
    ]
    assert isinstance(device, Scripted)
    assert device.told == pytest.approx([1.0] * 3, abs=0.05)
    assert not device.open
    assert capsys.readouterr().out.count("(pull it to move)") == 3


def test_a_dead_man_that_is_held_all_the_while_begins_nothing(clock: SimClock) -> None:
    """It was still held from the last episode: nobody has set the scene."""
    for script, begins in (("hhh.n.h", True), ("hhh.E", False), ("hhhE", False)):
        hand = Hand(script, event=TeleopEvent.DISCARD)
        assert wait_until_engaged(FakeArm(clock), clock, hand) is begins
        assert hand.script == "", "not before"


def test_a_device_that_is_unplugged_ends_the_session_and_costs_its_episode_only(
    rig: Rig, clock: SimClock, tmp_path: Path
) -> None:
    device = Scripted(TeleopEvent.SUCCESS, None)
    with pytest.raises(DeviceFault, match="joystick: unplugged"):
        teleoperate(rig, JOBS, tmp_path / "demos", device=device, clock=clock, rerun=False)
    assert not device.open
    labels = newest_labels(tmp_path / "demos").values()
    assert [(label.seed, label.outcome) for label in labels] == [(11, "success")]
