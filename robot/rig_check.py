"""Whether a rig file makes sense as a whole: what no single key can show. Opens no device."""

import importlib.util
from collections.abc import Iterator
from datetime import date

import mujoco
import numpy as np

from .arm_file import ranges_beyond
from .collision import Surroundings
from .errors import ArmflowError, ConfigError
from .findings import Finding
from .geometry import project
from .models import has_model
from .rig import ARMS, DESCRIPTIONS, CameraCfg, Rig
from .twin.scene import build_cell

STALE_DAYS = 90  # mounts work loose, cables pull
FIRST_RUN_SPEED = 0.3  # fraction of the joints' speed; a policy that nobody has seen move should not be faster
TABLE_X, TABLE_Y = (0.40, 0.60), (-0.20, 0.20)  # where things usually lie, in the base frame, m
UNMEASURED = "1970-01-01"  # the default of calibration_date


def check_rig(rig: Rig, today: date) -> Iterator[Finding]:
    """One finding per thing looked at, errors included."""
    yield _twin(rig)
    yield from _model(rig)
    yield _home(rig)
    yield from _speeds(rig)
    for camera in rig.cameras:
        yield _calibration_age(camera, today, rig.is_hardware)
        yield _view(camera)
        yield _rate(camera, rig.control_hz)
    yield from _sdks(rig)


def _twin(rig: Rig) -> Finding:
    if rig.arm.model not in DESCRIPTIONS:
        return Finding("warning", "twin", f"there is none of the {rig.arm.model}", "no dry runs: begin slowly")
    try:
        build_cell(rig, ())
    except (ArmflowError, ValueError, mujoco.FatalError) as error:
        return Finding("error", "twin", f"MuJoCo cannot build it: {error}", "correct what the message names")
    return Finding("ok", "twin", "MuJoCo builds it")


def _model(rig: Rig) -> Iterator[Finding]:
    """Whether kinematics and collision checks make sense of the arm, and have nothing against its home pose."""
    if not has_model(rig.arm):
        return
    file, spec = rig.arm.description, ARMS[rig.arm.model]
    try:
        place = Surroundings(rig).look(np.array(rig.arm.home_q))
        beyond = [] if file is None else ranges_beyond(file, spec)
    except ConfigError as error:
        yield Finding("error", "arm.description", str(error), "correct what the message names")
        return
    if beyond:
        advice = "is it this arm, with this zero and these directions? Kinematics and collision checks rest on it"
        yield Finding("warning", "arm.description", f"its joints turn less: {'; '.join(beyond)}", advice)
    elif file is not None:
        yield Finding("ok", "arm.description", f"has the joints of the {spec.name}, and their ranges")
    if place.flag:
        yield Finding(
            "error", "arm.home_q", f"the safety filter stops there: {place.what}", "choose a pose further away"
        )


def _home(rig: Rig) -> Finding:
    spec, q, margin = ARMS[rig.arm.model], np.array(rig.arm.home_q), rig.safety.joint_margin_rad
    room = np.minimum(q - spec.q_min, spec.q_max - q) - margin
    worst = int(room.argmin())
    if room[worst] < 0:
        found = f"{spec.joint_names[worst]} is {-room[worst]:.3f} rad inside the safety margin of {margin} rad"
        return Finding("error", "arm.home_q", found, "the safety filter would move it: choose a pose further inside")
    return Finding("ok", "arm.home_q", f"{room[worst]:.2f} rad of room on {spec.joint_names[worst]}, the least")


def _speeds(rig: Rig) -> Iterator[Finding]:
    if not rig.is_hardware:
        return
    if not has_model(rig.arm):
        found = f"there is no collision model of the {rig.arm.model}: joint limits only, no box, no tool speed"
        yield Finding("warning", "safety", found, "set the controller's own fence and speed limits, and stay outside")
    scale = rig.safety.speed_scale
    if scale > FIRST_RUN_SPEED:
        advice = f"fine once policies are known; first runs of a new one at {FIRST_RUN_SPEED} or less"
        yield Finding("warning", "safety.speed_scale", f"commands may use {scale:.0%} of the joints' speed", advice)
    for section, cfg in (("franka", rig.franka), ("xarm", rig.xarm), ("lerobot", rig.lerobot)):
        if cfg is not None and cfg.speed_scale < scale:
            found = f"{cfg.speed_scale} is below safety.speed_scale = {scale}"
            yield Finding(
                "error", f"{section}.speed_scale", found, "the arm would fall behind: raise it or lower the other"
            )


def _calibration_age(camera: CameraCfg, today: date, is_hardware: bool) -> Finding:
    subject = f"camera {camera.name}: calibration"
    try:
        age = (today - date.fromisoformat(camera.calibration_date)).days
    except ValueError:
        found = f"calibration_date is '{camera.calibration_date}'"
        return Finding("error", subject, found, 'write the day as ISO 8601, such as "2026-11-20"')
    advice = "calibrate, or check a fixed marker, and set calibration_date"
    if camera.calibration_date == UNMEASURED and is_hardware:
        return Finding("warning", subject, "no date: nobody knows whether the pose was ever measured", advice)
    if age < 0:
        return Finding("error", subject, f"dated {-age} days in the future", "correct calibration_date or the clock")
    if age > STALE_DAYS and is_hardware:
        return Finding("warning", subject, f"{age} days old", advice)
    return Finding("ok", subject, f"{age} days old")


def _view(camera: CameraCfg) -> Finding:
    """Whether the corners of the workspace are in the picture."""
    spec, subject = camera.spec(), f"camera {camera.name}: view"
    corners = np.array([(x, y, 0.0) for x in TABLE_X for y in TABLE_Y])
    ahead = ((corners - spec.X_BC[:3, 3]) @ spec.X_BC[:3, :3])[:, 2]
    pixels = project(corners, spec.K, spec.X_BC)
    inside = (ahead > 0) & (pixels >= -0.5).all(1) & (pixels < (spec.width - 0.5, spec.height - 0.5)).all(1)
    found = (
        f"sees {inside.sum()} of the 4 corners of the table's workspace, {ahead.min():.2f} to {ahead.max():.2f} m away"
    )
    if not inside.any():
        advice = (
            "its pose looks past the cell: is quat_wxyz the optical frame (z forward, y down), position in the base?"
        )
        return Finding("error", subject, found, advice)
    return Finding("ok" if inside.all() else "warning", subject, found, "" if inside.all() else "aim it at the table")


def _rate(camera: CameraCfg, control_hz: float) -> Finding:
    subject = f"camera {camera.name}: rate"
    found = f"{camera.fps:g} Hz, the loop looks {control_hz:g} times a second"
    if camera.fps < control_hz:
        return Finding("error", subject, found, "images would repeat in the data: raise fps or lower control_hz")
    return Finding("ok", subject, found)


def _sdks(rig: Rig) -> Iterator[Finding]:
    """Packages that the rig's devices need."""
    needed = [("franky", "franka")] if rig.franka is not None else []
    needed += [("xarm", "xarm")] if rig.xarm is not None else []
    needed += [("can", "openarm")] if rig.lerobot is not None and rig.lerobot.interface else []
    needed += [("pyrealsense2", "realsense")] if any(c.realsense for c in rig.cameras) else []
    for module, extra in needed:
        if importlib.util.find_spec(module) is None:
            yield Finding("error", f"package {module}", "is not installed", f'pip install "armflow[{extra}]"')
        else:
            yield Finding("ok", f"package {module}", "is installed")
