"""`armflow twin ...`."""

import os
from pathlib import Path
from typing import Literal

import cv2
import mujoco
import mujoco.viewer
import numpy as np
from rich.console import Console

from ..clock import MonotonicClock
from ..rig import DEFAULT_RIG, load_rig
from .cell import Cell, Episode
from .film import Film, side_by_side
from .tasks import get_task

ORBIT_S, ORBIT_FPS = 6.0, 20.0  # length and rate of the film that stands in for the viewer
ORBIT_SIZE = (640, 480)


def view(
    task: Literal["pick_peach", "stack_bowls"] = "pick_peach",
    seed: int = 0,
    rig: Path = DEFAULT_RIG,
    out: Path = Path("runs/twin/view.mp4"),
) -> None:
    """Look at the cell in MuJoCo's viewer; without a display, write a film that circles it instead.

    Args:
        task: Which scene.
        seed: Which random start.
        rig: Rig file to build the cell from.
        out: Where the film goes when there is no display.
    """
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        with Cell(load_rig(rig), MonotonicClock()) as cell:
            _interactive(cell.reset(get_task(task), seed))
        return
    with Cell(load_rig(rig)) as cell:
        _orbit(cell.reset(get_task(task), seed), out)
    Console().print(f"no display: wrote {out}")


def render(
    task: Literal["pick_peach", "stack_bowls"] = "pick_peach",
    seed: int = 0,
    width: int = 640,
    height: int = 480,
    rig: Path = DEFAULT_RIG,
    out: Path = Path("runs/twin/render.png"),
) -> None:
    """Write what the cameras see: colour above, depth below, one column per camera.

    Args:
        task: Which scene.
        seed: Which random start.
        width: Image width, px.
        height: Image height, px.
        rig: Rig file with the cameras' intrinsics and poses.
        out: PNG file.
    """
    with Cell(load_rig(rig).with_image_size(width, height)) as cell:
        episode = cell.reset(get_task(task), seed)
        frames = [camera.latest(max_age_s=1.0) for camera in episode.cameras.values()]
    depth = [_depth_picture(f.depth_mm) for f in frames]
    picture = np.vstack([np.hstack([f.rgb for f in frames]), np.hstack(depth)])
    out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out), picture[..., ::-1])
    Console().print(f"{episode.layout.instruction}: wrote {out}")


def _depth_picture(depth_mm: np.ndarray) -> np.ndarray:
    """(h, w) mm -> (h, w, 3) uint8 RGB; near is red, far is blue, no return is black."""
    near, far = 300.0, 1600.0  # mm, the cell
    nearness = np.clip(255 * (far - depth_mm.astype(np.float32)) / (far - near), 0, 255).astype(np.uint8)
    colours = cv2.applyColorMap(nearness, cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(depth_mm[..., None] == 0, 0, colours).astype(np.uint8)


def _interactive(episode: Episode) -> None:
    twin = episode.twin
    with mujoco.viewer.launch_passive(twin.model, twin.data) as viewer:
        while viewer.is_running():
            twin.sync()
            viewer.sync()
            twin.clock.sleep_until(twin.clock.now() + 1 / 60)


def _orbit(episode: Episode, out: Path) -> None:
    twin = episode.twin
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance, camera.elevation = (0.4, 0.0, 0.2), 1.6, -25.0
    renderer = episode.renderer()
    with Film(out, ORBIT_FPS) as film:
        for i in range(round(ORBIT_S * ORBIT_FPS)):
            camera.azimuth = 180.0 + 360.0 * i / (ORBIT_S * ORBIT_FPS)
            picture, _ = renderer.render_free(twin.data, camera, *ORBIT_SIZE)
            film.show(side_by_side([picture]))


COMMANDS = {"view": view, "render": render}
