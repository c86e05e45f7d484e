"""OpenArm: LeRobot's own follower, unmodified, over python-can's virtual bus, with motors made of software."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.robot import openarm
from armflow.robot.drivers import lerobot_link
from armflow.robot.drivers.lerobot_arm import LeRobotArm
from armflow.robot.drivers.lerobot_config import LeRobotArmCfg
from armflow.robot.errors import (
    ConfigError,
    DeviceFault,
    DeviceNotFound,
    DeviceTimeout,
    OperatorNeeded,
    SafetyStop,
    StaleReading,
)
from armflow.robot.servo import MAX_STEP_S
from armflow.robot.types import ArmCommand

pytestmark = pytest.mark.slow  # in real time

SPEC = openarm.RIGHT
BIT_RAD = 25.0 / 65535  # what one bit of a position is
Q = np.array([0.3, 0.4, -0.5, 0.6, 0.7, -0.2, 0.9])  # inside of every joint's range, all different

Opened = Callable[..., LeRobotArm]
Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture(autouse=True)
def soon_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting in vain for the first reading takes less long."""
    monkeypatch.setattr(lerobot_link, "FIRST_READING_S", 0.25)


def go(arm: LeRobotArm, q: np.ndarray, opening: float, eventually: Eventually) -> None:
    """Command until the arm is there: twice as close as the tests then ask of the motors."""

    def there() -> bool:
        arm.command(ArmCommand(q, opening))
        state = arm.read()
        return bool(np.abs(state.q - q).max() < 0.005 and abs(state.gripper - opening) < 0.01)

    eventually(there)


def stale(arm: LeRobotArm) -> str:
    """What a StaleReading says, or nothing."""
    try:
        arm.read()
    except StaleReading as error:
        return error.message
    return ""


def faulty(arm: LeRobotArm) -> DeviceFault | None:
    try:
        arm.read()
    except DeviceFault as fault:
        return fault
    except StaleReading:
        pass
    return None


def test_every_joint_is_read_alone_in_its_place_and_in_radians(cfg: LeRobotArmCfg, motors: Any, opened: Opened):
    for i in range(7):
        motors[i].q, motors[i].torque = Q[i], i + 1.0
    motors[7].q = np.radians(-65.0 / 4)
    state = opened(cfg).read()
    np.testing.assert_allclose(state.q, Q, atol=2 * BIT_RAD)
    np.testing.assert_allclose(state.effort, np.arange(1, 8), atol=0.05)
    np.testing.assert_allclose(state.dq, 0.0, atol=0.03)
    assert state.gripper == pytest.approx(0.25, abs=0.001)


def test_every_joint_moves_alone_and_in_radians(
    cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually
):
    motors[3].q = 0.3  # away from the end of its range, where the arm may not stay
    arm = opened(cfg)
    q = arm.read().q.copy()
    for i in range(7):
        q[i] += 0.04
        go(arm, q, 0.0, eventually)
        np.testing.assert_allclose([m.q for m in motors.motors[:7]], q, atol=0.01)
        assert abs(motors[7].q) < 0.01
    go(arm, q, 0.4, eventually)
    np.testing.assert_allclose([m.q for m in motors.motors], [*q, np.radians(-26.0)], atol=0.03)


def test_the_order_is_the_configured_one(cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually):
    """LeRobot's dict has joint_1 first; the configuration alone decides which of our joints that is."""
    cfg = replace(cfg, joints=("joint_3", "joint_2", "joint_1", *cfg.joints[3:]))
    with pytest.raises(ConfigError, match="LeRobot clips joint_1 to -75.0..75.0, openarm_right goes from -85"):
        LeRobotArm(cfg, SPEC)
    order = [2, 1, 0, 3, 4, 5, 6]
    motors[0].q, motors[2].q, motors[3].q = 0.1, -0.2, 0.3
    arm = opened(cfg, replace(SPEC, q_min=SPEC.q_min[order], q_max=SPEC.q_max[order]))
    np.testing.assert_allclose(arm.read().q[:3], [-0.2, 0.0, 0.1], atol=2 * BIT_RAD)
    go(arm, arm.read().q + [0.1, 0, 0, 0, 0, 0, 0], 0.0, eventually)
    assert motors[2].q == pytest.approx(-0.1, abs=0.01)


def test_a_jump_becomes_a_path_inside_the_limits(
    cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually
):
    motors[3].q = 0.3
    arm = opened(cfg)
    sent = arm.command(ArmCommand(np.full(7, 9.0), 7.0))
    np.testing.assert_allclose(sent.q, SPEC.q_max - cfg.joint_margin_rad)
    assert sent.gripper == 1.0
    q = arm.read().q + np.array([0.4, 0.0, -0.4, 0.0, 0.0, 0.0, 0.4])
    go(arm, q, 0.5, eventually)
    limits = cfg.limits(SPEC)
    for i in range(7):
        targets = np.array([target for _, target in motors[i].targets])
        assert len(targets) > 10
        assert np.abs(np.diff(targets)).max() <= limits.dq_max[i] * MAX_STEP_S + 2 * BIT_RAD
        assert targets.min() >= min(SPEC.q_min[i], 0.0) - BIT_RAD and targets.max() <= SPEC.q_max[i] + BIT_RAD


def test_the_gripper_never_leads_by_more_than_is_allowed(
    cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually
):
    """A P controller grips the harder, the further its target is inside of what it holds."""
    grasped = np.radians(-40.0)
    motors[7].q, motors[7].stuck = grasped, True
    arm = opened(cfg)
    inside = grasped + np.radians(65.0 * cfg.gripper_lead)

    def squeezed() -> bool:
        arm.command(ArmCommand(arm.read().q, 0.0))
        return bool(abs(motors[7].targets[-1][1] - inside) < 2 * BIT_RAD)

    eventually(squeezed)
    assert max(target for _, target in motors[7].targets) <= inside + 2 * BIT_RAD


def test_a_silent_motor_makes_readings_stale_and_names_itself(
    cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually
):
    """LeRobot itself goes on with the last known state, so this breaks when it changes what it does."""
    arm = opened(replace(cfg, max_age_s=0.1, fault_age_s=1000.0))
    motors[2].mute = True
    eventually(lambda: stale(arm).startswith("joint_3 last answered"))
    with pytest.raises(StaleReading):
        arm.command(ArmCommand(np.zeros(7), 0.0))
    motors[2].mute = False
    eventually(lambda: arm.read().q.shape == (7,))


def test_a_reading_is_as_old_as_its_oldest_part(
    cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually
):
    arm = opened(replace(cfg, max_age_s=100.0, fault_age_s=1000.0))
    first = arm.read().t
    eventually(lambda: arm.read().t > first)
    motors[2].mute = True

    def exchange(times: int) -> None:
        until = arm.servo_stats.ticks + times
        eventually(lambda: arm.servo_stats.ticks >= until)

    exchange(3)  # what was on its way
    t = arm.read().t
    exchange(5)
    assert arm.read().t == t


def test_a_joint_a_little_outside_of_its_range_is_led_back_in(cfg: LeRobotArmCfg, motors: Any, opened: Opened):
    motors[3].q = -0.03  # the elbow hangs straight: that is the end of its range
    arm = opened(cfg)
    assert arm.read().q[3] < 0.0
    arm.command(ArmCommand(arm.read().q, 0.0))
    assert min(target for _, target in motors[3].targets) >= -BIT_RAD


def test_a_motor_that_stays_silent_is_a_fault_until_recovery(
    cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually, shifted: Any
):
    arm = opened(replace(cfg, fault_age_s=1000.0), SPEC, shifted)
    q = arm.read().q
    motors[2].mute = True
    shifted.shift_s = 2000.0
    eventually(lambda: faulty(arm) is not None)
    time.sleep(0.05)
    for _ in range(2):
        with pytest.raises(DeviceFault, match="joint_3.* not answered for .* s; check power.*recover"):
            arm.command(ArmCommand(q, 0.0))
    targets = len(motors[0].targets)
    eventually(lambda: len(motors[0].targets) > targets)  # the others go on holding
    with pytest.raises(DeviceTimeout, match="no answer from joint_3;"):
        arm.recover()
    motors[2].mute = False
    with pytest.raises(DeviceFault):
        arm.read()
    arm.recover()
    go(arm, q + [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 0.0, eventually)


def test_a_dead_bus_is_a_fault_and_recovery_connects_again(
    cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually, shifted: Any
):
    arm = opened(replace(cfg, max_age_s=0.1, fault_age_s=1000.0), SPEC, shifted)
    arm._link._bus.canbus.shutdown()  # pyright: ignore[reportPrivateUsage] - as if the adapter were pulled out
    eventually(lambda: bool(stale(arm)) and "closed bus" in stale(arm))
    shifted.shift_s = 2000.0
    with pytest.raises(DeviceFault, match="joint_1, joint_2.*closed bus.*check power and cables"):
        arm.read()
    arm.hold()
    motors[3].mute = True
    with pytest.raises(DeviceNotFound, match="joint_4"):
        arm.recover()
    with pytest.raises(DeviceFault, match="not in control.*recover"):
        arm.command(ArmCommand(np.zeros(7), 0.0))
    motors[3].mute = False
    arm.recover()
    assert arm.read().q.shape == (7,)


def test_before_the_first_answer_there_is_no_zero(cfg: LeRobotArmCfg, motors: Any, monkeypatch: pytest.MonkeyPatch):
    """LeRobot has a position for every motor from the start, and after its handshake another one that is as wrong."""
    arm = LeRobotArm(cfg, SPEC)
    connect = arm._link.connect  # pyright: ignore[reportPrivateUsage]

    def then_a_cable_comes_off() -> None:
        connect()
        motors[4].mute = True

    monkeypatch.setattr(arm._link, "connect", then_a_cable_comes_off)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(DeviceTimeout, match="no answer from joint_5; check power"):
        arm.__enter__()
    with pytest.raises(DeviceFault, match="not in control"):
        arm.read()


def test_a_motor_that_is_not_there_is_named_and_the_bus_is_released(cfg: LeRobotArmCfg, motors: Any):
    motors[5].mute = True
    arm = LeRobotArm(cfg, SPEC)
    with pytest.raises(DeviceNotFound, match="joint_6"):
        arm.__enter__()
    assert len(motors.listeners) == 1  # the motors themselves
    motors[5].mute = False
    with arm:
        assert len(motors.listeners) == 2
    assert len(motors.listeners) == 1


def test_without_commands_it_brakes_and_holds(cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually):
    arm = opened(cfg)
    goal = arm.read().q + [1.2, 0, 0, 0, 0, 0, 0]
    arm.command(ArmCommand(goal, 0.0))
    eventually(lambda: arm.servo_stats.timeouts == 1)
    eventually(lambda: abs(arm.read().dq).max() < 0.03)
    count = len(motors[0].targets)
    eventually(lambda: len(motors[0].targets) > count + 5)  # it goes on holding
    held = [target for _, target in motors[0].targets[count:]]
    assert np.ptp(held) <= 2 * BIT_RAD and 0.0 < held[-1] < goal[0] - 0.1  # on the way there


def test_hold_is_idempotent_from_any_thread(cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually):
    arm = opened(cfg)
    goal = arm.read().q + [1.2, 0, 0, 0, 0, 0, 0]
    for _ in range(3):
        arm.command(ArmCommand(goal, 0.0))
        time.sleep(0.05)
    threads = [threading.Thread(target=arm.hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: abs(arm.read().dq).max() < 0.03)
    assert 0.0 < arm.read().q[0] < goal[0] - 0.1


def test_a_target_that_is_not_finite_is_refused_and_the_arm_holds(cfg: LeRobotArmCfg, motors: Any, opened: Opened):
    arm = opened(cfg)
    q = arm.read().q.copy()
    q[2] = np.nan
    with pytest.raises(SafetyStop, match="finite joint target"):
        arm.command(ArmCommand(q, 0.0))
    with pytest.raises(SafetyStop):
        arm.command(ArmCommand(arm.read().q, np.nan))
    assert np.isfinite([target for m in motors.motors for _, target in m.targets]).all()


@pytest.mark.parametrize(("status", "word"), [(0xE, "overload"), (0x0, "disabled")])
def test_what_a_motor_reports_is_a_fault_until_recovery_clears_it(
    cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually, status: int, word: str
):
    arm = opened(cfg)
    motors[1].status = status
    eventually(lambda: faulty(arm) is not None)
    with pytest.raises(DeviceFault, match=f"joint_2 reports '{word}'"):
        arm.command(ArmCommand(np.zeros(7), 0.0))
    others = [m for m in motors.motors if m.id != 2]
    enabled = [m.switched for m in others]
    arm.recover()
    assert motors[1].status == 1
    assert [m.switched for m in others] == enabled  # nobody else went limp
    go(arm, arm.read().q + [0, 0.1, 0, 0.1, 0, 0, 0], 0.0, eventually)


def test_with_an_error_it_refuses_to_begin_until_recovery(cfg: LeRobotArmCfg, motors: Any):
    motors[0].status = 0xB
    arm = LeRobotArm(cfg, SPEC)
    with pytest.raises(DeviceFault, match="joint_1 reports 'driver too hot'"):
        arm.__enter__()
    arm.recover()
    with arm:
        assert arm.read().q.shape == (7,)


def test_a_position_out_of_range_is_a_fault(cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually):
    arm = opened(cfg)
    motors[6].q, motors[6].stuck = 3.0, True
    eventually(lambda: faulty(arm) is not None)
    with pytest.raises(DeviceFault, match="joint7 at 171.9 degrees, outside of the joint range"):
        arm.read()
    with pytest.raises(DeviceFault, match="joint7"):  # it is still there
        arm.recover()
    with pytest.raises(DeviceFault, match="not in control"):
        arm.read()
    motors[6].q = 0.1
    arm.recover()
    assert arm.read().q[6] == pytest.approx(0.1, abs=0.01)


def test_a_joint_that_does_not_follow_is_a_fault(
    cfg: LeRobotArmCfg, motors: Any, opened: Opened, eventually: Eventually
):
    motors[0].stuck = True
    arm = opened(cfg)

    def noticed() -> bool:
        if fault := faulty(arm):
            return "joint1 is" in fault.message and "behind its target" in fault.message
        arm.command(ArmCommand(np.array([1.0, 0, 0, 0.1, 0, 0, 0]), 0.0))
        return False

    eventually(noticed)


@pytest.mark.parametrize("torque_off", [True, False])
def test_on_exit_the_motors_let_go_or_hold_as_configured(cfg: LeRobotArmCfg, motors: Any, torque_off: bool):
    with LeRobotArm(replace(cfg, torque_off_on_exit=torque_off), SPEC) as arm:
        for _ in range(3):
            arm.command(ArmCommand(arm.read().q + [0.5, 0, 0, 0, 0, 0, 0], 0.0))
            time.sleep(0.05)
    assert [m.status for m in motors.motors] == [0 if torque_off else 1] * 8
    with pytest.raises(DeviceFault, match="not in control"):
        arm.read()
    if not torque_off:
        assert motors[0].targets[-1][1] == pytest.approx(
            motors[0].targets[-2][1], abs=2 * BIT_RAD
        )  # came to rest first


def test_without_a_calibration_an_operator_is_asked(cfg: LeRobotArmCfg, motors: Any, tmp_path: Path):
    with pytest.raises(OperatorNeeded, match="lerobot-calibrate"):
        LeRobotArm(replace(cfg, id="nobody"), SPEC).__enter__()
    assert len(motors.listeners) == 1


def test_it_cannot_be_opened_twice(cfg: LeRobotArmCfg, motors: Any, opened: Opened):
    arm = opened(cfg)
    with pytest.raises(DeviceFault, match="in use already"):
        arm.__enter__()
    assert arm.read().q.shape == (7,)
