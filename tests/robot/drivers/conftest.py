"""RealSense cameras made of software, streaming through the real librealsense; and a way to wait without sleeping long."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from armflow.robot.errors import DeviceError

FPS, WIDTH, HEIGHT = 30, 64, 48
COLOUR_F, DEPTH_F = 60.0, 50.0  # px; different, so that pixels only match after alignment
DEPTH_IN_COLOUR = (0.1, 0.0, 0.0)  # where the depth camera is, m
PATIENCE_S = 30.0  # a busy machine is not a defect


@dataclass
class SoftwareRealSense:
    """A software_device in a context. Attributes may be changed while it streams."""

    rs: ModuleType
    context: Any
    serial: str
    units_m: float = 1e-3
    usb: str = "3.2"
    uid: int = 10  # of its streams, unique in the context
    options: dict[str, float] = field(default_factory=dict)  # of the colour sensor
    depth: np.ndarray = field(default_factory=lambda: np.full((HEIGHT, WIDTH), 1000, np.uint16))  # raw
    grey: Callable[["SoftwareRealSense"], int] = lambda camera: (
        camera.number % 256
    )  # what colour frames are filled with
    streams: str = "cd"  # which of colour and depth it sends
    number: int = 0  # of the newest frame
    global_time: bool = False
    latency_s: float = 0.0  # how old frames are by their global time stamp

    def __post_init__(self) -> None:
        rs = self.rs
        self.device = device = rs.software_device()
        for key, value in (("name", "Software D400"), ("serial_number", self.serial), ("usb_type_descriptor", self.usb),
                           ("firmware_version", "5.16.0.1"), ("physical_port", self.serial)):  # fmt: skip
            device.register_info(getattr(rs.camera_info, key), value)
        self.stereo, self.rgb = device.add_sensor("Stereo Module"), device.add_sensor("RGB Camera")
        self.stereo.add_read_only_option(rs.option.depth_units, self.units_m)
        for name, value in self.options.items():
            spread = rs.option_range()
            spread.min, spread.max, spread.step, spread.default = 0.0, 10000.0, 1.0, value
            self.rgb.add_option(getattr(rs.option, name), spread)
            self.rgb.set_option(getattr(rs.option, name), value)
        self._depth = self.stereo.add_video_stream(self._stream(rs.stream.depth, 0, rs.format.z16, 2, DEPTH_F))
        self._colour = self.rgb.add_video_stream(self._stream(rs.stream.color, 1, rs.format.rgb8, 3, COLOUR_F))
        extrinsics = rs.extrinsics()
        extrinsics.rotation, extrinsics.translation = np.eye(3).ravel().tolist(), list(DEPTH_IN_COLOUR)
        self._depth.register_extrinsics_to(self._colour, extrinsics)
        device.create_matcher(rs.matchers.default)
        # The context only shows the device while somebody holds what this callback is given.
        self._plugged: list[Any] = []
        self.context.set_devices_changed_callback(lambda event: self._plugged.append(event.get_new_devices()))
        device.add_to(self.context)
        self.flowing, self._over = threading.Event(), threading.Event()
        self.flowing.set()
        self._showing = threading.Lock()
        self._thread = threading.Thread(target=self._flow, daemon=True)
        self._thread.start()

    def _stream(self, kind: Any, index: int, fmt: Any, bytes_per_pixel: int, focal_px: float) -> Any:
        stream, intrinsics = self.rs.video_stream(), self.rs.intrinsics()
        intrinsics.width, intrinsics.height, intrinsics.model = WIDTH, HEIGHT, self.rs.distortion.brown_conrady
        intrinsics.fx = intrinsics.fy = focal_px
        intrinsics.ppx, intrinsics.ppy, intrinsics.coeffs = (WIDTH - 1) / 2, (HEIGHT - 1) / 2, [0.0] * 5
        stream.type, stream.index, stream.uid, stream.fmt = kind, 0, self.uid + index, fmt
        stream.width, stream.height, stream.fps, stream.bpp = WIDTH, HEIGHT, FPS, bytes_per_pixel
        stream.intrinsics = intrinsics
        return stream

    def _flow(self) -> None:
        while not self._over.wait(1 / FPS):
            with self._showing:
                if self.flowing.is_set():
                    self.show(self.number + 1)

    def pause(self) -> None:
        """No frame is on its way to librealsense any more when this returns."""
        with self._showing:
            self.flowing.clear()

    def show(self, number: int) -> None:
        """Send one frame of each stream, if somebody listens."""
        self.number = number
        if "d" in self.streams:
            self._send(self.stereo, self._depth, self.depth)
        if "c" in self.streams:
            self._send(self.rgb, self._colour, np.full((HEIGHT, WIDTH, 3), self.grey(self), np.uint8))

    def _send(self, sensor: Any, profile: Any, pixels: np.ndarray) -> None:
        if not sensor.get_active_streams():
            return
        frame, domains = self.rs.software_video_frame(), self.rs.timestamp_domain
        frame.pixels, frame.bpp, frame.frame_number = pixels, pixels[0, 0].nbytes, self.number
        frame.stride = WIDTH * frame.bpp
        frame.profile = profile.as_video_stream_profile()
        frame.domain = domains.global_time if self.global_time else domains.hardware_clock
        frame.timestamp = (time.time() - self.latency_s) * 1000 if self.global_time else self.number * 1000 / FPS
        sensor.on_video_frame(frame)

    def unplug(self) -> None:
        self.stop()
        self._plugged.clear()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def plug() -> Iterator[Callable[..., SoftwareRealSense]]:
    """plug(serial, ...): a streaming camera in the context of this test, `plug().context`."""
    rs = pytest.importorskip("pyrealsense2", exc_type=ImportError)
    context, plugged = rs.context(), []

    def one_more(serial: str = "A", **settings: Any) -> SoftwareRealSense:
        plugged.append(SoftwareRealSense(rs, context, serial, uid=10 * (len(plugged) + 1), **settings))
        return plugged[-1]

    yield one_more
    for camera in plugged:
        camera.unplug()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """eventually(condition): wait until it is true; device errors count as false."""

    def wait(condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                if condition():
                    return
            except DeviceError as error:
                last = f"; {error}"
            else:
                last = ""
            assert time.monotonic() < until, f"did not happen within {PATIENCE_S} s{last}"
            time.sleep(0.01)

    return wait
