"""Any robot that is registered with LeRobot: a plugin with other names, another unit and a bus that raises."""

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.robot.drivers.lerobot_arm import LeRobotArm
from armflow.robot.drivers.lerobot_config import LeRobotArmCfg
from armflow.robot.errors import DeviceError, DeviceFault, StaleReading
from armflow.robot.types import ArmCommand, ArmSpec

SPEC = ArmSpec(
    name="seven",
    joint_names=tuple(f"joint{i}" for i in range(1, 8)),
    q_min=np.full(7, -np.pi / 2),
    q_max=np.full(7, np.pi / 2),
    dq_max=np.full(7, 2.0),
    ddq_max=np.full(7, 10.0),
    tau_max=np.full(7, 10.0),
    gripper_width_m=0.1,
)
Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LeRobotArmCfg:
    """-100..100 is -90..90 degrees, joint1 counts the other way, joint2 reads 0 at 10 degrees; the claw is open at 10."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    importlib.import_module("lerobot_robot_seven")
    return LeRobotArmCfg(
        type="seven",
        joints=tuple("gfedcba"),
        gripper="claw",
        gripper_closed=90.0,
        gripper_open=10.0,
        deg_per_unit=(-0.9, *(0.9,) * 6),
        zero_deg=(0.0, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        calibration_dir=str(tmp_path),
        max_age_s=0.2,
        fault_age_s=1000.0,
    )


@pytest.fixture
def arm(cfg: LeRobotArmCfg) -> Iterator[LeRobotArm]:
    with LeRobotArm(replace(cfg, max_age_s=2.0, fault_age_s=4.0), SPEC) as arm:
        yield arm


def robot(arm: LeRobotArm) -> Any:
    """The plugin's own object."""
    return arm._link._robot  # pyright: ignore[reportPrivateUsage]


def test_names_units_signs_and_offsets_are_the_configured_ones(arm: LeRobotArm, eventually: Eventually):
    np.testing.assert_allclose(np.degrees(arm.read().q), [-45, 55, 45, 45, 45, 45, 45])
    assert arm.read().gripper == pytest.approx(0.5)
    goal = np.radians([-18.0, 37.0, 27.0, 36.0, 45.0, 54.0, 63.0])

    def there() -> bool:
        arm.command(ArmCommand(goal, 0.75))
        return bool(np.abs(arm.read().q - goal).max() < 1e-4)

    eventually(there)
    values = robot(arm).values
    np.testing.assert_allclose([values[name] for name in "gfedcba"], [20, 30, 30, 40, 50, 60, 70], atol=0.01)
    assert values["claw"] == pytest.approx(30.0, abs=0.5)


def test_velocity_comes_from_positions_and_effort_is_zero_where_nothing_is_measured(
    arm: LeRobotArm, eventually: Eventually
):
    start, seen = arm.read().q, []

    def moved() -> bool:
        arm.command(ArmCommand(start + [0.5, 0, 0, 0, 0, 0, 0], 0.5))
        seen.append(arm.read())
        return bool(seen[-1].q[0] > start[0] + 0.4)

    eventually(moved)
    dq = np.array([state.dq for state in seen])
    assert 0.1 < dq[:, 0].max() < 2.0
    np.testing.assert_allclose(dq[:, 1:], 0.0, atol=1e-9)
    np.testing.assert_array_equal(seen[-1].effort, np.zeros(7))


@pytest.mark.parametrize("name", ["c", "claw"])
def test_a_measurement_that_is_not_finite_is_a_fault_until_recovery(arm: LeRobotArm, name: str):
    plugin = robot(arm)
    send, plugin.send_action = plugin.send_action, lambda action: action  # else the next target overwrites it
    plugin.values[name] = np.nan
    assert "not finite" in errors_until_fault(arm)[-1].message
    plugin.values[name], plugin.send_action = 50.0, send
    with pytest.raises(DeviceFault, match="not finite"):
        arm.read()
    arm.recover()
    assert np.isfinite(arm.read().q).all()


def test_a_failed_exchange_is_forgiven_and_a_lasting_failure_is_a_fault(
    cfg: LeRobotArmCfg, eventually: Eventually, shifted: Any
):
    with LeRobotArm(cfg, SPEC, shifted) as arm:
        robot(arm).fails = ConnectionError("no status packet")
        time.sleep(0.03)
        robot(arm).fails = None
        seen = arm.read().t
        eventually(lambda: arm.read().t > seen)
        robot(arm).fails = ConnectionError("no status packet")
        with pytest.raises(StaleReading, match="no status packet"):
            read_for_ever(arm)
        shifted.shift_s = 2000.0
        assert "no status packet" in errors_until_fault(arm)[-1].message
        robot(arm).fails = None
        with pytest.raises(DeviceFault, match="no status packet"):
            arm.command(ArmCommand(np.zeros(7), 0.5))
        arm.recover()
        assert arm.read().q.shape == (7,)


def test_a_call_that_hangs_blocks_nobody(cfg: LeRobotArmCfg):
    with LeRobotArm(cfg, SPEC) as arm:
        robot(arm).answering.clear()
        try:
            for _ in range(3):
                with pytest.raises(StaleReading):
                    read_for_ever(arm)
                arm.hold()
        finally:
            robot(arm).answering.set()


def test_an_error_nobody_foresaw_is_a_fault(arm: LeRobotArm):
    robot(arm).fails = ZeroDivisionError("in the plugin")
    errors = errors_until_fault(arm)
    assert "in the plugin" in errors[-1].message
    robot(arm).fails = None
    arm.recover()
    assert arm.read().q.shape == (7,)


def test_a_target_that_lerobot_changes_is_a_fault(arm: LeRobotArm):
    """What is recorded as executed must be what was executed."""
    send = robot(arm).send_action
    robot(arm).send_action = lambda action: send({**action, "c.pos": min(action["c.pos"], 40.0)})
    assert "LeRobot changed c.pos 50.000 to 40.000" in errors_until_fault(arm)[-1].message


def read_for_ever(arm: LeRobotArm) -> None:
    """Until an error ends it."""
    while True:
        arm.read()
        time.sleep(0.01)


def errors_until_fault(arm: LeRobotArm) -> list[DeviceError]:
    errors: list[DeviceError] = []
    until = time.monotonic() + 20.0
    while not (errors and isinstance(errors[-1], DeviceFault)):
        assert time.monotonic() < until
        try:
            arm.read()
        except DeviceError as error:
            errors.append(error)
        time.sleep(0.01)
    return errors
