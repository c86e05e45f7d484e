"""The rig as a LeRobot robot: what it says it gives, the safety filter before every action, and holding."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.clock import SimClock
from armflow.robot.errors import ConfigError, DeviceFault, SafetyStop, StaleReading
from armflow.robot.fakes import FakeArm, Fault
from armflow.robot.rig import DEFAULT_RIG, load_rig
from armflow.robot.shared import shared_arm
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

NAMES = fr3.SPEC.action_names
HOME = np.array(load_rig().arm.home_q)
FASTEST = load_rig().safety.speed_scale * fr3.SPEC.dq_max  # rad/s
PERIOD = 1 / load_rig().control_hz  # s
MakeRobot = Callable[..., Any]


def action(q: np.ndarray, gripper: float = 1.0) -> dict[str, float]:
    return dict(zip(NAMES, [*q.tolist(), gripper], strict=True))


@pytest.mark.parametrize("depth", [False, True])
def test_an_observation_is_what_the_features_promise(depth: bool, make_robot: MakeRobot) -> None:
    robot = make_robot(depth=depth)
    promised = robot.observation_features
    robot.connect()
    seen = robot.get_observation()
    assert set(seen) == set(promised)
    assert list(robot.action_features) == list(NAMES) == [n for n in promised if promised[n] is float]
    assert [seen[n] for n in NAMES] == pytest.approx([*HOME, 1.0])
    assert seen["head"].shape == promised["head"] == (6, 8, 3) and seen["head"].dtype == np.uint8
    assert ("head_depth" in seen) == depth
    if depth:
        assert seen["front_depth"].shape == promised["front_depth"] == (6, 8, 1)
        assert seen["front_depth"].dtype == np.uint16 and (seen["front_depth"] == 1000).all()  # mm


@pytest.mark.parametrize("loop_hz", [10.0, 60.0])
def test_the_speed_limit_holds_at_every_rate_of_the_loop(
    loop_hz: float, make_robot: MakeRobot, clock: SimClock, arms: list[FakeArm]
) -> None:
    robot = make_robot()
    robot.connect()
    q = HOME
    for tick in range(1, round(0.3 * loop_hz) + 1):
        clock.sleep_until(tick / loop_hz)
        executed = robot.send_action(action(HOME + 0.49))
        now = np.array([executed[name] for name in NAMES[:-1]])
        assert np.array_equal(now.astype(np.float32), arms[0].commands[-1].vector[:-1])
        assert (now >= q).all() and (now - q <= FASTEST * PERIOD + 1e-6).all()
        assert (now - HOME <= FASTEST * ((tick - 1) / loop_hz + 2 * PERIOD) + 1e-6).all()
        q = now
    assert (q - HOME >= np.minimum(FASTEST * 0.2, 0.49) - 1e-6).all()  # and it is used
    shared = shared_arm(DEFAULT_RIG).executed
    assert shared is not None and np.array_equal(shared.q, arms[0].q)


def test_a_late_tick_and_the_one_after_it_may_move_as_two_that_are_in_time(
    make_robot: MakeRobot, clock: SimClock, arms: list[FakeArm]
) -> None:
    robot = make_robot()
    robot.connect()
    step = 0.9 * FASTEST * PERIOD
    for tick, late in enumerate([0.0, 0.0, 0.5, 0.0, 0.0]):
        clock.sleep_until((1 + tick + late) * PERIOD)
        robot.send_action(action(HOME + tick * step))
        assert arms[0].q == pytest.approx(HOME + tick * step)


def test_an_old_frame_is_refused(make_robot: MakeRobot, clock: SimClock, arms: list[FakeArm]) -> None:
    robot = make_robot(stalls_at=1.0)
    robot.connect()
    clock.sleep_until(1.1)
    robot.get_observation()
    clock.sleep_until(1.5)
    with pytest.raises(StaleReading, match="head"):
        robot.get_observation()


def test_the_log_says_what_the_safety_filter_changed(
    make_robot: MakeRobot, clock: SimClock, caplog: pytest.LogCaptureFixture
) -> None:
    robot = make_robot()
    robot.connect()
    for tick, gripper in enumerate([0.0, 1.01, 1.2]):
        clock.sleep_until(tick * PERIOD)
        robot.send_action(action(HOME, gripper))
    with caplog.at_level("INFO"):
        robot.disconnect()
    assert "3 actions sent, 3 followed, changed by the safety filter: 2 because of gripper_range" in caplog.text


def test_nonsense_stops_the_arm(make_robot: MakeRobot, arms: list[FakeArm]) -> None:
    robot = make_robot()
    robot.connect()
    with pytest.raises(SafetyStop, match=r"joint1\.pos"):
        robot.send_action(action(HOME) | {"joint1.pos": float("nan")})
    assert arms[0].holding and not arms[0].commands


def test_an_action_needs_every_joint_by_its_name(make_robot: MakeRobot, arms: list[FakeArm]) -> None:
    robot = make_robot()
    robot.connect()
    with pytest.raises(ConfigError, match=r"needs joint1\.pos.*got shoulder"):
        robot.send_action({"shoulder.pos": 0.0})
    assert arms[0].holding


def test_after_a_pause_a_far_target_is_refused(make_robot: MakeRobot, clock: SimClock, arms: list[FakeArm]) -> None:
    """While nobody sent anything, somebody may have moved the arm."""
    robot = make_robot()
    robot.connect()
    robot.send_action(action(HOME))
    arms[0].q = arms[0].q + 1.0
    clock.sleep_until(0.1)
    robot.send_action(action(HOME))
    arms[0].q = arms[0].q + 1.0
    clock.sleep_until(2.0)
    with pytest.raises(SafetyStop, match="from the measured pose"):
        robot.send_action(action(HOME))
    assert arms[0].holding


def test_a_fault_is_told_even_if_the_arm_does_not_take_the_hold(make_robot: MakeRobot) -> None:
    robot = make_robot(faults=[Fault("command", 0, DeviceFault("arm", "reflex")),
                               Fault("hold", 0, DeviceFault("arm", "no connection"))])  # fmt: skip
    robot.connect()
    with pytest.raises(DeviceFault, match="reflex") as stopped:
        robot.send_action(action(HOME))
    assert "no connection" in stopped.value.__notes__[0]
    with pytest.raises(DeviceFault, match="no connection"):
        robot.disconnect()
    assert not robot.is_connected
    with pytest.raises(ConfigError, match="is open"):
        shared_arm(DEFAULT_RIG)


def test_disconnecting_holds_and_one_may_connect_again(make_robot: MakeRobot, arms: list[FakeArm]) -> None:
    robot = make_robot()
    with pytest.raises(DeviceNotConnectedError):
        robot.get_observation()
    robot.connect()
    with pytest.raises(DeviceAlreadyConnectedError):
        robot.connect()
    robot.send_action(action(HOME))
    robot.disconnect()
    assert arms[0].holding and not robot.is_connected
    robot.connect()
    assert len(arms) == 2 and robot.get_observation()


def test_a_rig_is_opened_once_in_a_process(make_robot: MakeRobot) -> None:
    make_robot().connect()
    another = make_robot()
    with pytest.raises(ConfigError, match="open already"):
        another.connect()
    assert not another.is_connected
