"""The plugins from their sources, and an armflow rig on fakes whose time only moves when told to."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from armflow.robot.clock import SimClock
from armflow.robot.fakes import FakeArm, FakeCamera
from armflow.robot.rig import Rig
from armflow.robot.safety import JointSafety
from armflow.robot.station import Station

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


def plugin(name: str) -> ModuleType:
    """A plugin of this repository, whatever is installed."""
    folder = str(PLUGINS / name)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def arms() -> list[FakeArm]:
    """Every arm that a robot has opened."""
    return []


@pytest.fixture
def make_robot(
    clock: SimClock, arms: list[FakeArm], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    """Makes robots whose station is fake: keywords go to its arm, `stalls_at` (s) to its cameras."""
    module = plugin("lerobot_robot_armflow")
    fake, camera = dict[str, Any](), dict[str, float]()
    made: list[Any] = []

    @contextmanager
    def open_fakes(rig: Rig, **_: Any) -> Iterator[Station]:
        arm = FakeArm(clock, q=np.array(rig.arm.home_q), **fake)
        arms.append(arm)
        cameras = {
            c.name: FakeCamera(clock, c.name, width=c.width, height=c.height, stalls_at=camera["stalls_at"])
            for c in rig.cameras
        }
        yield Station(rig, arm, cameras, JointSafety(arm.spec, rig.safety), clock, None)

    monkeypatch.setattr(importlib.import_module("lerobot_robot_armflow.robot"), "open_station", open_fakes)

    def make(*, depth: bool = False, stalls_at: float = np.inf, **arm: Any) -> Any:
        fake.update(arm)
        camera["stalls_at"] = stalls_at
        made.append(
            module.ArmflowRobot(
                module.ArmflowRobotConfig(image_size=(8, 6), depth=depth, calibration_dir=tmp_path / "robot")
            )
        )
        return made[-1]

    yield make
    for robot in made:
        if robot.is_connected:
            robot.disconnect()
