"""A rig is one TOML file: arm, gripper, cameras with their calibration, limits. Twin and hardware read the same."""

import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import fr3, openarm, panda, xarm7
from .arm_file import ArmFileCfg
from .drivers.franka import FrankaCfg
from .drivers.lerobot_config import LeRobotArmCfg
from .drivers.opencv import OpenCVCfg
from .drivers.realsense import RealSenseCfg
from .drivers.xarm import XArmCfg
from .errors import ConfigError
from .geometry import pose, rotation_from_quat
from .safety import SafetyCfg
from .toml_cfg import load
from .types import ArmSpec, CameraSpec

DEFAULT_RIG = Path(__file__).parent / "rigs" / "fr3_table.toml"
# Section of a driver -> arm models.
DRIVES = {"franka": ("fr3", "panda"), "xarm": ("xarm7",), "lerobot": tuple(openarm.SPECS)}
# Arms that armflow has models of.
DESCRIPTIONS = {arm.spec.name: arm for arm in (fr3.DESCRIPTION, panda.DESCRIPTION, xarm7.DESCRIPTION)}
ARMS: dict[str, ArmSpec] = {**{name: arm.spec for name, arm in DESCRIPTIONS.items()}, **openarm.SPECS}


@dataclass(frozen=True)
class ArmCfg:
    """Which arm, and where it waits between episodes."""

    model: str = "fr3"
    home_q: tuple[float, ...] = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)
    """Rest pose, rad."""
    description: ArmFileCfg | None = None
    """MJCF or URDF of an arm that armflow has no model of itself; without one it has joint limits only."""

    def __post_init__(self) -> None:
        _require(self.model in ARMS, f"there is no arm model '{self.model}'; models: {', '.join(ARMS)}")
        spec, q = ARMS[self.model], np.array(self.home_q)
        _require(q.shape == (spec.dof,), f"home_q has {q.size} joints, {self.model} has {spec.dof}")
        if self.description is not None:
            _require(
                self.model not in DESCRIPTIONS, f"armflow has its own model of the {self.model}: omit [arm.description]"
            )
            found = len(self.description.joints)
            _require(found == spec.dof, f"[arm.description] names {found} joints, {self.model} has {spec.dof}")
        outside = [n for n, x, low, high in zip(spec.joint_names, q, spec.q_min, spec.q_max, strict=True)
                   if not low <= x <= high]  # fmt: skip
        _require(not outside, f"home_q (rad) is outside the joint range of {self.model}: {', '.join(outside)}")


@dataclass(frozen=True)
class CameraCfg:
    """One RGB-D camera: stream, intrinsics at that size, and calibrated pose."""

    name: str
    width: int
    height: int
    fps: float
    fx: float
    fy: float
    cx: float
    cy: float
    position: tuple[float, ...]
    """Camera centre in the arm's base frame, m."""
    quat_wxyz: tuple[float, ...]
    """Optical frame (z forward, y down) in the base frame."""
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    depth_scale_m: float = 0.001
    serial: str = ""
    calibration_date: str = "1970-01-01"
    """Day the pose was measured, ISO 8601."""
    realsense: RealSenseCfg | None = None
    """It is a RealSense, found by `serial`, run like this."""
    opencv: OpenCVCfg | None = None
    """It is a camera or video file that OpenCV opens: no depth."""

    def __post_init__(self) -> None:
        for key in ("width", "height", "fps", "fx", "fy", "depth_scale_m"):
            _require_positive(self, key)
        for key, count in (("position", 3), ("quat_wxyz", 4), ("distortion", 5)):
            values = getattr(self, key)
            finite = len(values) == count and all(math.isfinite(v) for v in values)
            _require(finite, f"camera {self.name}: {key} must be {count} finite numbers, got {list(values)}")
        norm = math.hypot(*self.quat_wxyz)
        _require(abs(norm - 1) < 0.01, f"camera {self.name}: quat_wxyz has length {norm:.3f}, a rotation has 1")
        _require(not (self.realsense and self.opencv), f"camera {self.name} is realsense or opencv, not both")
        known = not self.realsense or self.realsense.playback or self.serial
        _require(bool(known), f"camera {self.name}: a realsense needs its serial, which is printed on the device")

    def spec(self) -> CameraSpec:
        K = np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])
        X_BC = pose(self.position, rotation_from_quat(self.quat_wxyz))
        return CameraSpec(
            self.name, self.width, self.height, self.fps, K, np.array(self.distortion), self.depth_scale_m,
            self.serial, X_BC,
        )  # fmt: skip

    def resized(self, width: int, height: int) -> "CameraCfg":
        """The same camera with its image resized: intrinsics scale with it."""
        sx, sy = width / self.width, height / self.height
        # Pixel centres are at half-integers, so the principal point scales about the image corner.
        cx, cy = (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5
        return replace(self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy, cx=cx, cy=cy)


@dataclass(frozen=True)
class TwinCfg:
    """How faithfully the twin misbehaves."""

    servo_hz: float = 500.0
    """Physics and joint-servo rate."""
    command_latency_s: float = 0.01
    """From sending a command to the servo following it."""
    q_noise_rad: float = 0.0002
    """Standard deviation of measured joint positions."""
    dq_noise_rad_s: float = 0.002
    """Standard deviation of measured joint velocities."""
    depth_noise_px: float = 0.08
    """Stereo matching error of the depth cameras, px of disparity; 0 gives perfect depth."""
    camera_latency_s: float = 0.0
    """Age of an image when it is delivered."""

    def __post_init__(self) -> None:
        _require_positive(self, "servo_hz")
        for key in ("command_latency_s", "q_noise_rad", "dq_noise_rad_s", "depth_noise_px", "camera_latency_s"):
            value = getattr(self, key)
            _require(0 <= value < math.inf, f"{key} must be zero or more, got {value}")


@dataclass(frozen=True)
class Rig:
    """Everything that describes one robot cell."""

    name: str
    control_hz: float
    """Rate of the control loop and of recorded data."""
    cameras: tuple[CameraCfg, ...]
    arm: ArmCfg = field(default_factory=ArmCfg)
    safety: SafetyCfg = field(default_factory=SafetyCfg)
    twin: TwinCfg = field(default_factory=TwinCfg)
    franka: FrankaCfg | None = None
    """The arm is a Franka FR3 or Panda at this address. Without a section of an arm's driver there is only the twin."""
    xarm: XArmCfg | None = None
    """The arm is a UFACTORY xArm7 at this address."""
    lerobot: LeRobotArmCfg | None = None
    """The arm is driven by LeRobot, such as an OpenArm."""

    def __post_init__(self) -> None:
        _require_positive(self, "control_hz")
        names = [c.name for c in self.cameras]
        _require(len(set(names)) == len(names), f"two cameras have the same name: {', '.join(names)}")
        serials = [c.serial for c in self.cameras if c.serial]
        _require(len(set(serials)) == len(serials), f"two cameras have the same serial: {', '.join(serials)}")
        _require(len(self._drivers) <= 1, f"one arm has one driver, there are sections {', '.join(self._drivers)}")
        for section in self._drivers:
            models = DRIVES[section]
            _require(
                self.arm.model in models, f"[{section}] drives {' or '.join(models)}, arm.model is '{self.arm.model}'"
            )
            without = [c.name for c in self.cameras if not (c.realsense or c.opencv)]
            _require(not without, f"an arm that is hardware needs real cameras: give {', '.join(without)} "
                                  "a section [cameras.realsense] or [cameras.opencv]")  # fmt: skip

    @property
    def _drivers(self) -> list[str]:
        return [section for section in DRIVES if getattr(self, section) is not None]

    @property
    def is_hardware(self) -> bool:
        """Whether it describes devices; if not, it is a twin only."""
        return bool(self._drivers)

    def camera(self, name: str) -> CameraCfg:
        found = {c.name: c for c in self.cameras}
        if name not in found:
            raise ConfigError(f"rig {self.name} has no camera '{name}'; it has: {', '.join(found)}")
        return found[name]

    def with_image_size(self, width: int, height: int) -> "Rig":
        return replace(self, cameras=tuple(c.resized(width, height) for c in self.cameras))

    @property
    def hash(self) -> str:
        """16 hex digits that change with any field; of the arm's description, with what is in the file, wherever it lies."""
        rig, description = self, self.arm.description
        if description is not None and description.file.is_file():
            rig = _described_by(self, description, Path(hashlib.sha256(description.file.read_bytes()).hexdigest()))
        return hashlib.sha256(repr(rig).encode()).hexdigest()[:16]


def load_rig(path: Path = DEFAULT_RIG) -> Rig:
    """Read and check a rig file. Raises ConfigError naming the file, the key and what is allowed."""
    if not path.exists():
        raise ConfigError(f"rig file {path} does not exist; `armflow rig new {path}` writes one to start from")
    rig = load(Rig, path, "rig file")
    description = rig.arm.description
    return rig if description is None else _described_by(rig, description, path.absolute().parent / description.file)


def _described_by(rig: Rig, description: ArmFileCfg, file: Path) -> Rig:
    """The same rig with its arm's `description` in another file."""
    return replace(rig, arm=replace(rig.arm, description=replace(description, file=file)))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_positive(cfg: Any, key: str) -> None:
    value = getattr(cfg, key)
    _require(0 < value < math.inf, f"{key} must be positive, got {value}")
