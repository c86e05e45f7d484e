"""What the twin's cameras deliver: pictures where the calibration says, depth in millimetres, frames in time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from armflow.robot.clock import SimClock
from armflow.robot.errors import StaleReading
from armflow.robot.geometry import project
from armflow.robot.rig import CameraCfg, Rig, load_rig
from armflow.robot.twin.depth_noise import MAX_RANGE_M, MIN_RANGE_M, stereo_depth_mm
from armflow.robot.twin.devices import TwinCamera
from armflow.robot.twin.objects import Ball
from armflow.robot.twin.render import SceneRenderer
from armflow.robot.twin.scene import build_cell
from armflow.robot.twin.sim import Twin
from armflow.robot.types import CameraSpec, RgbdFrame

SIZES = [(640, 480), (128, 96), (224, 224)]
WITHIN_PX = {640: 0.7, 128: 0.35, 224: 0.35}  # half a pixel of offset is what a wrong convention makes
RADIUS = 0.025
SLACK_M = 0.002  # of depth: whole millimetres, and a ball drawn with flat facets
MAGENTA = (0.9, 0.02, 0.9, 1.0)  # nothing else in the cell is


def rig_of(size: tuple[int, int], **twin: float) -> Rig:
    rig = load_rig().with_image_size(*size)
    return replace(rig, twin=replace(rig.twin, **twin))


@contextmanager
def cameras_of(rig: Rig, ball: tuple[float, float] | None = None) -> Iterator[tuple[SimClock, dict[str, TwinCamera]]]:
    """The rig's cameras, looking at the table and perhaps a ball that lies on it."""
    clock = SimClock()
    model = build_cell(rig, [Ball("ball", RADIUS, MAGENTA)] if ball else [])
    twin = Twin(rig, model, clock)
    twin.place({"ball": np.array([*ball, 0.0, 1.0, 0.0, 0.0, 0.0])} if ball else {}, np.array(rig.arm.home_q))
    renderer, rng = SceneRenderer(model), np.random.default_rng(0)
    yield clock, {c.name: TwinCamera(twin, c.spec(), lambda: renderer, rng) for c in rig.cameras}
    renderer.close()


def ball_pixels(frame: RgbdFrame) -> np.ndarray:
    """(n, 2) x, y of the pixels that show the ball."""
    r, g, b = np.moveaxis(frame.rgb.astype(int), -1, 0)
    return np.argwhere((r > g + 50) & (b > g + 50))[:, ::-1]


def ray(spec: CameraSpec, x: float, y: float) -> np.ndarray:
    """(3,) direction in the base frame of a pixel's line of sight, of length 1 along the optical axis."""
    return spec.X_BC[:3, :3] @ np.linalg.solve(spec.K, (x, y, 1.0))


def ball_depth_m(spec: CameraSpec, x: float, y: float, centre: np.ndarray) -> float:
    """Where the line of sight of a pixel enters the ball."""
    sight, to_centre = ray(spec, x, y), centre - spec.X_BC[:3, 3]
    middle, square = sight @ to_centre, sight @ sight
    return float((middle - np.sqrt(middle**2 - square * (to_centre @ to_centre - RADIUS**2))) / square)


def sampled(size: tuple[int, int], x: int, y: int) -> tuple[float, float]:
    """Where in the image the depth of pixel x, y is taken: small images are rendered at twice their size."""
    return (x, y) if size[0] > 160 else (x - 0.25, y - 0.25)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("place", [(0.40, -0.15), (0.56, 0.02), (0.50, 0.18)])
def test_a_ball_is_seen_where_the_calibration_puts_it(size: tuple[int, int], place: tuple[float, float]):
    centre = np.array([*place, RADIUS])
    with cameras_of(rig_of(size, depth_noise_px=0.0), place) as (_, cameras):
        for camera in cameras.values():
            frame, spec = camera.latest(max_age_s=1.0), camera.spec
            assert frame.rgb.shape == (size[1], size[0], 3)
            expected = project(centre[None], spec.K, spec.X_BC)[0]
            assert np.abs(ball_pixels(frame).mean(axis=0) - expected).max() < WITHIN_PX[size[0]]
            radius_px = spec.K[0, 0] * RADIUS / np.linalg.norm(centre - spec.X_BC[:3, 3])
            area = np.pi * radius_px**2 * spec.K[1, 1] / spec.K[0, 0]
            assert len(ball_pixels(frame)) == pytest.approx(area, rel=0.15, abs=8)

            x, y = np.rint(expected).astype(int)
            expected_m = ball_depth_m(spec, *sampled(size, x, y), centre)
            assert frame.depth_mm[y, x] / 1000 == pytest.approx(expected_m, abs=SLACK_M)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_table_is_as_far_as_geometry_says(size: tuple[int, int]):
    with cameras_of(rig_of(size, depth_noise_px=0.0)) as (_, cameras):
        for camera in cameras.values():
            spec, frame = camera.spec, camera.latest(max_age_s=1.0)
            corners = np.array([(x, y, 0.0) for x in (0.5, 0.6, 0.7) for y in (-0.35, -0.3, 0.25)])
            for x, y in np.rint(project(corners, spec.K, spec.X_BC)).astype(int):
                if not (0 <= x < size[0] and 0 <= y < size[1]):
                    continue
                depth_m = -spec.X_BC[2, 3] / ray(spec, *sampled(size, x, y))[2]
                assert frame.depth_mm[y, x] / 1000 == pytest.approx(depth_m, abs=SLACK_M)


def test_any_image_size_is_rendered_whole():
    """Larger than the renderer's first buffer: pixels outside it would be garbage."""
    place = (0.56, 0.02)
    with cameras_of(rig_of((1920, 1440), depth_noise_px=0.0), place) as (_, cameras):
        spec, frame = cameras["front"].spec, cameras["front"].latest(max_age_s=1.0)
        expected = project(np.array([[*place, RADIUS]]), spec.K, spec.X_BC)[0]
        assert np.abs(ball_pixels(frame).mean(axis=0) - expected).max() < 2.0
        assert np.abs(frame.rgb[-1].astype(int) - frame.rgb[-2]).max() < 40, "the lowest rows are a smooth table"


def test_both_cameras_see_the_same_scene_at_the_same_instant(rig: Rig):
    with cameras_of(rig) as (clock, cameras):
        clock.sleep_until(0.35)
        head, front = (c.latest(max_age_s=1.0) for c in cameras.values())
        assert (head.t, head.frame_number) == (front.t, front.frame_number)
        assert not np.array_equal(head.rgb, front.rgb)


# --- time


def test_frames_are_numbered_and_stamped_at_the_cameras_rate(rig: Rig):
    with cameras_of(rig) as (clock, cameras):
        frames = []
        for tick in range(100):
            clock.sleep_until(tick / 100)
            frames.append(cameras["head"].latest(max_age_s=0.2))
        assert [f.frame_number for f in frames] == sorted(f.frame_number for f in frames)
        assert {f.frame_number for f in frames} == set(range(30)), "none is missed when asked often enough"
        for frame in frames:
            assert frame.t == pytest.approx(frame.frame_number / 30, abs=1 / rig.twin.servo_hz)
        ages = np.arange(100) / 100 - [f.t for f in frames]
        assert (ages > -1e-9).all() and (ages < 1 / 30 + 0.002).all()


def test_asked_early_the_same_frame_comes_again(rig: Rig):
    with cameras_of(rig) as (clock, cameras):
        first = cameras["head"].latest(max_age_s=0.2)
        clock.sleep_until(0.030)
        assert cameras["head"].latest(max_age_s=0.2) is first
        clock.sleep_until(0.034)
        assert cameras["head"].latest(max_age_s=0.2).frame_number == 1


def with_camera(rig: Rig, name: str, **changes: float) -> Rig:
    cameras: tuple[CameraCfg, ...] = tuple(replace(c, **changes) if c.name == name else c for c in rig.cameras)
    return replace(rig, cameras=cameras)


@pytest.mark.parametrize("fps", [15.0, 6.0, 25.0])
def test_a_slower_camera_keeps_its_own_rate(rig: Rig, fps: float):
    with cameras_of(with_camera(rig, "front", fps=fps)) as (clock, cameras):
        numbers, times = {"head": set[int](), "front": set[int]()}, list[float]()
        for tick in range(100):
            clock.sleep_until(tick / 100)
            for name, camera in cameras.items():
                frame = camera.latest(max_age_s=0.5)
                numbers[name].add(frame.frame_number)
                if name == "front":
                    times.append(frame.t - frame.frame_number / fps)
        assert numbers["head"] == set(range(30))
        assert numbers["front"] == set(range(round(fps)))
        assert np.abs(times).max() < 1 / 30 + 0.002, "exposed together with the faster camera"


@pytest.mark.parametrize("latency", [0.05, 0.5])
def test_latency_is_the_age_of_what_is_delivered(rig: Rig, latency: float):
    with cameras_of(replace(rig, twin=replace(rig.twin, camera_latency_s=latency))) as (clock, cameras):
        clock.sleep_until(1.0)
        for _ in range(20):
            clock.sleep_until(clock.now() + 0.01)
            age = clock.now() - cameras["head"].latest(max_age_s=1.0).t
            assert latency - 1e-9 <= age < latency + 1 / 30 + 0.002


def test_a_frame_that_is_too_old_is_an_error_not_a_picture(rig: Rig):
    with cameras_of(replace(rig, twin=replace(rig.twin, camera_latency_s=0.3))) as (clock, cameras):
        clock.sleep_until(1.0)
        with pytest.raises(StaleReading, match=r"head: newest frame is 0\.3\d s old, allowed is 0\.2 s"):
            cameras["head"].latest(max_age_s=0.2)


# --- depth noise


def spread_mm(z: float, sigma_px: float = 0.08, fx: float = 610.0, width: int = 640) -> float:
    depth = stereo_depth_mm(np.full((200, width), z, np.float32), fx, sigma_px, np.random.default_rng(0))
    seen = depth[depth > 0]
    assert seen.size > 0.99 * depth.size
    assert np.median(seen) == pytest.approx(1000 * z, rel=0.01)
    return float(seen.std())


def test_depth_noise_grows_with_the_square_of_the_distance():
    for z in (1.0, 1.2, 1.4):  # closer, rounding to millimetres counts as much
        assert spread_mm(2 * z) == pytest.approx(4 * spread_mm(z), rel=0.15)
    assert spread_mm(1.0) == pytest.approx(1000 * 0.08 / (610 * 0.05), rel=0.15), "z^2 sigma / (f B)"


def test_a_resized_image_has_the_noise_of_the_sensor_not_of_its_pixels():
    assert spread_mm(1.0, fx=122.0, width=128) == pytest.approx(spread_mm(1.0), rel=0.1)


def test_without_noise_depth_is_rounded_to_millimetres():
    true = np.random.default_rng(0).uniform(0.3, 2.5, (50, 50)).astype(np.float32)
    measured = stereo_depth_mm(true, 610.0, 0.0, np.random.default_rng(0))
    assert np.abs(measured - 1000 * true).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("sigma_px", [0.0, 0.08])
def test_out_of_range_there_is_no_return(sigma_px: float):
    for z in (0.0, MIN_RANGE_M - 0.01, MAX_RANGE_M + 0.01, 50.0):
        depth = stereo_depth_mm(np.full((20, 20), z, np.float32), 610.0, sigma_px, np.random.default_rng(0))
        assert (depth == 0).all()


def test_in_the_shadow_beside_an_edge_there_is_no_return():
    true = np.full((40, 60), 1.2, np.float32)
    true[:, :30] = 0.6
    depth = stereo_depth_mm(true, 610.0, 0.08, np.random.default_rng(0))
    assert (depth[:, 30] == 0).all(), "the far side of the edge"
    assert (depth[:, :29] > 0).mean() > 0.98 and (depth[:, 32:] > 0).mean() > 0.98


def test_noise_makes_holes_and_fills_none(rig: Rig):
    zeros: dict[float, dict[str, np.ndarray]] = {}
    for sigma_px in (0.0, 0.08):
        with cameras_of(replace(rig, twin=replace(rig.twin, depth_noise_px=sigma_px))) as (_, cameras):
            zeros[sigma_px] = {n: c.latest(max_age_s=1.0).depth_mm == 0 for n, c in cameras.items()}
    for name, far in zeros[0.0].items():
        noisy = zeros[0.08][name]
        assert noisy[far].all()
        assert 0.001 < noisy[~far].mean() < 0.15
