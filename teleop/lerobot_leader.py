"""Opening a leader arm of LeRobot so that it reads angles and asks nobody anything."""

import importlib
import termios
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..robot.errors import ConfigError, DeviceNotFound, OperatorNeeded

FAILURES = (OSError, RuntimeError, termios.error)  # of buses and serial ports
# LeRobot knows a leader once its module is imported; plugins register themselves.
MODULES = ("koch_leader", "omx_leader", "openarm_leader", "openarm_mini", "so_leader")


def open_leader(type: str, port: str, id: str, calibration_dir: Path | None, motors: Collection[str]) -> Any:
    """Connected, its `motors` reading degrees, except the gripper's percent. `type`, `port`, `id`: as in LeRobot's commands.

    Raises ConfigError if there is no such leader or it lacks a motor, OperatorNeeded if it is not calibrated, DeviceNotFound
    if it does not answer.
    """
    try:
        leader = _make(type, port, id, calibration_dir)
    except ImportError as error:
        raise DeviceNotFound(
            "leader", f'needs the SDK of its motors ({error}): pip install "armflow[leader]"'
        ) from error
    known = [name.removesuffix(".pos") for name in leader.action_features if name.endswith(".pos")]
    if lacking := [motor for motor in motors if motor not in known]:
        raise ConfigError(f"leader: {type} has no motor {', '.join(lacking)}; it has {', '.join(known)}")
    calibrate = (
        f"the leader is not calibrated as '{id}'; run `lerobot-calibrate --teleop.type={type} --teleop.port={port} "
        f"--teleop.id={id}`, which writes {leader.calibration_fpath}"
    )
    if not leader.calibration:
        raise OperatorNeeded(calibrate)
    _read_degrees(leader)
    try:
        leader.connect(calibrate=False)  # otherwise it would ask on the terminal
        if not leader.is_calibrated:
            raise OperatorNeeded(f"{calibrate}: its motors hold another calibration")
    except FAILURES as error:
        _give_up(leader)
        raise DeviceNotFound("leader", f"{type} on {port} does not answer: {error}") from error
    except OperatorNeeded:
        _give_up(leader)
        raise
    return leader


def close_leader(leader: Any) -> None:
    """Let go of the motors and close the port; only the latter if they are gone, which whoever read them has said."""
    try:
        leader.disconnect()
    except FAILURES:
        _give_up(leader)


def _make(type: str, port: str, id: str, calibration_dir: Path | None) -> Any:
    from lerobot.teleoperators import TeleoperatorConfig, make_teleoperator_from_config
    from lerobot.utils.import_utils import register_third_party_plugins

    for module in MODULES:
        importlib.import_module(f"lerobot.teleoperators.{module}")
    register_third_party_plugins()
    choices = TeleoperatorConfig.get_known_choices()
    if type not in choices:
        raise ConfigError(f"leader: LeRobot knows no teleoperator '{type}'; it knows {', '.join(sorted(choices))}")
    make_cfg: Any = choices[type]
    return make_teleoperator_from_config(make_cfg(port=port, id=id, calibration_dir=calibration_dir))


def _read_degrees(leader: Any) -> None:
    """Some leaders read percent of each joint's range; what an arm needs is angles."""
    from lerobot.motors.motors_bus import MotorNormMode, SerialMotorsBus

    bus = getattr(leader, "bus", None)
    if isinstance(bus, SerialMotorsBus):
        for motor in bus.motors.values():
            if motor.norm_mode is MotorNormMode.RANGE_M100_100:
                motor.norm_mode = MotorNormMode.DEGREES


def _give_up(leader: Any) -> None:
    """Close the port without talking to the motors: they do not answer."""
    bus = getattr(leader, "bus", None)
    if bus is not None and leader.is_connected:
        bus.disconnect(disable_torque=False)
