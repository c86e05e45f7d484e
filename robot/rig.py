"""A rig is one TOML file: arm, gripper, cameras with their calibration, limits. Twin and hardware read the same."""

import hashlib
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from .errors import ConfigError
from .geometry import pose, rotation_from_quat
from .safety import SafetyCfg
from .types import CameraSpec

DEFAULT_RIG = Path(__file__).parent / "rigs" / "fr3_table.toml"


@dataclass(frozen=True)
class ArmCfg:
    """Which arm, and where it waits between episodes."""

    model: str = "fr3"
    home_q: tuple[float, ...] = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)
    """Rest pose, rad."""


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

    def camera(self, name: str) -> CameraCfg:
        found = {c.name: c for c in self.cameras}
        if name not in found:
            raise ConfigError(f"rig {self.name} has no camera '{name}'; it has: {', '.join(found)}")
        return found[name]

    def with_image_size(self, width: int, height: int) -> "Rig":
        return replace(self, cameras=tuple(c.resized(width, height) for c in self.cameras))

    @property
    def hash(self) -> str:
        """16 hex digits that change with any field."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def load_rig(path: Path = DEFAULT_RIG) -> Rig:
    """Read and check a rig file. Raises ConfigError naming the file, the key and what is allowed."""
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"rig file {path} does not exist; start from {DEFAULT_RIG.name}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"rig file {path} is not TOML: {error}") from None
    return _build(Rig, data, where=str(path))


def _build(cls: type, data: Any, where: str) -> Any:
    """Dataclass from nested dicts; unknown or missing keys are errors."""
    hints = get_type_hints(cls)
    unknown = set(data) - {f.name for f in fields(cls)}
    if unknown:
        valid = ", ".join(f.name for f in fields(cls))
        raise ConfigError(f"{where}: unknown key {', '.join(sorted(unknown))}; valid keys: {valid}")
    values = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        return tuple(_convert(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value
