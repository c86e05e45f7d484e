"""LeRobot's own leader classes and the real SDKs, on servos that only exist as registers."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.robot.clock import SimClock
from armflow.robot.control import observe
from armflow.robot.errors import ConfigError, DeviceFault, DeviceNotFound, OperatorNeeded
from armflow.robot.fakes import FakeArm
from armflow.robot.kinematics import Kinematics
from armflow.robot.rig import load_rig
from armflow.robot.types import Floats
from armflow.teleop.leader import LeaderCfg
from armflow.teleop.lerobot_leader import open_leader
from armflow.teleop.source import MAX_JOINT_SPEED_RAD_S, TeleopSource

pytestmark = pytest.mark.slow  # importing LeRobot takes its time

FULL_TURN = 4095  # counts; LeRobot takes them for 360 degrees
MIDDLE = FULL_TURN / 2
OPENARM = (*(f"joint_{i}" for i in range(1, 8)), "gripper")
KOCH = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")

Calibrate = Callable[..., Path]
MakeLeader = Callable[..., Any]


@pytest.fixture
def calibrate(tmp_path: Path) -> Calibrate:
    """calibrate(servos, motors): LeRobot's calibration "mine", on disk and in the servos; the gripper's range is 1000 to
    3000. Returns its folder."""

    def _calibrate(servos: Any, motors: tuple[str, ...]) -> Path:
        text = {}
        for id, motor in enumerate(motors, start=1):
            low, high = (1000, 3000) if motor == "gripper" else (0, FULL_TURN)
            text[motor] = {"id": id, "drive_mode": 0, "homing_offset": 0, "range_min": low, "range_max": high}
            servos.set(id, "Min_Position_Limit", low)
            servos.set(id, "Max_Position_Limit", high)
            servos.set(id, "Present_Position", 2000)
        (tmp_path / "mine.json").write_text(json.dumps(text))
        return tmp_path

    return _calibrate


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(prompt: str = "") -> str:
        raise AssertionError(f"asked for: {prompt}")

    monkeypatch.setattr("builtins.input", ask)


def openarm_mini(port: str, calibration_dir: Path) -> LeaderCfg:
    return LeaderCfg(
        "openarm_mini", port, "mine", OPENARM[:7], (1.0,) * 7, (0.0,) * 7, gripper_open=-65.0,
        calibration_dir=calibration_dir,
    )  # fmt: skip


def in_degrees(counts: int) -> float:
    return (counts - MIDDLE) * 360 / FULL_TURN


def test_a_feetech_leader_with_seven_joints_reads_degrees(feetech: Any, calibrate: Calibrate) -> None:
    """OpenArm Mini; it swaps its joints 6 and 7 itself."""
    leader = open_leader("openarm_mini", feetech.port, "mine", calibrate(feetech, OPENARM), OPENARM)
    counts = [2100, 2200, 1900, 2047, 0, 4095, 3000]
    for id, count in enumerate(counts, start=1):
        feetech.set(id, "Present_Position", count)
    action = leader.get_action()
    leader.disconnect()
    expected = [in_degrees(count) for count in [*counts[:5], counts[6], counts[5]]]
    np.testing.assert_allclose([action[f"{motor}.pos"] for motor in OPENARM[:7]], expected)
    assert action["gripper.pos"] == pytest.approx(-0.65 * 50), "half open, in OpenArm's degrees"


def test_a_dynamixel_leader_reads_degrees_too_although_lerobot_reads_it_in_percent(
    dynamixel: Any, calibrate: Calibrate
) -> None:
    """Koch's leader."""
    leader = open_leader("koch_leader", dynamixel.port, "mine", calibrate(dynamixel, KOCH), KOCH)
    counts = [2100, 2200, 1900, 0, 4095]
    for id, count in enumerate(counts, start=1):
        dynamixel.set(id, "Present_Position", count)
    action = leader.get_action()
    np.testing.assert_allclose([action[f"{motor}.pos"] for motor in KOCH[:5]], [in_degrees(c) for c in counts])
    assert action["gripper.pos"] == pytest.approx(50)
    assert dynamixel.get(6, "Torque_Enable") == 1, "the gripper is a trigger that springs back"
    leader.disconnect()
    assert dynamixel.get(6, "Torque_Enable") == 0


def test_an_arm_follows_a_real_leader_from_a_matching_pose_on(
    feetech: Any, calibrate: Calibrate, clock: SimClock, make_leader: MakeLeader
) -> None:
    def counts(q: Floats) -> list[int]:
        return [round(MIDDLE + x * FULL_TURN / (2 * np.pi)) for x in q]

    def lead(q: Floats) -> None:
        """Servos 6 and 7 the other way round, as OpenArm Mini has them."""
        for id, count in zip((1, 2, 3, 4, 5, 7, 6), counts(q), strict=True):
            feetech.set(id, "Present_Position", count)

    home = np.array(load_rig().arm.home_q)
    arm = FakeArm(clock, q=home)
    device = make_leader(openarm_mini(feetech.port, calibrate(feetech, OPENARM)))
    source = TeleopSource(device, Kinematics(load_rig().arm), control_hz=10.0)
    goal = home + np.array([0.2, -0.1, 0.1, 0.1, -0.2, 0.1, 0.3])

    def tick() -> Floats:
        clock.sleep_until(clock.now() + 0.1)
        device.wait_for_reading()
        decision = source.next(observe(arm, {}, clock, 1.0))
        assert decision is not None
        return arm.command(decision.command).q.copy()

    with device:
        lead(goal)
        assert [tick().tolist() for _ in range(2)] == [home.tolist()] * 2
        lead(home + 0.1)
        first = tick()
        lead(goal)
        path = np.stack([home, first, *(tick() for _ in range(20))])
    (said,) = device.said
    assert "joint1 (joint_1) by -0.20 rad" in said and "joint2" not in said
    np.testing.assert_allclose(first, home, atol=1e-9)
    assert np.abs(np.diff(path, axis=0)).max() <= MAX_JOINT_SPEED_RAD_S * 0.1 + 1e-9
    np.testing.assert_allclose(path[-1], goal, atol=2 * np.pi / FULL_TURN)


def test_a_cable_that_is_pulled_is_the_leaders_fault(
    feetech: Any, calibrate: Calibrate, clock: SimClock, make_leader: MakeLeader
) -> None:
    with make_leader(openarm_mini(feetech.port, calibrate(feetech, OPENARM))) as device:
        device.wait_for_reading()
        feetech.unplug()
        end = time.monotonic() + 30
        with pytest.raises(DeviceFault, match="leader: its .*connect it again, then start the session again"):
            while time.monotonic() < end:
                clock.sleep_until(clock.now() + 0.5)
                device.read(FakeArm(clock).read())
                time.sleep(0.01)
    assert not device._arm.is_connected, "the port is closed all the same"


def test_a_leader_without_a_calibration_says_how_to_make_one(feetech: Any, tmp_path: Path) -> None:
    with pytest.raises(OperatorNeeded, match="lerobot-calibrate --teleop.type=openarm_mini --teleop.port=.*id=mine"):
        open_leader("openarm_mini", feetech.port, "mine", tmp_path, OPENARM)


def test_a_calibration_that_is_not_the_servos_own_is_refused(feetech: Any, calibrate: Calibrate) -> None:
    folder = calibrate(feetech, OPENARM)
    feetech.set(3, "Max_Position_Limit", 3000)
    with pytest.raises(OperatorNeeded, match="its motors hold another calibration"):
        open_leader("openarm_mini", feetech.port, "mine", folder, OPENARM)


def test_a_motor_that_the_leader_does_not_have_is_named(dynamixel: Any, calibrate: Calibrate) -> None:
    folder = calibrate(dynamixel, KOCH)
    with pytest.raises(ConfigError, match="koch_leader has no motor joint_1, joint_2; it has shoulder_pan, .*gripper"):
        open_leader("koch_leader", dynamixel.port, "mine", folder, ("joint_1", "joint_2", "gripper"))


def test_an_unknown_leader_lists_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="knows no teleoperator 'gelo'; it knows .*openarm_mini"):
        open_leader("gelo", "/dev/null", "mine", tmp_path, ())


@pytest.mark.parametrize("missing", ["port", "servo"])
def test_a_leader_that_is_not_there_is_not_found(
    feetech: Any, dynamixel: Any, calibrate: Calibrate, tmp_path: Path, missing: str
) -> None:
    """The servos at the port speak another protocol: nobody answers."""
    folder = calibrate(feetech, OPENARM)
    port = str(tmp_path / "ttyUSB0") if missing == "port" else dynamixel.port
    with pytest.raises(DeviceNotFound, match=f"leader: openarm_mini on {port} does not answer"):
        open_leader("openarm_mini", port, "mine", folder, OPENARM)
