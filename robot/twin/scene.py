"""The cell as one MuJoCo model: table, lights, cameras at their calibrated poses, arm and task objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from ..geometry import quat_from_rotation
from ..rig import DESCRIPTIONS, Rig
from ..types import CameraSpec
from .arm_model import ROBOT_BIT, VESSEL_BIT, WORLD_BIT, add_arm
from .objects import Rgba, SceneObject

TABLE_CENTER, TABLE_HALF = (0.45, 0.0), (0.5, 0.6)
SPHERE_SLICES = 12  # llvmpipe is bound by vertices: 12 slices render 4x faster than MuJoCo's 28


@dataclass(frozen=True)
class Appearance:
    """What of the cell's looks may vary."""

    table: Rgba = (0.62, 0.52, 0.42, 1.0)
    floor: Rgba = (0.32, 0.34, 0.36, 1.0)
    light: float = 0.7
    light_pos: tuple[float, float, float] = (0.6, 0.4, 2.0)


def build_cell(
    rig: Rig,
    objects: Sequence[SceneObject],
    *,
    appearance: Appearance | None = None,
    cameras: Sequence[CameraSpec] | None = None,
) -> mujoco.MjModel:
    """Compile the cell. `cameras` replaces the rig's calibrated cameras (pretraining jitters them)."""
    looks = appearance or Appearance()
    spec = mujoco.MjSpec()
    option = spec.option
    option.timestep = 1.0 / rig.twin.servo_hz
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    # Elliptic cones with a high impedance ratio: otherwise a held sphere creeps out of the fingers.
    option.cone, option.impratio = mujoco.mjtCone.mjCONE_ELLIPTIC, 20.0
    option.iterations, option.ls_iterations = 100, 50
    quality = spec.visual.quality
    quality.shadowsize, quality.offsamples = 0, 0
    quality.numslices, quality.numstacks, quality.numquads = SPHERE_SLICES, SPHERE_SLICES // 2, 1
    spec.visual.map.znear, spec.visual.map.zfar = 0.02, 5.0  # fractions of the extent, fixed to 1 m
    spec.stat.extent, spec.stat.center = 1.0, (0.4, 0.0, 0.2)
    spec.visual.headlight.ambient = (0.35, 0.35, 0.35)
    spec.visual.headlight.diffuse = (0.2, 0.2, 0.2)
    spec.visual.headlight.specular = (0.0, 0.0, 0.0)
    spec.worldbody.add_light(
        pos=looks.light_pos, dir=(-0.1, -0.15, -1.0), diffuse=(looks.light,) * 3, specular=(0.1,) * 3, castshadow=False
    )
    _add_table(spec, looks)
    add_arm(spec, DESCRIPTIONS[rig.arm.model])
    for thing in objects:
        thing.add_to(spec)
    for camera in cameras or [c.spec() for c in rig.cameras]:
        _add_camera(spec, camera)
    return spec.compile()


def _add_table(spec: mujoco.MjSpec, looks: Appearance) -> None:
    spec.worldbody.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=(0, 0, -0.75), size=(3, 3, 0.1), rgba=looks.floor,
        contype=0, conaffinity=0,
    )  # fmt: skip
    # The board is drawn as a box, but things rest on a plane: contacts of many small boxes with a big flat one chatter.
    spec.worldbody.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_BOX, pos=(*TABLE_CENTER, -0.02), size=(*TABLE_HALF, 0.0199),
        rgba=looks.table, contype=0, conaffinity=0,
    )  # fmt: skip
    spec.worldbody.add_geom(
        name="table_top", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=(*TABLE_CENTER, 0), size=(*TABLE_HALF, 0.1),
        rgba=(0, 0, 0, 0), friction=(0.8, 0.01, 0.001), contype=WORLD_BIT,
        conaffinity=WORLD_BIT | ROBOT_BIT | VESSEL_BIT,
    )  # fmt: skip


def _add_camera(spec: mujoco.MjSpec, camera: CameraSpec) -> None:
    """MuJoCo looks along -z with y up; the optical frame looks along z with y down."""
    K, size = camera.K, np.array([camera.width, camera.height])
    spec.worldbody.add_camera(
        name=camera.name,
        pos=camera.X_BC[:3, 3],
        quat=quat_from_rotation(camera.X_BC[:3, :3] @ np.diag([1.0, -1.0, -1.0])),
        resolution=size,
        sensor_size=size * 1e-5,  # any pixel pitch will do: focal and principal are given in pixels
        focal_pixel=(K[0, 0], K[1, 1]),
        principal_pixel=((camera.width - 1) / 2 - K[0, 2], K[1, 2] - (camera.height - 1) / 2),
    )
