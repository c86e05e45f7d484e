"""One RealSense device: found by serial, checked against the rig, described, set up. Knows nothing of frames in time."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DeviceError, DeviceFault, DeviceNotFound, DeviceTimeout
from ..types import CameraSpec, Floats

if TYPE_CHECKING:
    import pyrealsense2 as rs

DEPTH_SCALE_TOLERANCE = 1e-3  # relative; the device keeps its scale as float32, real scales differ by factors


@dataclass(frozen=True, eq=False)
class RealSenseInfo:
    """What the device says of itself, to be kept with the data."""

    model: str
    serial: str
    firmware: str
    usb_type: str  # "3.2"; empty where the device is not on USB
    depth_scale_m: float  # metres per unit of raw depth
    K: Floats  # (3, 3) factory intrinsics of colour at the streamed size, px
    distortion: Floats  # (5,) of `distortion_model`
    distortion_model: str  # librealsense's name
    X_CD: Floats  # (4, 4) pose of the depth camera in the colour camera's frame


def find(context: "rs.context", camera: str, serial: str) -> "rs.device":
    """The device with this serial number. Raises DeviceNotFound naming those that are there."""
    info = load_sdk().camera_info.serial_number
    with sdk_errors(camera, "listing the devices"):
        devices = {d.get_info(info): d for d in context.query_devices() if d.supports(info)}
    if serial not in devices:
        there = ", ".join(sorted(devices)) or "none"
        raise DeviceNotFound(
            camera, f"no RealSense with serial '{serial}'; connected: {there}. Plug it in, or correct the rig file"
        )
    return devices[serial]


def check_usb(device: "rs.device", camera: str) -> None:
    """USB 2 carries neither the resolution nor the rate: librealsense would offer lower ones, or drop frames."""
    usb = _info(device, "usb_type_descriptor")
    if usb.startswith(("1", "2")):
        message = f"connected over USB {usb}, needs USB 3: use a blue port of the computer itself and a USB 3 cable"
        raise DeviceFault(camera, message)


def describe(profile: "rs.pipeline_profile") -> RealSenseInfo:
    """Of a running pipeline."""
    rs, device = load_sdk(), profile.get_device()
    colour, depth = profile.get_stream(rs.stream.color), profile.get_stream(rs.stream.depth)
    intrinsics = colour.as_video_stream_profile().get_intrinsics()
    extrinsics = depth.get_extrinsics_to(colour)
    X_CD = np.eye(4)
    X_CD[:3, :3] = np.reshape(extrinsics.rotation, (3, 3), order="F")  # librealsense stores columns
    X_CD[:3, 3] = extrinsics.translation
    return RealSenseInfo(
        model=_info(device, "name"),
        serial=_info(device, "serial_number"),
        firmware=_info(device, "firmware_version"),
        usb_type=_info(device, "usb_type_descriptor"),
        depth_scale_m=float(device.first_depth_sensor().get_depth_scale()),
        K=np.array([
            [intrinsics.fx, 0.0, intrinsics.ppx], [0.0, intrinsics.fy, intrinsics.ppy], [0.0, 0.0, 1.0],
        ]),
        distortion=np.array(intrinsics.coeffs, dtype=np.float64),
        distortion_model=intrinsics.model.name,
        X_CD=X_CD,
    )  # fmt: skip


def check_calibration(spec: CameraSpec, info: RealSenseInfo, profile: "rs.pipeline_profile", max_px: float) -> None:
    """The rig must describe this very device. Raises ConfigError with the lines to write into the rig file."""
    if abs(info.depth_scale_m / spec.depth_scale_m - 1) > DEPTH_SCALE_TOLERANCE:
        raise ConfigError(
            f"camera {spec.name}: the rig says depth_scale_m = {spec.depth_scale_m:g}, device {info.serial} counts "
            f"depth in {info.depth_scale_m:g} m; write depth_scale_m = {info.depth_scale_m:g} into the rig file"
        )
    rs = load_sdk()
    intrinsics = profile.get_stream(rs.stream.color).as_video_stream_profile().get_intrinsics()
    apart = intrinsics_difference_px(spec, intrinsics)
    if not apart <= max_px:
        K, coefficients = info.K, ", ".join(f"{c:.6g}" for c in info.distortion)
        raise ConfigError(
            f"camera {spec.name}: the rig's intrinsics and those of device {info.serial} see the same point up to "
            f"{apart:.1f} px apart, allowed are {max_px:g} px. Is it the right camera and image size? The device says "
            f"fx = {K[0, 0]:.3f}, fy = {K[1, 1]:.3f}, cx = {K[0, 2]:.3f}, cy = {K[1, 2]:.3f}, distortion = "
            f"[{coefficients}] ({info.distortion_model}); calibrate again, or write these into the rig file"
        )


def intrinsics_difference_px(spec: CameraSpec, device: "rs.intrinsics") -> float:
    """Largest distance between where the rig and the device see the same ray, over a grid of the whole image."""
    u, v = np.meshgrid(np.linspace(0, spec.width - 1, 9), np.linspace(0, spec.height - 1, 9))
    pixels = np.column_stack([u.ravel(), v.ravel(), np.ones(u.size)])
    rays = pixels @ np.linalg.inv(spec.K).T
    ours = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), spec.K, spec.distortion)[0][:, 0]
    project = load_sdk().rs2_project_point_to_pixel  # knows all of librealsense's distortion models
    theirs = np.array([project(device, ray.tolist()) for ray in rays])
    return float(np.linalg.norm(ours - theirs, axis=1).max())


def depth_table(units_m: float) -> NDArray[np.uint16]:
    """(65536,) millimetres of every raw depth. 0 stays 0 (no return); too far for 16 bits stays at the largest."""
    millimetres = np.arange(65536) * (units_m * 1000)
    return np.minimum(np.rint(millimetres), 65535).astype(np.uint16)


def steady_settings(device: "rs.device") -> None:
    """Time stamps on the host's clock, and a frame rate that does not fall in dim light; where the device has them."""
    rs = load_sdk()
    for sensor in device.query_sensors():
        for option, value in ((rs.option.global_time_enabled, 1.0), (rs.option.auto_exposure_priority, 0.0)):
            if sensor.supports(option) and not sensor.is_option_read_only(option):
                sensor.set_option(option, value)


def colour_sensor(device: "rs.device") -> "rs.sensor":
    """The sensor that takes the colour pictures: of its own, or (D405) the depth module."""
    stream = load_sdk().stream.color
    return next(s for s in device.query_sensors() if any(p.stream_type() == stream for p in s.get_stream_profiles()))


def auto_options(sensor: "rs.sensor") -> Mapping["rs.option", tuple["rs.option", ...]]:
    """The automatics that a sensor has, each with the settings that it drives."""
    option = load_sdk().option
    drives = {
        option.enable_auto_exposure: (option.exposure, option.gain),
        option.enable_auto_white_balance: (option.white_balance,),
    }
    return {auto: tuple(filter(sensor.supports, driven)) for auto, driven in drives.items() if sensor.supports(auto)}


def current_settings(sensor: "rs.sensor", frame: "rs.frame") -> dict["rs.option", float]:
    """What the automatics have chosen, in the sensor's own units.

    A depth module tells by the frame's metadata. RGB sensors of the D400 series do not tell, neither there nor by their
    options; then these are the values that fixed settings had last, and the caller must look at the picture.
    """
    rs = load_sdk()
    metadata = {
        rs.option.exposure: rs.frame_metadata_value.actual_exposure,
        rs.option.gain: rs.frame_metadata_value.gain_level,
    }
    values = {}
    for option in (o for driven in auto_options(sensor).values() for o in driven):
        tells = sensor.is_depth_sensor() and option in metadata and frame.supports_frame_metadata(metadata[option])
        values[option] = float(frame.get_frame_metadata(metadata[option]) if tells else sensor.get_option(option))
    return values


def release(sensor: "rs.sensor", settings: Iterable["rs.option"]) -> None:
    """Switch on the automatics that drive these settings; the device may come with them off from its last user."""
    for auto, driven in auto_options(sensor).items():
        if set(driven) & set(settings):
            sensor.set_option(auto, 1.0)


def fix(sensor: "rs.sensor", values: Mapping["rs.option", float]) -> None:
    """Switch off the automatics that drive these settings, then set them."""
    for auto, driven in auto_options(sensor).items():
        if set(driven) & set(values):
            sensor.set_option(auto, 0.0)
    for option, value in values.items():
        sensor.set_option(option, value)


def reset(context: "rs.context", camera: str, serial: str, gone_within_s: float = 5.0) -> None:
    """Hardware reset; returns once the device has vanished (it comes back some seconds later), or after a while."""
    with sdk_errors(camera, "resetting the device"):
        find(context, camera, serial).hardware_reset()
    until = time.monotonic() + gone_within_s
    while time.monotonic() < until:
        try:
            find(context, camera, serial)
        except DeviceNotFound:
            return
        time.sleep(0.1)


@contextmanager
def sdk_errors(camera: str, doing: str, kind: type[DeviceError] = DeviceTimeout) -> Iterator[None]:
    """librealsense's errors, all of them RuntimeError, as ours; DeviceTimeout: a second attempt may help."""
    try:
        yield
    except RuntimeError as error:
        raise kind(camera, f"librealsense failed at {doing}: {error}") from error


def load_sdk() -> ModuleType:
    """pyrealsense2, or ConfigError saying how to install it."""
    try:
        import pyrealsense2
    except ImportError as error:
        raise ConfigError(
            f'RealSense cameras need pyrealsense2 ({error}): pip install "armflow[realsense]", and apt-get install '
            "libusb-1.0-0 if it is libusb that is missing"
        ) from error
    return pyrealsense2


def _info(device: "rs.device", key: str) -> str:
    field = getattr(load_sdk().camera_info, key)
    return device.get_info(field) if device.supports(field) else ""
