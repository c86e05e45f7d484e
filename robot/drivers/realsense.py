"""Intel RealSense cameras (D400 series) through librealsense's pipeline: colour, depth aligned to it, true capture times."""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..clock import Clock, MonotonicClock
from ..errors import ConfigError, DeviceFault, DeviceNotFound, DeviceTimeout
from ..types import CameraSpec, RgbdFrame
from . import realsense_device as hardware
from .frame_reader import FrameReader, ReaderCfg, Refused
from .realsense_device import RealSenseInfo, load_sdk, sdk_errors

if TYPE_CHECKING:
    import pyrealsense2 as rs


@dataclass(frozen=True)
class RealSenseCfg:
    """How to run a RealSense; size and rate of the colour stream, serial and calibration are the rig's."""

    depth_width: int = 848
    """Width of the depth stream before it is aligned to colour, px; 848 x 480 is what D400 cameras measure best at."""
    depth_height: int = 480
    """Its height, px."""
    max_skew_periods: float = 0.75
    """Colour and depth further apart than this, in frame periods, are not of one instant and refused. librealsense pairs
    within half a period, but falls back to the last frame of a stream that has stopped."""
    max_intrinsics_px: float = 5.0
    """The rig's intrinsics may place a ray this far from where the device's factory values do, px anywhere in the image.
    A recalibration differs by 1 to 3 px, another camera or a wrong image size by more."""
    lock_exposure: bool = True
    """Let exposure, gain and white balance settle, then keep them: pictures of a dataset must not breathe."""
    warm_up_s: float = 2.0
    """How long they may settle, s."""
    max_lock_change: float = 10.0
    """Locking may change the mean brightness by this much, of 255. D400 RGB sensors do not tell what their automatic
    exposure has chosen; if the picture jumps, the lock is refused, and `exposure` and `gain` must be given."""
    exposure: float | None = None
    """Fixed exposure, in the sensor's unit (RGB sensor: 100 us, depth module and D405: 1 us); None: automatic."""
    gain: float | None = None
    """Fixed gain, in the sensor's unit; None: automatic."""
    white_balance: float | None = None
    """Fixed colour temperature, K; None: automatic."""
    playback: Path | None = None
    """Play this recording (.bag), once and in its own time, instead of a device; frames count as of when they come."""
    reader: ReaderCfg = field(default_factory=ReaderCfg)
    """When to restart a stream and when to give up."""


@dataclass(frozen=True)
class Timing:
    """Where capture times come from."""

    domain: str = ""  # librealsense's time-stamp domain of the newest frame; all but global_time mean arrival time
    ahead: int = 0  # frames stamped later than they arrived: the wall clock was set; their arrival time was taken


class RealSenseCamera(FrameReader):
    """Camera on a RealSense; a context manager.

    `spec` is the rig's, after a check against the device: pose and intrinsics were calibrated together, so a rig within
    `max_intrinsics_px` of the factory values wins, and one further off is a ConfigError, as is another depth scale.
    What the device itself says is in `info`.
    """

    def __init__(
        self,
        spec: CameraSpec,
        cfg: RealSenseCfg | None = None,
        *,
        context: "rs.context | None" = None,
        clock: Clock | None = None,
    ) -> None:
        """`context`: librealsense's; None makes one for real devices. `clock` must tick as `time.monotonic` does."""
        cfg, clock = cfg or RealSenseCfg(), clock or MonotonicClock()
        if not spec.serial and cfg.playback is None:
            raise ConfigError(f"camera {spec.name}: its rig section has no serial; the serial is printed on the device")
        if spec.fps != int(spec.fps):
            raise ConfigError(f"camera {spec.name}: fps must be a whole number, got {spec.fps}")
        self._device = _Source(spec, cfg, context or load_sdk().context(), clock)
        # A pause in a recording is none of the device's: frames get old, but starting it afresh would be wrong.
        reader = replace(cfg.reader, stall_s=math.inf, first_frame_s=math.inf) if cfg.playback else cfg.reader
        super().__init__(spec, self._device, reader, clock)

    @property
    def info(self) -> RealSenseInfo:
        """What the device says of itself. Raises DeviceFault before the context is entered."""
        if self._device.info is None:
            raise DeviceFault(self.spec.name, "the camera is not open; enter its context first (`with camera:`)")
        return self._device.info

    @property
    def timing(self) -> Timing:
        return self._device.timing

    @property
    def fixed_settings(self) -> dict[str, float]:
        """Exposure, gain and white balance that do not change any more, by librealsense's names and in its units."""
        return {option.name: value for option, value in (self._device.fixed or {}).items()}


class _Source:
    """FrameSource on a pipeline. Frames come through a queue: waiting on the pipeline itself would reconnect a lost
    device in there, for up to 15 s."""

    def __init__(self, spec: CameraSpec, cfg: RealSenseCfg, context: "rs.context", clock: Clock) -> None:
        self._spec, self._cfg, self._context, self._clock = spec, cfg, context, clock
        self._failure = DeviceFault if cfg.playback else DeviceTimeout  # a file will not do better the next time
        self._pipeline: rs.pipeline | None = None
        self._playback: rs.playback | None = None
        self.info: RealSenseInfo | None = None
        self.timing = Timing()
        self.fixed: dict[rs.option, float] | None = None  # None: not settled yet

    def open(self) -> None:
        rs, cfg, name = load_sdk(), self._cfg, self._spec.name
        config = self._recording() if cfg.playback else self._live()
        pipeline, self._queue, self._came = rs.pipeline(self._context), rs.frame_queue(1), False
        with sdk_errors(name, "choosing the streams", self._failure):
            if not config.can_resolve(wrapper := rs.pipeline_wrapper(pipeline)):
                source = cfg.playback or "the device"
                message = f"{source} has no {self._wanted()}; correct the rig file or RealSenseCfg"
                raise ConfigError(f"camera {name}: {message}")
            # All that may be refused is refused before anything streams.
            profile = config.resolve(wrapper)
            self.info, device = hardware.describe(profile), profile.get_device()
            self._check_serial(self.info.serial)
            hardware.check_calibration(self._spec, self.info, profile, cfg.max_intrinsics_px)
        self._table, self._align = hardware.depth_table(self.info.depth_scale_m), rs.align(rs.stream.color)
        with sdk_errors(name, "starting the streams", self._failure):
            pipeline.start(config, self._queue)
            self._pipeline = pipeline
            self._playback = device.as_playback() if cfg.playback else None
        if not cfg.playback:
            with sdk_errors(name, "setting options"):
                hardware.steady_settings(device)
                self._settle(hardware.colour_sensor(device))

    def read(self, timeout_s: float) -> RgbdFrame | Refused | None:
        with sdk_errors(self._spec.name, "waiting for frames", self._failure):
            frames = self._wait(timeout_s)
            return None if frames is None else self._convert(frames, self._clock.now(), time.time())

    def reset(self) -> None:
        if self._cfg.playback:
            raise DeviceFault(self._spec.name, f"{self._cfg.playback} is a recording, there is no device to reset")
        hardware.reset(self._context, self._spec.name, self._spec.serial)

    def close(self) -> None:
        pipeline, playback, self._pipeline, self._playback = self._pipeline, self._playback, None, None
        if pipeline is not None:
            try:
                if playback is not None and not self._came:
                    self._queue.try_wait_for_frame(1000)  # stopping sooner corrupts librealsense's memory (2.56.5)
                pipeline.stop()
            except RuntimeError:
                pass  # an unplugged device cannot be stopped; letting go of it is all that is left

    def _live(self) -> "rs.config":
        rs, spec = load_sdk(), self._spec
        # Asking for a device that is not there would make librealsense wait for it.
        hardware.check_usb(hardware.find(self._context, spec.name, spec.serial), spec.name)
        config, fps = rs.config(), int(spec.fps)
        config.enable_device(spec.serial)
        config.enable_stream(rs.stream.color, spec.width, spec.height, rs.format.rgb8, fps)
        config.enable_stream(rs.stream.depth, self._cfg.depth_width, self._cfg.depth_height, rs.format.z16, fps)
        return config

    def _recording(self) -> "rs.config":
        rs, path = load_sdk(), self._cfg.playback
        if path is None or not path.is_file():
            raise DeviceNotFound(self._spec.name, f"there is no recording {path}")
        config = rs.config()
        with sdk_errors(self._spec.name, f"opening {path}", self._failure):
            config.enable_device_from_file(str(path), repeat_playback=False)
        config.enable_stream(rs.stream.color, self._spec.width, self._spec.height, rs.format.rgb8, int(self._spec.fps))
        config.enable_stream(rs.stream.depth)
        return config

    def _wanted(self) -> str:
        spec, cfg = self._spec, self._cfg
        depth = "" if cfg.playback else f" {cfg.depth_width} x {cfg.depth_height}"
        return f"colour {spec.width} x {spec.height} (rgb8) with depth{depth} (z16) at {spec.fps:g} Hz"

    def _check_serial(self, serial: str) -> None:
        if self._spec.serial not in ("", serial):
            wanted = f"the rig wants '{self._spec.serial}'"
            raise DeviceNotFound(self._spec.name, f"{self._cfg.playback} was recorded with '{serial}', {wanted}")

    def _wait(self, timeout_s: float) -> "rs.composite_frame | None":
        rs = load_sdk()
        came, frame = self._queue.try_wait_for_frame(int(timeout_s * 1000))
        if came:
            self._came = True
            return frame.as_frameset()
        if self._playback is not None and self._playback.current_status() == rs.playback_status.stopped:
            message = f"the recording {self._cfg.playback} has ended; open the camera again to see it from its start"
            raise DeviceFault(self._spec.name, message)
        return None

    def _convert(self, frames: "rs.composite_frame", arrival_s: float, wall_s: float) -> RgbdFrame | Refused:
        """Copied out of librealsense's memory, of which there is little. `arrival_s`, `wall_s`: now, on both clocks."""
        rs = load_sdk()
        colour, depth = frames.get_color_frame(), frames.get_depth_frame()
        if refused := self._not_of_one_instant(colour, depth):
            return Refused(refused)
        domain, stamp_s = colour.get_frame_timestamp_domain(), colour.get_timestamp() / 1000
        t, ahead = arrival_s, 0
        if domain == rs.timestamp_domain.global_time and self._playback is None:
            t = arrival_s + min(0.0, stamp_s - wall_s)
            ahead = stamp_s > wall_s + 0.005  # librealsense's fit of the device's clock is good to a few ms
        self.timing = Timing(domain.name, self.timing.ahead + ahead)
        number, rgb = colour.get_frame_number(), np.array(colour.get_data(), dtype=np.uint8)
        aligned = self._align.process(frames).get_depth_frame()
        return RgbdFrame(t, number, rgb, self._table[np.asarray(aligned.get_data(), dtype=np.uint16)])

    def _not_of_one_instant(self, colour: "rs.video_frame", depth: "rs.depth_frame") -> str:
        if not colour or not depth:
            return f"frames come without {'depth' if colour else 'colour'}"
        domains = {f.get_frame_timestamp_domain().name for f in (colour, depth)}
        if len(domains) > 1:
            return f"colour and depth are timed by different clocks ({', '.join(sorted(domains))})"
        skew_s = abs(colour.get_timestamp() - depth.get_timestamp()) / 1000
        limit_s = self._cfg.max_skew_periods / self._spec.fps
        if skew_s > limit_s:
            return f"colour and depth are {skew_s * 1000:.0f} ms apart, allowed are {limit_s * 1000:.0f} ms"
        return ""

    def _settle(self, sensor: "rs.sensor") -> None:
        """Fix exposure, gain and white balance: as they are given, as they were before a restart, or as they settle."""
        if self.fixed is None:
            given = self._given()
            hardware.fix(sensor, given)
            automatic = {o for driven in hardware.auto_options(sensor).values() for o in driven} - set(given)
            hardware.release(sensor, automatic)
            self.fixed = given | (self._lock(sensor, automatic) if automatic and self._cfg.lock_exposure else {})
        else:
            hardware.fix(sensor, self.fixed)  # a reset forgets them

    def _given(self) -> dict["rs.option", float]:
        option, cfg = load_sdk().option, self._cfg
        given = {option.exposure: cfg.exposure, option.gain: cfg.gain, option.white_balance: cfg.white_balance}
        return {option: value for option, value in given.items() if value is not None}

    def _lock(self, sensor: "rs.sensor", settings: set["rs.option"]) -> dict["rs.option", float]:
        """Let these settings settle, then fix them. Raises ConfigError if that changes the picture."""
        before = self._watch(self._cfg.warm_up_s)
        current = hardware.current_settings(sensor, before)
        values = {option: value for option, value in current.items() if option in settings}
        hardware.fix(sensor, values)
        change = _brightness(self._watch(0.5)) - _brightness(before)
        if abs(change) > self._cfg.max_lock_change:
            raise ConfigError(
                f"camera {self._spec.name}: locking {', '.join(o.name for o in values)} changed the mean brightness by "
                f"{change:.0f} of 255: this sensor does not tell what its automatics chose, or the light has changed. "
                "Give exposure, gain and white_balance in RealSenseCfg, or set lock_exposure = False"
            )
        return values

    def _watch(self, seconds: float) -> "rs.video_frame":
        """The newest colour frame after this time."""
        newest, until = None, self._clock.now() + seconds
        patience = until + self._cfg.reader.first_frame_s
        while (now := self._clock.now()) < until or (newest is None and now < patience):
            frames = self._wait(self._cfg.reader.wait_s)
            newest = frames.get_color_frame() if frames is not None else newest
        if not newest:
            raise DeviceTimeout(self._spec.name, f"no frame within {seconds + self._cfg.reader.first_frame_s} s")
        return newest


def _brightness(frame: "rs.video_frame") -> float:
    return float(np.mean(frame.get_data()))
