"""OpenArms to talk to: LeRobot's own follower on one end of a virtual CAN bus, motors made of software on the other."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from armflow.robot import openarm
from armflow.robot.drivers.lerobot_arm import LeRobotArm
from armflow.robot.drivers.lerobot_config import LeRobotArmCfg
from armflow.robot.drivers.lerobot_config import openarm as openarm_cfg

# Patient enough for a busy machine, which is no defect; tests of lost packets ask for less.
PATIENT = {"max_age_s": 2.0, "fault_age_s": 4.0}


@pytest.fixture
def channel() -> str:
    """A name that no other test has."""
    return f"armflow-{uuid.uuid4()}"


@pytest.fixture
def motors(channel: str) -> Iterator["Motors"]:  # noqa: F821
    pytest.importorskip("can", reason='needs python-can: pip install "armflow[openarm]"')
    from motors import Motors

    with Motors(channel) as motors:
        yield motors


@pytest.fixture
def cfg(channel: str, tmp_path: Path) -> LeRobotArmCfg:
    """A calibrated right arm on the virtual bus."""
    motors = {f"joint_{i}": i for i in range(1, 8)} | {"gripper": 8}
    calibration = {
        name: {"id": i, "drive_mode": 0, "homing_offset": 0, "range_min": -90, "range_max": 90}
        for name, i in motors.items()
    }
    (tmp_path / "right.json").write_text(json.dumps(calibration))
    cfg = openarm_cfg(channel, "right", interface="virtual", id="right")
    return replace(cfg, calibration_dir=str(tmp_path), **PATIENT)


@pytest.fixture
def opened() -> Iterator[Callable[..., LeRobotArm]]:
    """opened(cfg): an arm in control until the test ends."""
    with ExitStack() as stack:
        yield lambda cfg, spec=openarm.RIGHT: stack.enter_context(LeRobotArm(cfg, spec))
