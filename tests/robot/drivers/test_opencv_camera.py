"""The OpenCV driver on a video that OpenCV wrote."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from armflow.robot.drivers.frame_reader import ReaderCfg
from armflow.robot.drivers.opencv import OpenCVCamera, OpenCVCfg
from armflow.robot.errors import ConfigError, DeviceError, DeviceFault, DeviceNotFound
from armflow.robot.rig import CameraCfg

WIDTH, HEIGHT, FPS, FRAMES = 64, 48, 20, 60
CAMERA = CameraCfg(
    name="side", width=WIDTH, height=HEIGHT, fps=FPS, fx=60.0, fy=60.0, cx=31.5, cy=23.5, position=(0.0, 0.0, 0.0),
    quat_wxyz=(1.0, 0.0, 0.0, 0.0),
)  # fmt: skip

Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds: red as it comes, blue brightens by 4 a frame."""
    path = tmp_path_factory.mktemp("video") / "scene.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (WIDTH, HEIGHT))
    for n in range(FRAMES):
        writer.write(np.full((HEIGHT, WIDTH, 3), (4 * n, 0, 200), np.uint8))  # OpenCV's order: blue, green, red
    writer.release()
    return path


def opened(source: int | Path, **changes: Any) -> OpenCVCamera:
    return OpenCVCamera(replace(CAMERA, **changes).spec(), OpenCVCfg(source))


def test_a_frame_is_rgb_with_no_depth_and_of_its_number(video: Path):
    with opened(video) as camera:
        frame = camera.latest(max_age_s=5.0)
    assert frame.rgb.shape == (HEIGHT, WIDTH, 3) and frame.rgb.dtype == np.uint8
    np.testing.assert_allclose(frame.rgb.mean((0, 1)), (200, 0, 4 * frame.frame_number), atol=6)
    assert frame.depth_mm.shape == (HEIGHT, WIDTH) and frame.depth_mm.dtype == np.uint16 and not frame.depth_mm.any()


@pytest.mark.slow
def test_a_video_plays_in_its_own_time_until_its_end(video: Path, eventually: Eventually):
    def ended() -> bool:
        try:
            camera.latest(max_age_s=1e9)
        except DeviceError as error:
            return "has ended" in str(error)
        return False

    start = time.monotonic()
    with opened(video) as camera:
        eventually(ended)
        assert time.monotonic() - start >= FRAMES / FPS
        with pytest.raises(DeviceFault, match=r"scene\.avi has ended; open the camera again"):
            camera.latest(max_age_s=1e9)
        assert (camera.stats.frames, camera.stats.dropped, camera.stats.restarts) == (FRAMES, 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 32}, "wants 32 x 48, .* gives 64 x 48"), ({"fps": 30.0}, "wants 30 Hz, .* gives 20 Hz")],
)
def test_a_video_unlike_the_rig_is_refused(video: Path, change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message), opened(video, **change):
        pass


def test_a_missing_source_is_not_found(tmp_path: Path):
    with pytest.raises(DeviceNotFound, match="side: there is no video file .*none.avi"), opened(tmp_path / "none.avi"):
        pass
    with pytest.raises(DeviceNotFound, match="side: OpenCV cannot open 97"), opened(97):
        pass


def test_a_reset_cannot_be_asked_for():
    with pytest.raises(ConfigError, match=r"reader\.resets must be 0"):
        OpenCVCfg(0, reader=ReaderCfg(resets=1))
