"""A rig that is open: its arm, cameras and safety filter, hardware or twin. Nothing downstream knows which."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from .arm import ArmDriver
from .camera import Camera
from .clock import Clock, MonotonicClock
from .collision import Surroundings
from .control import LoopCfg, run_episode
from .drivers.franka import FrankaArm
from .drivers.lerobot_arm import LeRobotArm
from .drivers.opencv import OpenCVCamera
from .drivers.realsense import RealSenseCamera
from .drivers.xarm import XArm7
from .errors import ConfigError
from .homing import Homing, seconds_needed
from .models import has_model
from .rig import ARMS, CameraCfg, Rig
from .safety import JointSafety, SafetyFilter
from .twin.cell import Cell, Episode
from .twin.tasks import get_task


class HardwareArm(ArmDriver, Protocol):
    """A context manager: connects, takes control where the arm stands, and on the way out stops and lets go."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def look(self) -> str:
        """Connect, see whether it would start, and disconnect; nothing moves. Raises what entering would."""
        ...

    def recover(self) -> None:
        """Clear errors. Only for an operator who has looked at the arm; raises OperatorNeeded, DeviceFault."""
        ...


@dataclass(frozen=True, eq=False)
class Station:
    """What `run_episode` needs of a rig."""

    rig: Rig
    arm: ArmDriver
    cameras: Mapping[str, Camera]
    safety: SafetyFilter
    clock: Clock
    episode: Episode | None  # the twin's scene and judge; None on hardware, where a person judges


@contextmanager
def open_station(rig: Rig, *, twin: bool = False, task: str = "pick_peach", seed: int = 0) -> Iterator[Station]:
    """Open everything that the rig describes; the arm last, so that it is not held while cameras warm up.

    `twin`: a dry run in real time, whatever the rig describes, in the scene of `task` and `seed`; a rig without a section
    of an arm's driver is a twin anyway. Raises what the devices raise: DeviceError, ConfigError, OperatorNeeded.
    """
    clock = MonotonicClock()
    with ExitStack() as stack:
        if twin or not rig.is_hardware:
            cell = stack.enter_context(Cell(rig, clock))
            episode = cell.reset(get_task(task), seed)
            yield Station(rig, episode.arm, episode.cameras, episode.safety, clock, episode)
            return
        cameras = {cfg.name: stack.enter_context(make_camera(cfg, clock)) for cfg in rig.cameras}
        surroundings = Surroundings(rig) if has_model(rig.arm) else None
        arm = stack.enter_context(make_arm(rig, clock))
        yield Station(rig, arm, cameras, JointSafety(arm.spec, rig.safety, surroundings), clock, None)


def go_home(station: Station) -> None:
    """Drive to the rig's home pose, slowly, from wherever the arm stands. Raises OperatorNeeded if it does not get there."""
    spec, hz = station.arm.spec, station.rig.control_hz
    run_episode(
        arm=station.arm, cameras={}, source=Homing(spec, np.array(station.rig.arm.home_q), hz), safety=station.safety,
        clock=station.clock, cfg=LoopCfg(fps=hz, max_steps=round(seconds_needed(spec) * hz)),
    )  # fmt: skip


def make_arm(rig: Rig, clock: Clock) -> HardwareArm:
    """The rig's arm, not open yet. Raises ConfigError for a rig without one, and for an SDK that is not installed."""
    if rig.franka is not None:
        return FrankaArm(rig.franka, clock, ARMS[rig.arm.model])
    if rig.xarm is not None:
        return XArm7(rig.xarm, clock)
    if rig.lerobot is not None:
        return LeRobotArm(rig.lerobot, ARMS[rig.arm.model], clock)
    raise ConfigError(
        f"rig {rig.name} describes no arm but the twin's; give it a section of a driver, such as [franka]"
    )


def make_camera(cfg: CameraCfg, clock: Clock) -> RealSenseCamera | OpenCVCamera:
    """One camera of the rig, not open yet. Raises as `make_arm`."""
    if cfg.realsense is not None:
        return RealSenseCamera(cfg.spec(), cfg.realsense, clock=clock)
    if cfg.opencv is not None:
        return OpenCVCamera(cfg.spec(), cfg.opencv, clock=clock)
    raise ConfigError(f"camera {cfg.name} is the twin's; give it a section [cameras.realsense] or [cameras.opencv]")
