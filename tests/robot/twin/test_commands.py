"""`armflow twin`: the pictures and the film that it promises."""

import os
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from armflow.robot.errors import ConfigError
from armflow.robot.rig import Rig
from armflow.robot.twin.cell import Cell
from armflow.robot.twin.commands import ORBIT_FPS, ORBIT_S, render
from armflow.robot.twin.tasks import get_task

WIDTH, HEIGHT = 96, 72


def picture(path: Path) -> np.ndarray:
    """(h, w, 3) as written, RGB."""
    found = cv2.imread(str(path))
    assert found is not None
    return found[..., ::-1]


def rendered(tmp_path: Path, *, task: str = "pick_peach", seed: int = 0) -> np.ndarray:
    out = tmp_path / "somewhere/new" / f"{task}-{seed}.png"
    render(task=task, seed=seed, width=WIDTH, height=HEIGHT, out=out)  # type: ignore[arg-type]
    return picture(out)


def tiles(image: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Colour and depth pictures, one of each per camera."""
    colour, depth = np.vsplit(image, 2)
    count = image.shape[1] // WIDTH
    return np.hsplit(colour, count), np.hsplit(depth, count)


def decoded(path: Path) -> tuple[list[np.ndarray], float]:
    """Every picture of a film, and its rate in Hz."""
    film = av.open(str(path))
    stream = film.streams.video[0]
    assert stream.average_rate is not None
    return [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(stream)], float(stream.average_rate)


def test_a_picture_has_colour_above_depth_and_a_column_per_camera(rig: Rig, tmp_path: Path) -> None:
    image = rendered(tmp_path)
    assert image.shape == (2 * HEIGHT, len(rig.cameras) * WIDTH, 3)
    for tile in (*tiles(image)[0], *tiles(image)[1]):
        assert tile.std() > 10, "something is to be seen in each"


def test_the_columns_are_what_the_rigs_cameras_see_in_their_order(rig: Rig, tmp_path: Path) -> None:
    colour, _ = tiles(rendered(tmp_path, seed=5))
    with Cell(rig.with_image_size(WIDTH, HEIGHT)) as cell:
        cameras = cell.reset(get_task("pick_peach"), 5).cameras
        for tile, camera in zip(colour, rig.cameras, strict=True):
            np.testing.assert_array_equal(tile, cameras[camera.name].latest(max_age_s=1.0).rgb)


def test_colours_are_not_swapped_on_the_way_to_the_file(tmp_path: Path) -> None:
    """A peach is orange: red over green over blue."""
    (head, _), _ = tiles(rendered(tmp_path))
    reddest = head.reshape(-1, 3)[np.argmax(head[..., 0].astype(int).ravel() - head[..., 2].ravel())]
    assert reddest[0] > reddest[1] > reddest[2]


def test_depth_is_warm_near_the_camera_and_dark_far_from_it(tmp_path: Path) -> None:
    """The head camera looks down from across the table: what is near it is at the foot of its image."""
    _, (head, _) = tiles(rendered(tmp_path))
    near, far = head[-1].mean(axis=0), head[0].mean(axis=0)
    assert near[0] > 200 > 2 * near[2], "red"
    assert far.max() < 100


def test_the_seed_decides_what_is_in_the_picture(tmp_path: Path) -> None:
    first, again, other = (rendered(tmp_path, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.02


def test_the_task_decides_what_is_in_the_picture(tmp_path: Path) -> None:
    a, b = (rendered(tmp_path, task=task) for task in ("pick_peach", "stack_bowls"))
    assert (a != b).mean() > 0.02


def test_a_rig_file_that_is_not_there_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no_rig.toml does not exist"):
        render(rig=tmp_path / "no_rig.toml", out=tmp_path / "render.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_view_without_a_display_films_the_cell_from_all_around(tmp_path: Path) -> None:
    out = tmp_path / "new/view.mp4"
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    code = "from armflow.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "twin", "view", "--out", str(out)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no display: wrote" in done.stdout
    frames, rate = decoded(out)
    assert rate == ORBIT_FPS
    assert len(frames) == round(ORBIT_S * ORBIT_FPS)
    assert all(frame.std() > 10 for frame in frames)
    step = [np.abs(b - a).mean() for a, b in zip(frames, frames[1:], strict=False)]
    assert min(step) > 0.5, "the camera never rests"
    opposite = np.abs(frames[len(frames) // 2] - frames[0]).mean()
    assert opposite > 2 * np.abs(frames[-1] - frames[0]).mean(), "and comes back to where it began"
