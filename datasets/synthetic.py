"""Made-up steps of any size, for tests and benchmarks of recording: no physics, but every value can be told apart."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..robot.control import Decision, Step
from ..robot.types import (
    ArmCommand,
    ArmSpec,
    ArmState,
    CameraSpec,
    ControlMode,
    Observation,
    RgbdFrame,
    SafetyFlag,
)
from .schema import Schema, make_schema

DOF = 7


@dataclass(frozen=True)
class SyntheticCfg:
    width: int = 48
    height: int = 32
    fps: int = 10
    cameras: tuple[str, ...] = ("head", "front")


def synthetic_arm() -> ArmSpec:
    """A 7-joint arm with round limits."""
    ones = np.ones(DOF)
    names = tuple(f"joint{i}" for i in range(1, DOF + 1))
    return ArmSpec("synthetic", names, -3 * ones, 3 * ones, 2 * ones, 10 * ones, 50 * ones, 0.08)


def synthetic_cameras(cfg: SyntheticCfg) -> tuple[CameraSpec, ...]:
    K = np.array([[cfg.width, 0, cfg.width / 2], [0, cfg.width, cfg.height / 2], [0, 0, 1.0]])
    return tuple(
        CameraSpec(name, cfg.width, cfg.height, cfg.fps, K, np.zeros(5), 1e-3, f"serial-{name}", np.eye(4))
        for name in cfg.cameras
    )


def synthetic_schema(cfg: SyntheticCfg) -> Schema:
    return make_schema(synthetic_arm(), synthetic_cameras(cfg), cfg.fps)


def synthetic_steps(count: int, cfg: SyntheticCfg, rng: np.random.Generator) -> Iterator[Step]:
    """`count` consecutive steps: joints that wander, a square that moves through smooth images, holes in the depth."""
    q = rng.uniform(-1, 1, DOF)
    for i in range(count):
        t = 100.0 + i / cfg.fps
        q = q + rng.normal(0, 0.02, DOF)
        arm = ArmState(t, q, rng.normal(0, 0.1, DOF), rng.normal(0, 5, DOF), gripper=float(i % 2))
        requested = ArmCommand(q + rng.normal(0, 0.05, DOF), gripper=float(i % 3 == 0))
        executed = ArmCommand(np.clip(requested.q, q - 0.05, q + 0.05), requested.gripper)
        limited = not np.array_equal(executed.q, requested.q)
        frames = {
            name: RgbdFrame(t - 0.01, i, _colour(i, k, cfg), _depth_mm(i, k, cfg)) for k, name in enumerate(cfg.cameras)
        }
        yield Step(
            obs=Observation(t, arm, frames),
            requested=requested,
            executed=executed,
            flags=SafetyFlag.JOINT_SPEED if limited else SafetyFlag.NONE,
            decision=Decision(requested, ControlMode.POLICY, chunk_index=i // 5, chunk_step=i % 5),
        )


def _colour(i: int, camera: int, cfg: SyntheticCfg) -> NDArray[np.uint8]:
    y, x = np.mgrid[0 : cfg.height, 0 : cfg.width]
    image = np.stack([60 + 120 * x / cfg.width, 40 + 150 * y / cfg.height, np.full(x.shape, 60 + 60 * camera)], axis=-1)
    image[_square(i, cfg)] = (230, 40, 30)
    return image.astype(np.uint8)


def _depth_mm(i: int, camera: int, cfg: SyntheticCfg) -> NDArray[np.uint16]:
    y, x = np.mgrid[0 : cfg.height, 0 : cfg.width]
    depth = 600 + 400 * camera + 7 * y + x % 5 + i
    depth[_square(i, cfg)] -= 120
    depth[:, :3] = 0  # no return at the left edge, as stereo cameras have it
    return depth.astype(np.uint16)


def _square(i: int, cfg: SyntheticCfg) -> tuple[slice, slice]:
    size = cfg.height // 4
    left = (3 * i) % (cfg.width - size)
    return slice(size, 2 * size), slice(left, left + size)
