"""An all-knowing view of the twin for success predicates and scripted experts; policies never see it."""

import mujoco
import numpy as np

from ..types import Floats
from .arm_model import FINGERS
from .sim import Twin

REST_SPEED = 0.05  # m/s: below this an object counts as resting


class World:
    def __init__(self, twin: Twin) -> None:
        self._twin = twin
        model = twin.model
        self._pads = [model.geom(f"{f}_pad").id for f in FINGERS]
        finger_bodies = [model.body(f).id for f in FINGERS]
        self._hand_geoms = {
            g for g in range(model.ngeom) if model.geom_bodyid[g] in [*finger_bodies, model.body("hand").id]
        }

    def position(self, name: str) -> Floats:
        """(3,) m, origin of a body: where it touches the table when it stands. A ball's is under its centre, however far
        it has rolled."""
        model, data = self._twin.model, self._twin.data
        geom = model.body(name).geomadr[0]
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_SPHERE:
            return data.geom_xpos[geom] - (0.0, 0.0, model.geom_size[geom, 0])
        return data.body(name).xpos.copy()

    def rotation(self, name: str) -> Floats:
        """(3, 3)"""
        return self._twin.data.body(name).xmat.reshape(3, 3).copy()

    def uprightness(self, name: str) -> float:
        """Cosine of the angle between the body's axis and the vertical."""
        return float(self.rotation(name)[2, 2])

    def speed(self, name: str) -> float:
        """m/s, of the body's origin."""
        address = self._twin.model.joint(name).dofadr[0]
        return float(np.linalg.norm(self._twin.data.qvel[address : address + 3]))

    def tcp(self) -> Floats:
        """(4, 4) tool pose."""
        return self._twin.tcp()

    def opening(self) -> float:
        return self._twin.joint_state()[3]

    def held(self, name: str) -> bool:
        """Both finger pads touch the body."""
        return all(self._touching(name, {pad}) for pad in self._pads)

    def touched_by_hand(self, name: str) -> bool:
        return self._touching(name, self._hand_geoms)

    def _touching(self, name: str, geoms: set[int]) -> bool:
        model, body = self._twin.model, self._twin.model.body(name).id
        for contact in self._twin.data.contact[: self._twin.data.ncon]:
            a, b = contact.geom1, contact.geom2
            if (a in geoms and model.geom_bodyid[b] == body) or (b in geoms and model.geom_bodyid[a] == body):
                return True
        return False
