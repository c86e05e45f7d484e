"""XArm7 through the real SDK against a control box made of software, see `standin.py`. These tests run in real time."""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from armflow.robot.arm import ArmDriver
from armflow.robot.drivers.xarm import XArm7, XArmCfg
from armflow.robot.drivers.xarm_gripper import XArmGripperCfg
from armflow.robot.drivers.xarm_link import XArmLink
from armflow.robot.drivers.xarm_safety import XArmSafetyCfg
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
from armflow.robot.types import ArmCommand, Floats

from .standin import CONTROL_PORT, MOVE_JOINT, READY, REPORT_PORT, SERVO_STEP, StandIn

pytestmark = pytest.mark.slow  # in real time

MOTIONS: tuple[Literal["online", "servo"], ...] = ("online", "servo")
FAST = XArmSafetyCfg(reduced_joint_speed_rad_s=2.0)
J1 = np.eye(7)[0]
STEP_RAD = 0.6
FAR = READY + 5.0 * J1  # 2.7 s away
PATIENCE_S = 20.0  # a busy machine is not a defect


def config(box: StandIn, motion: Literal["online", "servo"] = "online") -> XArmCfg:
    """Quick, and patient with a busy machine."""
    return XArmCfg(
        box.host, motion, speed_scale=0.6, servo_hz=100.0, safety=FAST, max_state_age_s=2.0, reply_timeout_s=2.0
    )


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"did not happen within {PATIENCE_S} s"
        time.sleep(0.005)


def fault_of[E: DeviceError](arm: XArm7, kind: type[E]) -> E:
    """The error of that kind that reading the arm raises in time; others may come before it."""
    found: list[E] = []

    def raised() -> bool:
        try:
            arm.read()
        except DeviceError as error:
            found.extend([error] if isinstance(error, kind) else [])
        return bool(found)

    eventually(raised)
    return found[0]


def stands(arm: XArm7) -> bool:
    before = arm.read().q
    time.sleep(0.1)
    return bool(np.abs(arm.read().q - before).max() < 1e-3)


def go_to(arm: XArm7, q: Floats) -> None:
    def there() -> bool:
        arm.command(ArmCommand(q, 1.0))
        return np.abs(arm.read().q - q).max() < 0.01

    eventually(there)


@pytest.fixture(autouse=True)
def default_timeout() -> Iterator[float]:
    """A default of this process that the SDK must leave alone."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(77.0)
    yield 77.0
    left = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before)
    assert left == 77.0


class WithoutServo(XArm7):
    """Passes targets on as they come."""

    goal: Floats | None = None

    def command(self, cmd: ArmCommand) -> ArmCommand:
        self.goal = cmd.q
        return super().command(cmd)

    def _send_setpoint(self, link: XArmLink, setpoint: Setpoint) -> None:
        super()._send_setpoint(link, setpoint if self.goal is None else replace(setpoint, q=self.goal))


def test_a_look_takes_no_control(box: StandIn):
    assert "without errors" in XArm7(config(box)).look()
    assert box.state != 0 or not box.enabled


def test_it_is_an_arm_driver_that_takes_control_without_moving_and_leaves_the_arm_stopped(box: StandIn):
    with XArm7(config(box)) as arm:
        driver: ArmDriver = arm
        state = driver.read()
        assert (box.mode, box.state, box.enabled) == (6, 2, True)
    for values in (state.q, state.dq, state.effort):
        assert values.shape == (7,) and values.dtype == np.float64
    np.testing.assert_allclose(state.q, READY, atol=1e-6)
    np.testing.assert_array_equal(state.effort, np.arange(7))
    assert state.gripper == 1.0 and abs(time.monotonic() - state.t) < PATIENCE_S
    np.testing.assert_array_equal(box.q, READY)
    assert box.state == 4 and box.cleared == 0
    eventually(lambda: not box.connections[CONTROL_PORT] and not box.connections[REPORT_PORT])


@pytest.mark.parametrize("motion", MOTIONS)
def test_steps_at_10_30_and_50_hz_are_followed_without_an_error(box: StandIn, motion: Literal["online", "servo"]):
    rng = np.random.default_rng(0)
    cfg = config(box, motion)
    with XArm7(cfg) as arm:
        for sign, hz in ((1, 10), (-1, 30), (1, 50)):  # steps of up to 0.6 rad, joint 1 the whole of it
            goal = READY + rng.uniform(-STEP_RAD / 2, STEP_RAD / 2, 7)
            goal[0] = sign * STEP_RAD / 2
            start = time.monotonic()
            for i in range(round(0.5 * hz)):
                time.sleep(max(0.0, start + i / hz - time.monotonic()))
                arm.command(ArmCommand(goal, 1.0))
                arm.read()
        go_to(arm, goal)
        assert box.error == 0 and box.cleared == 0
    if motion == "servo":
        points = np.array(box.targets)
        assert np.abs(np.diff(points, axis=0)).max() <= 0.02 * cfg.limits.dq_max.max() + 1e-6 < SERVO_STEP


def test_the_same_step_without_the_servo_is_an_error_in_servo_mode(box: StandIn):
    """The box enforces limits, so the test above proves something; and this is what a fault looks like."""
    with WithoutServo(config(box, "servo")) as arm:
        arm.command(ArmCommand(READY + STEP_RAD * J1, 1.0))
        fault = fault_of(arm, DeviceFault)
    assert "C24, Speed Exceeds Limit" in str(fault) and "then call recover()" in str(fault)


@pytest.mark.parametrize("motion", MOTIONS)
def test_an_emergency_stop_is_a_fault_of_every_call_until_an_operator_recovers(
    box: StandIn, motion: Literal["online", "servo"]
):
    target = ArmCommand(READY + STEP_RAD * J1, 1.0)
    with XArm7(config(box, motion)) as arm:
        arm.command(target)
        box.press_stop()
        fault = fault_of(arm, DeviceFault)
        assert "C1" in str(fault) and "then call recover()" in str(fault)
        with pytest.raises(OperatorNeeded, match="still pressed"):
            arm.recover()
        box.release_stop()
        box.cleared = 0
        with pytest.raises(DeviceFault):
            arm.read()
        with pytest.raises(DeviceFault):
            arm.command(target)
        assert (box.cleared, box.error) == (0, 1)
        arm.recover()
        held = arm.read().q
        go_to(arm, held - 0.1 * J1)


def test_an_error_says_what_it_means_and_stays_until_recover(box: StandIn):
    with XArm7(config(box)) as arm:
        for error, said in ((31, "Collision"), (12, "emergency stop"), (60, "lower speed_scale")):
            box.cleared = 0
            box.fail(error)
            fault = fault_of(arm, DeviceFault)
            assert f"error C{error}," in str(fault) and said in str(fault)
            for call in (arm.read, lambda: arm.command(ArmCommand(READY, 1.0))):
                with pytest.raises(DeviceFault, match=f"C{error}"):
                    call()
            arm.hold()  # quiet: the control box has stopped the arm
            assert box.cleared == 0
            arm.recover()
        go_to(arm, READY + 0.05 * J1)


def test_an_error_that_only_an_answer_tells_of_is_noticed_by_the_command(box: StandIn):
    with XArm7(config(box)) as arm:
        box.reports = False
        box.fail(35)
        with pytest.raises(DeviceFault, match="C35, Safety Boundary Limit"):
            arm.command(ArmCommand(READY, 1.0))


def test_old_errors_and_a_pressed_stop_are_named_when_connecting_and_the_operator_can_clear_them(box: StandIn):
    box.press_stop()
    arm = XArm7(config(box))
    with pytest.raises(OperatorNeeded, match="C1"), arm:
        pass
    with pytest.raises(OperatorNeeded, match="still pressed"):
        arm.recover()
    box.release_stop()
    box.fail(22)
    with pytest.raises(DeviceFault, match="C22, Self-Collision"), arm:
        pass
    assert box.error == 22
    arm.recover()
    with arm:
        arm.read()


def test_recover_does_nothing_to_a_healthy_arm(box: StandIn):
    with XArm7(config(box)) as arm:
        arm.recover()
        arm.read()
    assert box.cleared == 0


def test_another_program_that_takes_over_is_a_fault(box: StandIn):
    with XArm7(config(box)) as arm:
        box.state = 3
        assert "paused" in str(fault_of(arm, DeviceFault))
        arm.recover()
        box.mode = 2
        assert "mode 2, expected mode 6" in str(fault_of(arm, DeviceFault))


@pytest.mark.parametrize("motion", MOTIONS)
def test_when_commands_stop_the_arm_brakes_and_holds_until_the_next(box: StandIn, motion: Literal["online", "servo"]):
    """The control box would go on to its last target."""
    with XArm7(config(box, motion)) as arm:
        arm.command(ArmCommand(FAR, 1.0))
        eventually(lambda: arm.motion_stats.timeouts == 1)
        eventually(lambda: stands(arm))
        held = arm.read()
        assert 0.02 < held.q[0] < 4.5  # stopped on the way
        assert np.abs(held.dq).max() < 0.01
        time.sleep(0.1)
        np.testing.assert_allclose(arm.read().q, held.q, atol=0.002)
        assert arm.motion_stats.timeouts == 1
        go_to(arm, READY)


@pytest.mark.parametrize("motion", MOTIONS)
def test_hold_stops_on_the_way_and_nonsense_does_too(box: StandIn, motion: Literal["online", "servo"]):
    with XArm7(config(box, motion)) as arm:
        for stop in (arm.hold, lambda: pytest.raises(SafetyStop, arm.command, ArmCommand(np.full(7, np.nan), 1.0))):
            start = arm.read().q[0]

            def moving(start: float = start) -> bool:
                arm.command(ArmCommand(FAR, 1.0))
                return arm.read().q[0] > start + 0.05

            eventually(moving)
            stop()
            arm.hold()
            eventually(lambda: stands(arm))
            assert arm.read().q[0] < 4.5


def test_a_command_says_what_is_sent(box: StandIn):
    with XArm7(config(box)) as arm:
        sent = arm.command(ArmCommand(READY + 10 * np.eye(7)[1], 1.7))
        assert sent.q[1] == arm.spec.q_max[1] - 0.05 and sent.gripper == 1.0
        np.testing.assert_array_equal(box.target, sent.q.astype("f4"))


def test_the_safety_functions_of_the_rig_arrive(box: StandIn):
    safety = XArmSafetyCfg(
        collision_sensitivity=5,
        collision_rebound=True,
        self_collision=True,
        tool_model=4,
        fence_m=(-0.2, 0.6, -0.5, 0.5, 0.01, 0.7),
        reduced_tcp_speed_m_s=0.25,
        reduced_joint_speed_rad_s=1.5,
    )
    cfg = XArmCfg(box.host, safety=safety)
    with XArm7(cfg):
        joint_range = np.reshape(box.settings.pop("joint_range"), (7, 2))
        assert box.settings == {
            "collision_sensitivity": 5, "rebound": 1, "self_collision": 1, "tool_model": 4, "fence": 1,
            "tcp_boundary": [600, -200, 500, -500, 700, 10], "reduced_mode": 1, "reduced_tcp_speed": [250.0],
            "reduced_joint_speed": [1.5],
        }  # fmt: skip
        np.testing.assert_allclose(joint_range[:, 0], XArm7.spec.q_min, rtol=1e-6)
        np.testing.assert_allclose(joint_range[:, 1], XArm7.spec.q_max, rtol=1e-6)


def test_a_safety_function_that_is_refused_or_not_kept_is_a_fault(box: StandIn):
    box.forget.add("reduced_joint_speed")
    with pytest.raises(DeviceFault, match="did not take a safety setting: speed of the joints"), XArm7(config(box)):
        pass
    box.refuse.add(59)
    with pytest.raises(DeviceFault, match="set_fence_mode was refused.*code 10"), XArm7(config(box)):
        pass


@pytest.mark.parametrize("generation", [1, 2])
def test_the_gripper_follows_while_the_arm_moves_and_is_not_flooded(box: StandIn, generation: Literal[1, 2]):
    with XArm7(replace(config(box), gripper=XArmGripperCfg(generation=generation, max_age_s=5.0))) as arm:

        def until(low: float, high: float, opening: float, goal: Floats) -> None:
            def there() -> bool:
                arm.command(ArmCommand(goal, opening))
                return low <= arm.read().gripper <= high

            eventually(there)

        until(0.45, 0.55, 0.5, FAR)
        assert box.gripper_commands[0] == 1  # the arm was moving: left to itself, the SDK waits until it stands
        box.gripper_object = 300.0
        until(0.2, 0.4, 0.0, FAR)
        rng = np.random.default_rng(0)
        box.gripper_commands.clear()
        start = time.monotonic()
        while time.monotonic() < start + 0.3:
            arm.command(ArmCommand(FAR, rng.uniform()))
            time.sleep(0.01)
        assert 1 <= len(box.gripper_commands) <= 8.0 * (time.monotonic() - start) + 2


def test_a_fault_of_the_gripper_stays_until_recover(box: StandIn):
    with XArm7(config(box)) as arm:
        box.gripper[0x000F] = 11
        assert "G11, Gripper Current Overlimit" in str(fault_of(arm, DeviceFault))
        with pytest.raises(DeviceFault, match="G11"):
            arm.command(ArmCommand(READY, 0.0))
        arm.recover()
        arm.read()


def test_a_serial_line_at_another_speed_is_left_to_the_operator(box: StandIn):
    box.baud_index = 5
    with pytest.raises(OperatorNeeded, match="115200 baud; set 2000000"), XArm7(config(box)):
        pass
    assert box.cleared == 0


def test_a_cut_connection_is_a_fault_until_recover_connects_again(box: StandIn):
    with XArm7(replace(config(box), reply_timeout_s=0.5)) as arm:
        box.drop(CONTROL_PORT)
        fault = fault_of(arm, DeviceFault)
        assert "no answer from" in str(fault) and "check the cable" in str(fault)
        with pytest.raises(DeviceFault, match="no answer"):
            arm.command(ArmCommand(READY, 1.0))
        arm.recover()
        go_to(arm, READY + 0.05 * J1)


def test_a_box_that_falls_silent_is_stale_or_a_fault_in_time_and_stops_once_it_listens_again(box: StandIn):
    with XArm7(replace(config(box), max_state_age_s=0.5, reply_timeout_s=0.5)) as arm:
        box.reports = False
        assert "last report is" in str(fault_of(arm, StaleReading))
        arm.command(ArmCommand(FAR, 1.0))
        box.mute = True
        with pytest.raises(DeviceFault, match="no answer.*press the emergency stop"):
            arm.command(ArmCommand(FAR, 1.0))
        box.mute = False
        arm.hold()
        assert box.state == 4 and box.q[0] < 4.5


def test_an_arm_that_does_not_let_itself_be_braked_is_stopped(box: StandIn):
    with XArm7(config(box)) as arm:
        arm.command(ArmCommand(FAR, 1.0))
        box.refuse.add(MOVE_JOINT)  # the watchdog is the first to be refused
        eventually(lambda: box.state == 4)
        with pytest.raises(DeviceFault, match="set_servo_angle was refused"):
            arm.read()
        assert box.q[0] < 4.5


@pytest.mark.slow
def test_lost_reports_are_stale_until_the_sdk_has_them_again_and_it_leaves_the_default_timeout_alone(
    box: StandIn, default_timeout: float
):
    """The SDK keeps its last values, reconnects in a thread of its own, and sets the default on every connect."""
    with XArm7(replace(config(box), max_state_age_s=0.5)) as arm:
        box.drop(REPORT_PORT)
        assert "last report is" in str(fault_of(arm, StaleReading))

        def read() -> bool:
            try:
                arm.read()
            except StaleReading:
                return False
            return True

        eventually(read)
        assert socket.getdefaulttimeout() == default_timeout


@pytest.mark.slow
def test_firmware_of_today_is_driven_too(boxes: Callable[[str], AbstractContextManager[StandIn]]):
    """The SDK waits differently from firmware 2.0.102 on."""
    with boxes("2.6.107") as box, XArm7(config(box)) as arm:
        go_to(arm, READY + 0.05 * J1)


def test_firmware_without_online_planning_is_refused(boxes: Callable[[str], AbstractContextManager[StandIn]]):
    with boxes("1.9.0") as box, pytest.raises(ConfigError, match="firmware 1.9.0; expected"), XArm7(config(box)):
        pass


def test_where_nobody_listens_or_answers_the_message_says_what_to_check(box: StandIn):
    box.mute = True
    with (
        pytest.raises(DeviceTimeout, match="does not answer within 0.2 s"),
        XArm7(replace(config(box), connect_timeout_s=0.2)),
    ):
        pass
    with (
        pytest.raises(DeviceNotFound, match="no control box at 127.0.0.1.*switched on"),
        XArm7(XArmCfg("127.0.0.1")),
    ):
        pass
    with pytest.raises(DeviceNotFound, match="there is no host"), XArm7(XArmCfg("no..where")):
        pass


def test_without_the_sdk_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "xarm.wrapper", None)
    with pytest.raises(ConfigError, match=r'pip install "armflow\[xarm\]"'), XArm7(XArmCfg("127.0.0.1")):
        pass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"motion": "teach"}, "motion must be one of online, servo"),
        ({"speed_scale": 1.5}, "speed_scale"),
        ({"speed_scale": 0.6}, "reduced mode allows 1.0 rad/s"),
        ({"watchdog_s": 0.5}, "watchdog_s"),
        ({"servo_hz": 500.0}, "servo_hz must be 100 to 250"),
        ({"max_state_age_s": 0.0}, "max_state_age_s"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        XArmCfg("nowhere", **settings)


def test_safety_and_gripper_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="collision_sensitivity"):
        XArmSafetyCfg(collision_sensitivity=0)
    with pytest.raises(ConfigError, match="fence_m"):
        XArmSafetyCfg(fence_m=(0.5, -0.5, 0.0, 1.0, 0.0, 1.0))
    with pytest.raises(ConfigError, match="hz must be"):
        XArmGripperCfg(hz=50.0)
