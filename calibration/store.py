"""Calibrated cameras as dated, hashed data: what the pixels of a dataset mean in metres."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..robot.errors import CalibrationError
from ..robot.types import CameraSpec, Floats


@dataclass(frozen=True, eq=False)
class CameraCalibration:
    """Intrinsics, depth scale and pose of one camera, valid from `date`."""

    camera: str
    serial: str
    date: str  # ISO 8601 day of the measurement
    width: int
    height: int
    K: Floats  # (3, 3) intrinsics, px
    distortion: Floats  # (5,) Brown-Conrady k1 k2 p1 p2 k3
    depth_scale_m: float  # metres per unit of the device's raw depth
    X_BC: Floats  # (4, 4) camera in the arm's base frame, optical convention (z forward, y down)
    rotation_uncertainty_rad: float | None  # 1 sigma; None: not estimated
    translation_uncertainty_m: float | None  # 1 sigma; None: not estimated

    def __post_init__(self) -> None:
        for name, shape in (("K", (3, 3)), ("distortion", (5,)), ("X_BC", (4, 4))):
            value = getattr(self, name)
            if value.shape != shape or not np.isfinite(value).all():
                raise CalibrationError(f"camera {self.camera}: {name} must be finite with shape {shape}, got {value}")
        R_BC = self.X_BC[:3, :3]
        if not np.allclose(R_BC @ R_BC.T, np.eye(3), atol=1e-5) or np.linalg.det(R_BC) < 0:
            raise CalibrationError(f"camera {self.camera}: X_BC holds no rotation; got {R_BC.tolist()}")
        if self.depth_scale_m < 0:
            raise CalibrationError(
                f"camera {self.camera}: depth_scale_m is {self.depth_scale_m}, it cannot be negative"
            )

    def to_json(self) -> str:
        """Canonical text: the same calibration always gives the same characters."""
        values = dataclasses.asdict(self)
        arrays = {name: value.tolist() for name, value in values.items() if isinstance(value, np.ndarray)}
        return json.dumps(values | arrays, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "CameraCalibration":
        """Inverse of `to_json`. Raises CalibrationError on anything else."""
        try:
            values = json.loads(text)
            arrays = {name: np.asarray(values[name], dtype=np.float64) for name in ("K", "distortion", "X_BC")}
            return CameraCalibration(**(values | arrays))
        except (ValueError, KeyError, TypeError) as error:
            raise CalibrationError(f"not a camera calibration: {error}") from error

    @property
    def hash(self) -> str:
        """Content hash: changes with any number, name or date in it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def from_spec(spec: CameraSpec, *, date: str) -> CameraCalibration:
    """The calibration a rig file or a twin declares; its uncertainty is not estimated."""
    return CameraCalibration(
        camera=spec.name,
        serial=spec.serial,
        date=date,
        width=spec.width,
        height=spec.height,
        K=spec.K,
        distortion=spec.distortion,
        depth_scale_m=spec.depth_scale_m,
        X_BC=spec.X_BC,
        rotation_uncertainty_rad=None,
        translation_uncertainty_m=None,
    )


def to_texts(calibrations: Mapping[str, CameraCalibration]) -> dict[str, str]:
    """Camera name -> JSON text, as a recorder takes it along."""
    return {name: calibration.to_json() for name, calibration in calibrations.items()}


def read_set(path: Path) -> dict[str, CameraCalibration]:
    """A dataset's `meta/armflow/calibration/<hash>.json`: camera name -> calibration. Raises CalibrationError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{path}: cannot be read as a set of calibrations ({error})") from error
    return {name: CameraCalibration.from_json(json.dumps(value)) for name, value in values.items()}
