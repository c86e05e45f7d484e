"""FrankaArm against franka-sim, which enforces motion limits and lost packets as the FR3 does.

These tests run in real time: franka-sim and the SDK need about one processor core for themselves. What fails while they do
not get it is skipped with the pace, see `conftest.py`.
"""

import io
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import pytest
from armflow import cli
from armflow.robot.arm import ArmDriver
from armflow.robot.drivers.franka import FrankaArm, FrankaCfg
from armflow.robot.drivers.opencv import OpenCVCfg
from armflow.robot.errors import (
    ConfigError,
    DeviceError,
    DeviceFault,
    DeviceNotFound,
    DeviceTimeout,
    OperatorNeeded,
    SafetyStop,
    StaleReading,
)
from armflow.robot.interpolator import Setpoint
from armflow.robot.rig import load_rig
from armflow.robot.rig_commands import TEMPLATES
from armflow.robot.station import go_home, open_station
from armflow.robot.types import ArmCommand, Floats

pytestmark = pytest.mark.slow  # an environment, a server and real time

CLIENT = Path(__file__).with_name("client.py")
READY = np.array([0.0, 0.0, 0.0, -1.57, 0.0, 1.57, 0.785])  # rad, where franka-sim starts
STEP_RAD = 0.6


class SimulatedRobot(Protocol):
    """What the fixtures give, see `conftest.py`."""

    host: str
    process: subprocess.Popen[str]

    def order(self, line: str) -> str: ...


class WithoutServo(FrankaArm):
    """Passes targets on as they come."""

    goal: Floats | None = None

    def command(self, cmd: ArmCommand) -> ArmCommand:
        self.goal = cmd.q
        return super().command(cmd)

    def _send(self, setpoint: Setpoint) -> None:
        super()._send(setpoint if self.goal is None else Setpoint(self.goal, np.zeros(7), np.zeros(7)))


@pytest.fixture
def arm(robot: SimulatedRobot) -> Iterator[FrankaArm]:
    """In control, at the ready pose."""
    with FrankaArm(FrankaCfg(robot.host)) as arm:
        go_to(arm, READY)
        yield arm


def go_to(arm: FrankaArm, q: Floats, within_s: float = 6.0) -> None:
    deadline = time.monotonic() + within_s
    while np.abs(arm.read().q - q).max() > 0.02:
        assert time.monotonic() < deadline, arm.read().q
        arm.command(ArmCommand(q, arm.read().gripper))
        time.sleep(0.05)


def recover_once_released(arm: FrankaArm, within_s: float = 3.0) -> None:
    """The robot's state says so a little later than the button."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return arm.recover()
        except OperatorNeeded:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def wait_for[E: DeviceError](arm: FrankaArm, kind: type[E], within_s: float = 3.0) -> E:
    """The error of that kind that reading the arm raises in time; others may come before it."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            arm.read()
        except DeviceError as error:
            if isinstance(error, kind):
                return error
        time.sleep(0.005)
    raise AssertionError(f"no {kind.__name__} within {within_s} s")


def stream(arm: FrankaArm, hz: float, seconds: float) -> tuple[Floats, Floats]:
    """Steps of up to 0.6 rad, a new one every second; returns the errors of tracking the reference, and the poses, rad."""
    rng = np.random.default_rng(int(hz))
    errors, poses = [], []
    start = time.monotonic()
    goal = READY
    for i in range(round(hz * seconds)):
        if i % round(hz) == 0:
            goal = READY + rng.choice([-1, 1], 7) * rng.uniform(0.0, STEP_RAD / 2, 7)  # so that steps are up to 0.6
            goal[0] = READY[0] + (STEP_RAD / 2 if i // round(hz) % 2 else -STEP_RAD / 2)
        time.sleep(max(0.0, start + i / hz - time.monotonic()))
        arm.command(ArmCommand(goal, 1.0))
        state = arm.read()
        assert arm._servo is not None
        errors.append(state.q - arm._servo.read().q)
        poses.append(state.q)
    return np.array(errors), np.array(poses)


def assert_streams_cleanly(
    arm: FrankaArm, hz: float, seconds: float, rms_rad: float = 0.02, worst_rad: float = 0.1
) -> None:
    errors, poses = stream(arm, hz, seconds)
    stats = arm.servo_stats
    rms, worst = float(np.sqrt((errors**2).mean())), float(np.abs(errors).max())
    print(f"{hz} Hz: rms {rms:.4f} rad, worst {worst:.4f} rad, {stats}")
    assert rms < rms_rad and worst < worst_rad
    assert np.ptp(poses[:, 0]) > 0.5  # it did move
    assert stats.timeouts == 0


def test_it_is_an_arm_driver(arm: FrankaArm):
    driver: ArmDriver = arm
    state = driver.read()
    for values in (state.q, state.dq, state.effort):
        assert values.shape == (7,) and values.dtype == np.float64 and np.isfinite(values).all()
    assert 0 <= state.gripper <= 1
    assert abs(time.monotonic() - state.t) < 0.1


def test_steps_at_10_hz_are_followed_without_a_reflex(arm: FrankaArm):
    assert_streams_cleanly(arm, 10, 5)


@pytest.mark.parametrize("hz", [10, 30, 50])
def test_steps_at_every_rate_are_followed_without_a_reflex(arm: FrankaArm, hz: float):
    assert_streams_cleanly(arm, hz, 60)


def test_another_reading_of_the_protocol_agrees(other_robot: str):
    with FrankaArm(FrankaCfg(other_robot)) as arm:
        go_to(arm, READY, within_s=20.0)
        # It sleeps between steps instead of keeping real time, so on a busy machine it lags behind.
        assert_streams_cleanly(arm, 20, 5, rms_rad=0.15, worst_rad=0.6)
        arm.command(ArmCommand(arm.read().q, 0.2))
        deadline = time.monotonic() + 5
        while arm.read().gripper > 0.5 and time.monotonic() < deadline:
            arm.command(ArmCommand(READY, 0.2))
            time.sleep(0.05)
        assert arm.read().gripper < 0.5
    assert "idle and without errors" in FrankaArm(FrankaCfg(other_robot)).look()


def test_the_same_step_without_the_servo_is_stopped_by_reflex(robot: SimulatedRobot):
    """The simulator enforces limits, so the tests above prove something; and this is what a fault looks like."""
    with WithoutServo(FrankaCfg(robot.host)) as arm:
        arm.command(ArmCommand(arm.read().q + STEP_RAD * np.eye(7)[0], 1.0))
        fault = wait_for(arm, DeviceFault)
    assert "reflex: joint_velocity_violation" in str(fault) and "then call recover()" in str(fault)


def test_a_fault_is_raised_by_every_call_until_the_operator_recovers(robot: SimulatedRobot, arm: FrankaArm):
    robot.order("reflex")
    wait_for(arm, DeviceFault)
    target = ArmCommand(READY, 1.0)
    for _ in range(2):
        with pytest.raises(DeviceFault, match="cartesian_reflex"):
            arm.command(target)
        with pytest.raises(DeviceFault, match="cartesian_reflex"):
            arm.read()
    arm.hold()
    arm.recover()
    pose = arm.read().q
    time.sleep(0.5)
    np.testing.assert_allclose(arm.read().q, pose, atol=0.01)  # it begins where it stands
    go_to(arm, READY + 0.1)


def test_recover_does_nothing_to_a_healthy_arm(arm: FrankaArm):
    arm.recover()
    go_to(arm, READY + 0.05)


def test_user_stop_ends_the_motion_and_recovery_waits_for_its_release(robot: SimulatedRobot, arm: FrankaArm):
    robot.order("press")
    try:
        fault = wait_for(arm, DeviceFault)
        assert "user stop was pressed" in str(fault) and "release it" in str(fault)
        with pytest.raises(OperatorNeeded, match="still pressed"):
            arm.recover()
    finally:
        robot.order("release")
    recover_once_released(arm)
    go_to(arm, READY + 0.05)


def test_a_pressed_user_stop_is_named_when_connecting(robot: SimulatedRobot):
    robot.order("press")
    try:
        with pytest.raises(OperatorNeeded, match="user stop is pressed"), FrankaArm(FrankaCfg(robot.host)):
            pass
    finally:
        robot.order("release")


def test_old_errors_are_named_when_connecting_and_the_operator_can_clear_them(robot: SimulatedRobot):
    robot.order("reflex")
    arm = FrankaArm(FrankaCfg(robot.host))
    with pytest.raises(DeviceFault, match="cartesian_reflex.*call recover"), arm:
        pass
    arm.recover()
    with arm:
        arm.read()


def test_when_commands_stop_the_arm_brakes_and_holds(arm: FrankaArm):
    """franky's tracker goes on with its last reference for ever."""
    start = arm.read().q
    goal = ArmCommand(start + STEP_RAD * np.eye(7)[0], 1.0)
    arm.command(goal)
    time.sleep(0.15)
    assert abs(arm.read().dq[0]) > 0.2
    time.sleep(1.5)
    held = arm.read()
    assert np.abs(held.dq).max() < 0.02
    assert 0.05 < held.q[0] - start[0] < STEP_RAD - 0.05  # stopped on the way
    assert arm.servo_stats.timeouts == 1
    time.sleep(1.0)
    np.testing.assert_allclose(arm.read().q, held.q, atol=0.005)
    go_to(arm, goal.q)


def test_hold_stops_on_the_way(arm: FrankaArm):
    start = arm.read().q
    arm.command(ArmCommand(start + STEP_RAD * np.eye(7)[0], 1.0))
    time.sleep(0.15)
    arm.hold()
    arm.hold()
    time.sleep(1.0)
    state = arm.read()
    assert np.abs(state.dq).max() < 0.02 and state.q[0] - start[0] < STEP_RAD - 0.05


def test_a_failed_reference_ends_in_a_soft_stop(arm: FrankaArm, monkeypatch: pytest.MonkeyPatch):
    """The tracker would keep the last reference, with its velocity."""
    arm.command(ArmCommand(READY + STEP_RAD * np.eye(7)[0], 1.0))
    time.sleep(0.15)

    def broken(*_: object, **__: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(arm._tracker, "set_target", broken)
    assert "no" in str(wait_for(arm, DeviceFault))
    arm.hold()
    time.sleep(2.0)
    assert np.abs(arm._robot.state.dq).max() < 0.02
    assert not arm._robot.is_in_control


def test_nonsense_is_refused(arm: FrankaArm):
    with pytest.raises(SafetyStop, match="finite"):
        arm.command(ArmCommand(np.full(7, np.nan), 1.0))
    arm.read()


def test_a_command_says_what_is_sent(arm: FrankaArm):
    sent = arm.command(ArmCommand(READY + 10 * np.eye(7)[6], 1.7))
    arm.hold()
    assert sent.q[6] == arm.spec.q_max[6] - 0.05 and sent.gripper == 1.0
    np.testing.assert_array_equal(sent.q[:6], READY[:6])


def test_the_hand_opens_closes_and_grasps(robot: SimulatedRobot, arm: FrankaArm):
    def until(low: float, high: float, opening: float) -> None:
        deadline = time.monotonic() + 3
        while not low <= arm.read().gripper <= high:
            assert time.monotonic() < deadline, arm.read().gripper
            arm.command(ArmCommand(READY, opening))
            time.sleep(0.05)

    until(1.0, 1.0, 1.0)
    until(0.69, 0.71, 0.7)
    until(0.0, 0.0, 0.0)
    until(1.0, 1.0, 1.0)
    robot.order("object 0.03")
    try:
        until(0.37, 0.38, 0.0)
        arm.hold()
        assert arm._hand is not None and arm._hand.read() > 0.37
        until(1.0, 1.0, 1.0)
    finally:
        robot.order("object 0")


def test_a_robot_that_falls_silent_is_an_error(doomed_robot: SimulatedRobot):
    arm = FrankaArm(FrankaCfg(doomed_robot.host))
    with pytest.raises(DeviceFault), arm:
        doomed_robot.process.send_signal(signal.SIGSTOP)
        silence = wait_for(arm, StaleReading)
        assert "the robot's state is" in str(silence)  # before the hand or the connection is missed
        doomed_robot.process.kill()
        fault = wait_for(arm, DeviceFault)
        assert "check the cable" in str(fault)
        raise fault


def client(host: str) -> subprocess.Popen[str]:
    """A program that drives the arm, once it does."""
    process = subprocess.Popen([sys.executable, CLIENT, host], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "streaming\n"
    return process


def test_a_program_frozen_for_80_ms_is_told_and_can_recover(robot: SimulatedRobot):
    with client(robot.host) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.08)
            process.send_signal(signal.SIGCONT)
            assert "communication_constraints_violation" in process.stdout.readline()
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "recovered\n"
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_after_the_death_of_a_program_the_robot_holds_and_another_can_connect(robot: SimulatedRobot):
    with client(robot.host) as process:
        process.kill()
    with FrankaArm(FrankaCfg(robot.host)) as arm:
        pose = arm.read()
        assert np.abs(pose.dq).max() < 0.05
        time.sleep(0.5)
        np.testing.assert_allclose(arm.read().q, pose.q, atol=0.01)


def test_a_look_takes_no_control(robot: SimulatedRobot):
    assert "idle and without errors" in FrankaArm(FrankaCfg(robot.host)).look()
    robot.order("press")
    try:
        with pytest.raises(OperatorNeeded, match="user stop is pressed"):
            FrankaArm(FrankaCfg(robot.host)).look()
    finally:
        robot.order("release")


def test_a_rig_opens_drives_home_and_lets_go(robot: SimulatedRobot, tmp_path: Path):
    video = tmp_path / "scene.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for _ in range(900):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    rig = load_rig().with_image_size(64, 48)
    rig = replace(
        rig, franka=FrankaCfg(robot.host), cameras=tuple(replace(c, opencv=OpenCVCfg(video)) for c in rig.cameras)
    )
    with open_station(rig) as station:
        go_home(station)
        np.testing.assert_allclose(station.arm.read().q, rig.arm.home_q, atol=0.02)
        assert station.cameras["front"].latest(max_age_s=5.0).rgb.shape == (48, 64, 3)
    with open_station(rig):
        pass


def test_an_operator_recovers_it_from_the_command_line(
    robot: SimulatedRobot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    rig = tmp_path / "rig.toml"
    rig.write_text(TEMPLATES["fr3_realsense"].read_text().replace("172.16.0.2", robot.host))

    def run(answer: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(answer + "\n"))
        monkeypatch.setattr("sys.argv", ["armflow", "rig", "recover", str(rig)])
        try:
            cli.main()
        except SystemExit as stopped:
            assert stopped.code == 1
        shown = capsys.readouterr()
        return " ".join((shown.out + shown.err).split())

    with FrankaArm(FrankaCfg(robot.host)) as arm:
        robot.order("reflex")
        wait_for(arm, DeviceFault)
    assert "look at the arm and at what it touches, then run this again" in run("n")
    assert "recovered: answers at" in run("y")
    assert "nothing to recover: answers at" in run("y")


def test_where_nothing_listens_the_message_says_what_to_check():
    pytest.importorskip("franky", reason="needs franky-control")
    with (
        pytest.raises(DeviceNotFound, match="no FCI at 127.0.0.1.*FCI is active in Desk"),
        FrankaArm(FrankaCfg("127.0.0.1")),
    ):
        pass


def test_a_robot_that_does_not_answer_is_given_up_in_time():
    pytest.importorskip("franky", reason="needs franky-control")
    cfg = FrankaCfg("127.0.0.1", connect_timeout_s=0.5)
    with socket.create_server(("127.0.0.1", 1337)):
        start = time.monotonic()
        with pytest.raises(DeviceTimeout, match="does not answer.*no other program"), FrankaArm(cfg):
            pass
        assert time.monotonic() - start < 3


def test_without_the_sdk_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "franky", None)
    with pytest.raises(DeviceNotFound, match=r'pip install "armflow\[franka\]"'):
        FrankaArm(FrankaCfg("nowhere"))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="stiffness must be 7 positive numbers"):
        FrankaCfg("nowhere", stiffness=(400.0,) * 6)
    with pytest.raises(ConfigError, match="speed_scale"):
        FrankaCfg("nowhere", speed_scale=1.5)
    with pytest.raises(ConfigError, match="max_state_age_s"):
        FrankaCfg("nowhere", max_state_age_s=0.0)
