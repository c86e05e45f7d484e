"""Devices as LeRobot teleoperators: where wishes start from, and how often the device is asked."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.clock import SimClock
from armflow.robot.errors import ConfigError
from armflow.robot.fakes import FakeArm
from armflow.robot.kinematics import Kinematics
from armflow.robot.rig import load_rig
from armflow.robot.types import ArmState
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta

from .conftest import plugin

NAMES = fr3.SPEC.action_names
STEP = ToolDelta(np.array([0.0, 0.0, 0.005]), np.zeros(3))  # m per tick, upwards


class FakeHand:
    """HandDevice that always wants up, and counts."""

    name, usage = "fake", "it moves by itself"

    def __init__(self, control_hz: float) -> None:
        self.control_hz, self.reads, self.open = control_hz, 0, False
        self.gripper = 1.0
        self.engaged = True
        self.event: TeleopEvent | None = None

    def start_episode(self, gripper: float) -> None:
        self.gripper = gripper

    def __enter__(self) -> Self:
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def read(self, state: ArmState) -> TeleopInput:
        self.reads += 1
        return TeleopInput(self.engaged, STEP, self.gripper, self.event)


@pytest.fixture
def hands() -> list[FakeHand]:
    """Every device that was made."""
    return []


@pytest.fixture
def make_teleoperator(hands: list[FakeHand], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    module = plugin("lerobot_teleoperator_armflow")

    def make_hand(control_hz: float) -> FakeHand:
        hands.append(FakeHand(control_hz))
        return hands[-1]

    code = importlib.import_module("lerobot_teleoperator_armflow.teleoperator")
    monkeypatch.setattr(code, "HAND_DEVICES", {"keyboard": make_hand})

    def make(device: str = "keyboard") -> Any:
        cfg = module.ArmflowTeleoperatorConfig(device=device, calibration_dir=tmp_path / "teleop")
        return module.ArmflowTeleoperator(cfg)

    return make


def vector(action: dict[str, float]) -> np.ndarray:
    return np.array([action[name] for name in NAMES])


def test_without_a_robot_there_is_nothing_to_start_from(make_teleoperator: Callable[..., Any]) -> None:
    teleop = make_teleoperator()
    teleop.connect()
    with pytest.raises(ConfigError, match="connect the robot first"):
        teleop.get_action()
    teleop.disconnect()


def test_the_device_is_open_while_connected(make_teleoperator: Callable[..., Any], hands: list[FakeHand]) -> None:
    teleop = make_teleoperator()
    teleop.connect()
    assert hands[0].open and teleop.is_connected and hands[0].control_hz == load_rig().control_hz
    teleop.disconnect()
    assert not hands[0].open and not teleop.is_connected


@pytest.mark.parametrize("loop_hz", [10.0, 30.0, 60.0])
def test_the_tool_moves_as_fast_as_wished_whatever_the_rate_of_the_loop(
    loop_hz: float,
    make_robot: Callable[..., Any],
    make_teleoperator: Callable[..., Any],
    clock: SimClock,
    arms: list[FakeArm],
    hands: list[FakeHand],
) -> None:
    """Small irregularities of a loop at the rig's own rate leave no tick out."""
    robot, teleop = make_robot(), make_teleoperator()
    teleop.connect()
    robot.connect()
    kinematics = Kinematics(load_rig().arm)
    start = kinematics.forward(arms[0].q)[2, 3]
    rng = np.random.default_rng(0)
    for tick in range(round(2 * loop_hz)):
        clock.sleep_until((tick + 0.2 * rng.uniform(-1, 1)) / loop_hz)
        robot.send_action(teleop.get_action())
    assert 20 <= hands[0].reads <= 21  # 2 s at the rig's 10 Hz
    assert kinematics.forward(arms[0].q)[2, 3] - start == pytest.approx(
        0.005 * hands[0].reads, abs=0.006
    )  # a wish late


def test_after_a_pause_it_starts_from_where_the_arm_is_and_keeps_the_grip(
    make_robot: Callable[..., Any],
    make_teleoperator: Callable[..., Any],
    clock: SimClock,
    arms: list[FakeArm],
    hands: list[FakeHand],
) -> None:
    robot, teleop = make_robot(), make_teleoperator()
    teleop.connect()
    robot.connect()
    hands[0].gripper = 0.0
    teleop.get_action()
    hands[0].gripper = 0.0  # what it was told at the start is over
    for tick in range(1, 4):
        clock.sleep_until(0.1 * tick)
        robot.send_action(teleop.get_action())
    arm = arms[0]
    arm.q, arm.gripper = arm.q + 0.3, 0.4  # somebody else drove it, and it holds something that is so wide
    clock.sleep_until(5.0)
    hands[0].engaged = False
    action = teleop.get_action()
    assert vector(action)[:-1] == pytest.approx(arm.q, abs=1e-6)
    assert action["gripper.pos"] == 0.0


def test_what_a_device_says_of_an_episode_moves_nothing(
    make_robot: Callable[..., Any], make_teleoperator: Callable[..., Any], clock: SimClock, hands: list[FakeHand]
) -> None:
    robot, teleop = make_robot(), make_teleoperator()
    teleop.connect()
    robot.connect()
    before = teleop.get_action()
    hands[0].event = TeleopEvent.SUCCESS
    clock.sleep_until(0.1)
    assert teleop.get_action() == before


def test_the_scripted_operator_refuses_hardware(
    make_robot: Callable[..., Any], make_teleoperator: Callable[..., Any]
) -> None:
    robot, teleop = make_robot(), make_teleoperator("scripted")
    teleop.connect()
    robot.connect()
    with pytest.raises(ConfigError, match="knows the twin only"):
        teleop.get_action()
