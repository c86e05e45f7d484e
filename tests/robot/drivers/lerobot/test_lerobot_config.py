"""What a rig file says becomes LeRobot's own config, or an error that names what there is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.robot import openarm
from armflow.robot.drivers.can_watch import CanWatch
from armflow.robot.drivers.lerobot_arm import LeRobotArm
from armflow.robot.drivers.lerobot_config import LeRobotArmCfg, robot_config
from armflow.robot.drivers.lerobot_config import openarm as openarm_cfg
from armflow.robot.errors import ConfigError, DeviceNotFound
from armflow.robot.rig import ARMS
from armflow.robot.toml_cfg import load

SECTION = """
type = "openarm_follower"
joints = ["joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6", "joint_7"]
gripper_closed = 0
gripper_open = -65
port = "can0"
interface = "socketcan"
side = "left"
id = "left"
[servo]
hz = 100
"""


def test_a_section_of_a_rig_file_holds_it(tmp_path: Path):
    path = tmp_path / "section.toml"
    path.write_text(SECTION)
    assert load(LeRobotArmCfg, path, "section") == openarm_cfg("can0", "left", id="left")
    path.write_text(SECTION.replace("side", "sides"))
    with pytest.raises(ConfigError, match="unknown key sides"):
        load(LeRobotArmCfg, path, "section")


def test_a_look_at_a_port_that_is_not_there_touches_nothing():
    with pytest.raises(DeviceNotFound, match="neither a network nor a serial port 'can9'"):
        LeRobotArm(openarm_cfg("can9", "left"), ARMS["openarm_left"]).look()


def test_openarm_becomes_lerobots_config():
    config = robot_config(openarm_cfg("can1", "right", id="mine"))
    assert (config.type, config.port, config.can_interface) == ("openarm_follower", "can1", "socketcan")
    assert (config.side, config.id, config.cameras) == ("right", "mine", {})
    assert config.use_velocity_and_torque and not config.disable_torque_on_disconnect


def test_the_virtual_interface_reaches_python_can(cfg: LeRobotArmCfg):
    config = robot_config(cfg)
    assert (config.port, config.can_interface) == (cfg.port, "virtual")


def test_any_registered_type_becomes_lerobots_config():
    cfg = replace(
        openarm_cfg("/dev/ttyACM0", "", interface="", id="so"),
        type="so100_follower",
        options=("use_degrees = true", "max_relative_target = 5.0"),
    )
    config = robot_config(cfg)
    assert (config.type, config.port, config.use_degrees, config.max_relative_target) == (
        "so100_follower", "/dev/ttyACM0", True, 5.0)  # fmt: skip
    joints = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "elbow_roll", "wrist_yaw")
    with pytest.raises(ConfigError, match="LeRobot's robot has elbow_flex, gripper, shoulder_lift"):
        LeRobotArm(replace(cfg, joints=joints), openarm.RIGHT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "open_arm"}, "no robot type 'open_arm'; it knows: .*openarm_follower"),
        ({"type": "so101_follower"}, "so101_follower has no can_interface, side; it has: .*port"),
        ({"options": ("speed = 3",)}, "has no speed"),
        ({"options": ("position_kp = fast",)}, "must be lines of TOML"),
        ({"options": ('use_can_fd = "perhaps"',)}, "LeRobot refuses the config"),
        ({"options": ('cameras = "all"',)}, "cameras belong in the rig"),
        ({"side": "middle"}, "LeRobot cannot make a openarm_follower: config.side must be"),
        ({"side": ""}, "LeRobot clips joint_1 to -5.0..5.0"),
        ({"side": "left"}, "LeRobot clips joint_2 to -90.0..9.0"),
        ({"joints": ("joint_1", "joint_2")}, "joints names 2 joints, openarm_right has 7: joint1"),
        ({"joints": tuple(f"j{i}" for i in range(7))}, "LeRobot's robot has gripper, joint_1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_moves(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        LeRobotArm(replace(openarm_cfg("can0", "right"), **changes), openarm.RIGHT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": ("a", "a")}, "names that differ"),
        ({"gripper": "joint_1"}, "names that differ"),
        ({"deg_per_unit": (1.0,)}, "7 finite numbers"),
        ({"deg_per_unit": (0.0,) * 7}, "must not be 0"),
        ({"zero_deg": (float("nan"),) * 7}, "7 finite numbers"),
        ({"gripper_open": 0.0}, "two different positions"),
        ({"speed_scale": 1.5}, "speed_scale must be in"),
        ({"jerk_max": 0.0}, "jerk_max must be positive"),
        ({"joint_margin_rad": -0.1}, "joint_margin_rad must be in"),
        ({"max_age_s": 0.6}, "must be less than fault_age_s"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        replace(openarm_cfg("can0", "right"), **changes)


def test_without_python_can_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    from lerobot.utils import import_utils

    monkeypatch.setitem(import_utils._require_package_cache, "can", False)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ConfigError, match=r'pip install "armflow\[openarm\]"'):
        LeRobotArm(openarm_cfg("can0", "right"), openarm.RIGHT)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_specs_are_the_limits_that_lerobot_publishes(side: str):
    from lerobot.robots.openarm_follower import config_openarm_follower as published

    limits = getattr(published, f"{side.upper()}_DEFAULT_JOINTS_LIMITS")
    spec = ARMS[f"openarm_{side}"]
    ends = np.radians([limits[f"joint_{i}"] for i in range(1, 8)])
    np.testing.assert_allclose(np.stack([spec.q_min, spec.q_max], axis=1), ends)


def test_a_reply_that_came_too_late_does_not_pass_for_the_next_one(channel: str):
    can = pytest.importorskip("can")
    with can.Bus(interface="virtual", channel=channel) as motor, can.Bus(interface="virtual", channel=channel) as bus:
        watch = CanWatch(bus)
        motor.send(can.Message(arbitration_id=0x11, data=[1] * 8, is_extended_id=False))
        watch.begin()
        motor.send(can.Message(arbitration_id=0x12, data=[2] * 8, is_extended_id=False))
        motor.send(can.Message(arbitration_id=0x13, data=[3] * 4, is_extended_id=False))  # LeRobot cannot decode it
        motor.send(can.Message(arbitration_id=0x14, data=[4] * 8, is_extended_id=False, is_error_frame=True))
        while watch.recv(timeout=0) is not None:
            pass
        assert watch.received == {0x12: bytes([2] * 8)}
