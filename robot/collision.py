"""Where the tool is and what the arm is too close to, for any joint vector: the cell as its safety filter knows it.

A MuJoCo model of the arm's shapes, the table and the rig's cameras. It knows nothing else: no people, no objects,
no cables, nothing that the gripper holds; the fingers are closed in it.
"""

import math

import mujoco

from .arm_description import ArmModel
from .models import arm_model
from .rig import Rig
from .safety import Place
from .types import Floats, SafetyFlag

CAMERA_RADIUS_M = 0.08  # of a ball about its optical centre: a D400 and what it is mounted on
MIN_LINKS_APART = 3  # nearer neighbours along the arm cannot meet, or overlap by design
MOVING_FROM = 3  # link (base: 1) from which on the arm can meet table and cameras
LIMIT = "the limit above the table"
CLEAR = SafetyFlag.NONE


class Surroundings:
    """Forward kinematics and clearances of one rig. Costs some 10 us per look."""

    def __init__(self, rig: Rig) -> None:
        """Raises ConfigError if there is no model of the rig's arm."""
        arm = arm_model(rig.arm)
        self._model = _build(rig, arm)
        self._data = mujoco.MjData(self._model)
        self._tcp = self._model.site(arm.tool).id
        self._low, self._high = rig.safety.tcp_min, rig.safety.tcp_max

    def look(self, q: Floats) -> Place:
        """The arm at `q` (dof,) rad."""
        data = self._data
        data.qpos[:] = q
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_collision(self._model, data)  # only finds pairs that are closer than their margin
        tcp = x, y, z = tuple(data.site_xpos[self._tcp].tolist())  # on three numbers Python is faster than numpy
        if data.ncon:
            return Place(tcp, SafetyFlag.COLLISION, self._nearest())
        low, high = self._low, self._high
        if low[0] <= x <= high[0] and low[1] <= y <= high[1] and low[2] <= z <= high[2]:
            return Place(tcp, CLEAR, "")
        return Place(tcp, SafetyFlag.WORKSPACE, f"the tool is at [{x:.3f}, {y:.3f}, {z:.3f}] m, outside its box")

    def _nearest(self) -> str:
        model = self._model
        contact = min((self._data.contact[i] for i in range(self._data.ncon)), key=lambda c: c.dist)
        outer, inner = sorted(contact.geom, key=lambda geom: model.geom_bodyid[geom], reverse=True)
        return f"{model.geom(outer).name} is {contact.dist:.3f} m from {model.geom(inner).name}"


def _build(rig: Rig, model: ArmModel) -> mujoco.MjModel:
    spec, arm = model.spec, list(model.links.items())
    moving = [name for name, link in arm if link >= MOVING_FROM]
    cfg, ball, plane = rig.safety, mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_PLANE
    if math.isfinite(cfg.clearance_m):
        pairs = [(a, b) for a, i in arm for b, k in arm if k - i >= MIN_LINKS_APART]
        for camera in rig.cameras:
            obstacle, size = f"camera {camera.name}", (CAMERA_RADIUS_M, 0.0, 0.0)
            spec.worldbody.add_geom(name=obstacle, type=ball, pos=camera.position, size=size, contype=0, conaffinity=0)
            pairs += [(obstacle, name) for name in moving]
        for one, other in pairs:
            spec.add_pair(geomname1=one, geomname2=other, margin=cfg.clearance_m)
    if math.isfinite(cfg.table_clearance_m):
        top = (0.0, 0.0, cfg.table_z_m + cfg.table_clearance_m)
        spec.worldbody.add_geom(name=LIMIT, type=plane, pos=top, size=(1.0, 1.0, 0.1), contype=0, conaffinity=0)
        for name in moving:
            spec.add_pair(geomname1=LIMIT, geomname2=name, margin=0.0)
    return spec.compile()
