"""An arm out of an MJCF or URDF file: kinematics and shapes for collision checks. It has no twin.

Everything else in the file is left out: visuals, motors, objects, and joints that are not the arm's, such as a gripper's or
a second arm's, which stay where the file's zero has them. Meshes count as their convex hulls.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from .arm_description import ArmModel
from .errors import ConfigError
from .types import ArmSpec

TOOL_SITE = "armflow tool"
PACKAGE = "package://"  # how ROS names a file: package, then the path in it
RANGE_TOLERANCE_RAD = 0.02  # a degree: of ranges that were rounded


@dataclass(frozen=True)
class ArmFileCfg:
    """Which file, and what in it is the arm. The file's root is the base frame of the rig's cameras and limits."""

    file: Path
    """MJCF or URDF, relative to the rig file."""
    joints: tuple[str, ...]
    """Names of the arm's joints in the file, from the base to the tool."""
    tool_frame: str
    """Site, body or link whose origin is the tool centre point."""


def read_arm(cfg: ArmFileCfg, arm: ArmSpec) -> ArmModel:
    """The arm in the file, with the joint ranges of `arm`. Raises ConfigError that names what is missing or wrong."""
    spec = _open(cfg)
    _keep_only(spec, set(cfg.joints))
    tool, body = _tool(spec, cfg)
    chain = [joint.name for joint in _joints_up_to(body)]
    if chain != list(cfg.joints):
        raise ConfigError(
            f"{cfg.file}: from the base to {cfg.tool_frame} lie the joints {', '.join(chain) or '(none)'}, "
            f"[arm.description] joints has {', '.join(cfg.joints)}: all have to lie on that way, in that order"
        )
    shapes = dict(_named_shapes(spec))
    if not shapes:
        raise ConfigError(f"{cfg.file} has no shapes to check collisions with; <collision> in a URDF, geoms in an MJCF")
    _limit(spec, cfg, arm)
    try:
        spec.compile()
    except ValueError as error:
        raise ConfigError(f"{cfg.file}: MuJoCo cannot build the arm: {error}") from None
    return ArmModel(spec, tool, shapes)


def ranges_beyond(cfg: ArmFileCfg, arm: ArmSpec) -> list[str]:
    """Joints that `arm` lets move further than the file does: another zero, another direction, or another arm."""
    spec = _open(cfg)
    found = []
    for name, ours, low, high in zip(cfg.joints, arm.joint_names, arm.q_min, arm.q_max, strict=True):
        joint = spec.joint(name)
        from_rad, to_rad = joint.range * (np.pi / 180 if spec.compiler.degree else 1.0)
        limited = from_rad < to_rad and joint.limited != mujoco.mjtLimited.mjLIMITED_FALSE
        if limited and (low < from_rad - RANGE_TOLERANCE_RAD or high > to_rad + RANGE_TOLERANCE_RAD):
            found.append(f"{ours} {low:.2f} to {high:.2f} rad, {name} in the file {from_rad:.2f} to {to_rad:.2f}")
    return found


def _open(cfg: ArmFileCfg) -> mujoco.MjSpec:
    if not cfg.file.is_file():
        raise ConfigError(f"[arm.description] file {cfg.file} does not exist; its path is relative to the rig file")
    try:
        spec = mujoco.MjSpec.from_file(str(cfg.file))
    except ValueError as error:
        raise ConfigError(f"{cfg.file} is no MJCF or URDF that MuJoCo reads: {error}") from None
    there_are = {joint.name: joint.type for joint in spec.joints}
    missing = [name for name in cfg.joints if name not in there_are]
    if missing:
        raise ConfigError(f"{cfg.file} has no joint {', '.join(missing)}; it has: {', '.join(there_are)}")
    sliding = [name for name in cfg.joints if there_are[name] != mujoco.mjtJoint.mjJNT_HINGE]
    if sliding:
        raise ConfigError(f"{cfg.file}: {', '.join(sliding)} does not turn about one axis; an arm's joint has to")
    return spec


def _keep_only(spec: mujoco.MjSpec, joints: set[str]) -> None:
    """Joints of the arm and shapes that can collide; the world of the file, such as a floor, is the rig's matter."""
    for things in (spec.actuators, spec.tendons, spec.equalities, spec.sensors, spec.keys, spec.excludes, spec.pairs):
        for thing in list(things):
            spec.delete(thing)
    for joint in list(spec.joints):
        if joint.name not in joints:
            spec.delete(joint)
    for geom in list(spec.geoms):
        if geom.parent.name == "world" or not (geom.contype or geom.conaffinity):
            spec.delete(geom)
    meshes = {geom.meshname for geom in spec.geoms}
    for mesh in list(spec.meshes):
        if mesh.name not in meshes:
            spec.delete(mesh)
        elif mesh.file.startswith(PACKAGE):
            mesh.file = _in_package(mesh.file, Path(spec.modelfiledir))
    spec.compiler.fusestatic = False  # it would drop the frames of links that do not move
    spec.compiler.discardvisual = False  # nor shapes that touch nothing by themselves
    spec.compiler.boundmass = spec.compiler.boundinertia = 1e-6  # kinematics need none, and many files have none
    spec.compiler.balanceinertia = True
    spec.option.disableflags = 0


def _tool(spec: mujoco.MjSpec, cfg: ArmFileCfg) -> tuple[str, mujoco.MjsBody]:
    """The site of the tool centre point, and the body that it is part of."""
    site, body = spec.site(cfg.tool_frame), spec.body(cfg.tool_frame)
    if site is not None:
        return site.name, site.parent
    if body is None:
        frames = [each.name for each in (*spec.sites, *spec.bodies) if each.name not in ("", "world")]
        raise ConfigError(
            f"{cfg.file} has no site, body or link '{cfg.tool_frame}' (tool_frame); it has: {', '.join(frames)}"
        )
    body.add_site(name=TOOL_SITE)
    return TOOL_SITE, body


def _joints_up_to(body: mujoco.MjsBody) -> Iterator[mujoco.MjsJoint]:
    """From the world on."""
    if body.name != "world":
        yield from _joints_up_to(body.parent)
        yield from body.joints


def _named_shapes(spec: mujoco.MjSpec) -> Iterator[tuple[str, int]]:
    """All shapes, none of which touches anything by itself, and their links: as many joints of the arm lie before them."""
    for i, geom in enumerate(spec.geoms):
        geom.name = geom.name or f"{geom.parent.name} ({i})"
        geom.contype = geom.conaffinity = 0
        yield geom.name, 1 + len(list(_joints_up_to(geom.parent)))


def _limit(spec: mujoco.MjSpec, cfg: ArmFileCfg, arm: ArmSpec) -> None:
    unit = 180 / np.pi if spec.compiler.degree else 1.0
    for name, low, high in zip(cfg.joints, arm.q_min, arm.q_max, strict=True):
        joint = spec.joint(name)
        joint.range, joint.limited = (low * unit, high * unit), mujoco.mjtLimited.mjLIMITED_TRUE


def _in_package(uri: str, folder: Path) -> str:
    """Where a file of a ROS package lies: packages keep their URDFs in a folder beside that of the meshes."""
    package, _, path = uri.removeprefix(PACKAGE).partition("/")
    places = [above / name for above in (folder, *folder.parents) for name in (path, f"{package}/{path}")]
    return str(next((place for place in places if place.is_file()), uri))
