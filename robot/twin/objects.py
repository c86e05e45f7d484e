"""Things on the table, built from primitives with contact; every one is a free body, graspable only by friction."""

from dataclasses import dataclass
from typing import Protocol

import mujoco
import numpy as np

from .arm_model import KNOB_BIT, ROBOT_BIT, VESSEL_BIT, WORLD_BIT

Rgba = tuple[float, float, float, float]

FRICTION = (0.9, 0.01, 0.001)  # slide, torsion (m), roll (m): fruit and glazed ware on wood
WALL_SEGMENTS = 12
WALL_THICKNESS, FOOT_THICKNESS = 0.005, 0.01  # m: a knob falling at 1 m/s must not pass a foot in one step
KNOB_RADIUS = 0.0035  # m: a millimetre proud of the wall on both sides


class SceneObject(Protocol):
    """A body that a task places; its origin is where it touches the table."""

    @property
    def name(self) -> str: ...

    def add_to(self, spec: mujoco.MjSpec) -> None: ...


@dataclass(frozen=True)
class Ball:
    """A sphere such as a fruit."""

    name: str
    radius: float  # m
    rgba: Rgba
    mass: float = 0.12  # kg
    stem: bool = False

    def add_to(self, spec: mujoco.MjSpec) -> None:
        body = _free_body(spec, self.name)
        # condim 6: rolling friction keeps a fruit where it was put
        _geom(body, mujoco.mjtGeom.mjGEOM_SPHERE, (self.radius, 0, 0), (0, 0, self.radius), self.rgba, self.mass, 6)
        if self.stem:
            stem = _geom(body, mujoco.mjtGeom.mjGEOM_CYLINDER, (0.004, 0.004, 0), (0, 0, 2 * self.radius), STEM, 0)
            stem.contype = stem.conaffinity = 0


@dataclass(frozen=True)
class Block:
    """A box."""

    name: str
    half: tuple[float, float, float]  # m
    rgba: Rgba
    mass: float = 0.1

    def add_to(self, spec: mujoco.MjSpec) -> None:
        _geom(_free_body(spec, self.name), mujoco.mjtGeom.mjGEOM_BOX, self.half, (0, 0, self.half[2]), self.rgba,
              self.mass)  # fmt: skip


@dataclass(frozen=True)
class Can:
    """An upright cylinder."""

    name: str
    radius: float
    height: float
    rgba: Rgba
    mass: float = 0.12

    def add_to(self, spec: mujoco.MjSpec) -> None:
        half = self.height / 2
        _geom(_free_body(spec, self.name), mujoco.mjtGeom.mjGEOM_CYLINDER, (self.radius, half, 0), (0, 0, half),
              self.rgba, self.mass)  # fmt: skip


@dataclass(frozen=True)
class Bowl:
    """A concave, round vessel: a base disc and a ring of tilted wall segments. Cups and plates are bowls too."""

    name: str
    rim_radius: float  # m, inner, at the top
    base_radius: float  # m, inner, at the bottom
    height: float  # m
    rgba: Rgba
    mass: float = 0.15

    def add_to(self, spec: mujoco.MjSpec) -> None:
        body = _free_body(spec, self.name)
        half_t, half_f = WALL_THICKNESS / 2, FOOT_THICKNESS / 2
        foot = _geom(body, mujoco.mjtGeom.mjGEOM_CYLINDER, (self.base_radius, half_f, 0), (0, 0, half_f), self.rgba,
                     0.4 * self.mass)  # fmt: skip
        _make_vessel(foot)
        # Walls start above the foot, so that a standing vessel rests on its disc alone.
        wall_height = self.height - 2 * half_t
        tilt = np.arctan2(self.rim_radius - self.base_radius, wall_height)
        base, rim = self.base_radius + half_t / np.cos(tilt), self.rim_radius + half_t / np.cos(tilt)
        half_width = (self.rim_radius + WALL_THICKNESS) * np.tan(np.pi / WALL_SEGMENTS)
        for i in range(WALL_SEGMENTS):
            angle = 2 * np.pi * i / WALL_SEGMENTS
            out = np.array([np.cos(angle), np.sin(angle), 0.0])
            wall = _geom(body, mujoco.mjtGeom.mjGEOM_BOX, (half_t, half_width, 0.5 * wall_height / np.cos(tilt)),
                         (base + rim) / 2 * out + (0, 0, half_t + self.height / 2), self.rgba,
                         0.6 * self.mass / WALL_SEGMENTS)  # fmt: skip
            wall.quat = _yaw_then_pitch(angle, tilt)
            _make_vessel(wall)
            for radius, z in ((base, KNOB_RADIUS + 0.0005), (rim, self.height)):
                knob = _geom(body, mujoco.mjtGeom.mjGEOM_SPHERE, (KNOB_RADIUS, 0, 0), radius * out + (0, 0, z),
                             self.rgba, 0)  # fmt: skip
                knob.contype, knob.conaffinity, knob.group = KNOB_BIT, 0, 3  # group 3 is not drawn


def _make_vessel(geom: mujoco.MjsGeom) -> None:
    geom.contype, geom.conaffinity = VESSEL_BIT, WORLD_BIT | ROBOT_BIT | KNOB_BIT
    geom.solref = (0.008, 1.0)  # s: stiffer than MuJoCo's 0.02, walls are thin


STEM: Rgba = (0.25, 0.35, 0.12, 1.0)


def _yaw_then_pitch(yaw: float, pitch: float) -> np.ndarray:
    qz = np.array([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
    qy = np.array([np.cos(pitch / 2), 0, np.sin(pitch / 2), 0])
    out = np.zeros(4)
    mujoco.mju_mulQuat(out, qz, qy)
    return out


def _free_body(spec: mujoco.MjSpec, name: str) -> mujoco.MjsBody:
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    return body


def _geom(
    body: mujoco.MjsBody,
    kind: mujoco.mjtGeom,
    size: tuple[float, ...],
    pos: tuple[float, ...] | np.ndarray,
    rgba: Rgba,
    mass: float,
    condim: int = 4,
) -> mujoco.MjsGeom:
    return body.add_geom(
        type=kind,
        size=size,
        pos=pos,
        rgba=rgba,
        mass=mass,
        condim=condim,
        friction=FRICTION,
        contype=WORLD_BIT,
        conaffinity=WORLD_BIT | ROBOT_BIT | VESSEL_BIT,
    )
