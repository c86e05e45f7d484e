"""Colour-only cameras and video files through OpenCV's VideoCapture. Depth is 0 everywhere: no return."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ..clock import Clock, MonotonicClock
from ..errors import ConfigError, DeviceFault, DeviceNotFound, DeviceTimeout
from ..types import CameraSpec, RgbdFrame
from .frame_reader import FrameReader, ReaderCfg

FPS_TOLERANCE = 0.02  # relative; cameras say 29.97 and mean 30


@dataclass(frozen=True)
class OpenCVCfg:
    """What to open; size and rate are the rig's and must be what the source gives."""

    source: int | Path
    """Number of a camera (N of /dev/videoN), or a video file, which is played once and in its own time."""
    reader: ReaderCfg = field(default_factory=lambda: ReaderCfg(resets=0))
    """When to restart a stream and when to give up; there is no way to reset the device."""

    def __post_init__(self) -> None:
        if self.reader.resets:
            raise ConfigError(f"OpenCV cannot reset a camera; reader.resets must be 0, got {self.reader.resets}")


class OpenCVCamera(FrameReader):
    """Camera without depth; a context manager. `spec` is the rig's.

    Frames are numbered and timed as they arrive, as OpenCV tells neither the device's number nor its time: a frame that
    never arrived is not noticed as a drop.
    """

    def __init__(self, spec: CameraSpec, cfg: OpenCVCfg, *, clock: Clock | None = None) -> None:
        """`clock`: what frames are timed by; None is the wall's monotonic clock."""
        clock = clock or MonotonicClock()
        source = _Source(spec, cfg.source, clock) if isinstance(cfg.source, int) else _File(spec, cfg.source, clock)
        super().__init__(spec, source, cfg.reader, clock)


class _Source:
    """FrameSource on a camera. Reading waits for as long as the driver does (V4L2: 10 s); only the thread feels that."""

    def __init__(self, spec: CameraSpec, source: int | Path, clock: Clock) -> None:
        self._spec, self._source, self._clock = spec, source, clock
        self._capture: cv2.VideoCapture | None = None
        self._no_depth = np.zeros((spec.height, spec.width), np.uint16)
        self._number = -1

    def open(self) -> None:
        spec = self._spec
        self._capture = capture = cv2.VideoCapture(self._source if isinstance(self._source, int) else str(self._source))
        if not capture.isOpened():
            raise DeviceNotFound(
                spec.name, f"OpenCV cannot open {self._source!s}; is it there, and used by nobody else?"
            )
        for key, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, spec.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, spec.height),
            (cv2.CAP_PROP_FPS, spec.fps),
        ):
            capture.set(key, value)
        self._check_size(int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        fps = capture.get(cv2.CAP_PROP_FPS)  # 0: the driver does not know
        if fps and abs(fps / spec.fps - 1) > FPS_TOLERANCE:
            raise ConfigError(f"camera {spec.name}: the rig wants {spec.fps:g} Hz, {self._source!s} gives {fps:g} Hz")

    def read(self, timeout_s: float) -> RgbdFrame | None:
        assert self._capture is not None
        came, bgr = self._capture.read()
        if not came:
            raise DeviceTimeout(self._spec.name, f"{self._source!s} gave no frame")
        self._check_size(bgr.shape[1], bgr.shape[0])
        self._number += 1
        rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        return RgbdFrame(self._clock.now(), self._number, rgb, self._no_depth.copy())

    def reset(self) -> None:
        raise DeviceFault(self._spec.name, "OpenCV cannot reset a camera; unplug it for 5 s")

    def close(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def _check_size(self, width: int, height: int) -> None:
        spec = self._spec
        if (width, height) != (spec.width, spec.height):
            raise ConfigError(
                f"camera {spec.name}: the rig wants {spec.width} x {spec.height}, {self._source!s} gives {width} x "
                f"{height}; calibrate the camera at a size that it has"
            )


class _File(_Source):
    """The same on a video file: frame n comes n periods after opening, and the end is not a stall."""

    def open(self) -> None:
        if not Path(str(self._source)).is_file():
            raise DeviceNotFound(self._spec.name, f"there is no video file {self._source!s}")
        super().open()
        self._start = self._clock.now()

    def read(self, timeout_s: float) -> RgbdFrame | None:
        due = self._start + (self._number + 1) / self._spec.fps
        if due > self._clock.now() + timeout_s:
            self._clock.sleep_until(self._clock.now() + timeout_s)
            return None
        self._clock.sleep_until(due)
        try:
            return super().read(timeout_s)
        except DeviceTimeout:
            message = f"the video {self._source!s} has ended; open the camera again to see it from its start"
            raise DeviceFault(self._spec.name, message) from None
