"""`armflow doctor hardware`: everything between the rig file and a moving arm, looked at one after the other."""

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from .clock import Clock, MonotonicClock
from .doctor_host import check_clock, check_clock_source, check_disk, check_realtime, check_usb
from .drivers.frame_reader import FrameReader
from .drivers.realsense import RealSenseCamera
from .drivers.realsense_device import load_sdk
from .errors import ArmflowError
from .findings import Finding
from .rig import CameraCfg, Rig
from .station import make_arm, make_camera

LOST_SHARE = 0.01  # of a camera's frames
OLD_PERIODS = 3.0  # a newest frame older than this many frame periods


def examine(rig: Rig, data: Path, seconds: float, tell: Callable[[str], None] = lambda _: None) -> Iterator[Finding]:
    """Every finding, as it is made; `tell` hears what is looked at next. Devices are opened one after the other."""
    clock = MonotonicClock()
    tell("the clock")
    yield check_clock(clock, seconds)
    yield check_clock_source()
    yield from check_realtime()
    tell("the disk")
    yield from check_disk(data)
    if not rig.is_hardware:
        yield Finding(
            "ok", "devices", f"rig {rig.name} is a twin only", "for a rig of your own: armflow rig new my_rig.toml"
        )
        yield from plugged_in(rig)
        return
    yield check_usb(cameras=len(rig.cameras))
    yield from plugged_in(rig)
    tell("the arm")
    yield check_arm(rig, clock)
    for camera in rig.cameras:
        tell(f"camera {camera.name}")
        yield check_camera(camera, clock, seconds)


def check_arm(rig: Rig, clock: Clock) -> Finding:
    """Whether it would start."""
    try:
        return Finding("ok", "arm", make_arm(rig, clock).look())
    except ArmflowError as error:
        return Finding("error", "arm", *_found_and_advice(error))


def check_camera(cfg: CameraCfg, clock: Clock, seconds: float) -> Finding:
    """Stream for `seconds`: rate, losses, age and where time stamps come from."""
    subject = f"camera {cfg.name}"
    try:
        with make_camera(cfg, clock) as camera:
            return _watch(subject, camera, clock, seconds)
    except ArmflowError as error:
        return Finding("error", subject, *_found_and_advice(error))


def _watch(subject: str, camera: FrameReader, clock: Clock, seconds: float) -> Finding:
    before, start = camera.stats, clock.now()
    clock.sleep_until(start + seconds)
    after, took = camera.stats, clock.now() - start
    age = clock.now() - camera.latest(max_age_s=max(1.0, seconds)).t
    frames, dropped, refused = (getattr(after, k) - getattr(before, k) for k in ("frames", "dropped", "refused"))
    lost, spec = dropped + refused, camera.spec
    found = (
        f"{frames / took:.1f} of {spec.fps:g} Hz, {dropped} dropped, {refused} refused, newest {age * 1e3:.0f} ms old"
    )
    if isinstance(camera, RealSenseCamera):
        info, domain = camera.info, camera.timing.domain
        found += f"; {info.model} {info.serial}, firmware {info.firmware}, USB {info.usb_type or '?'}, stamps: {domain}"
    if lost > LOST_SHARE * spec.fps * took or frames < 0.9 * spec.fps * took:
        advice = "a port and controller of its own, a short USB 3 cable, no hub; end other programs"
        return Finding("warning", subject, found, advice)
    if age > OLD_PERIODS / spec.fps:
        return Finding("warning", subject, found, "images come late: end other programs, try another port")
    return Finding("ok", subject, found)


def plugged_in(rig: Rig) -> Iterator[Finding]:
    """RealSense devices on the bus, whether the rig knows them, and which share a USB controller."""
    if importlib.util.find_spec("pyrealsense2") is None:
        return
    try:
        info = load_sdk().camera_info
        devices = {d.get_info(info.serial_number): d for d in load_sdk().context().query_devices()}
    except (ArmflowError, RuntimeError) as error:
        yield Finding("warning", "RealSense", str(error), "see whether the udev rules of librealsense are installed")
        return
    known = {c.serial for c in rig.cameras if c.realsense}
    for serial, device in devices.items():
        name = device.get_info(info.name)
        advice = "" if serial in known else "not in the rig; its serial goes into a [[cameras]] section"
        yield Finding("ok", f"RealSense {serial}", f"{name} is plugged in", advice)
    shared = Counter(_controller(d.get_info(info.physical_port)) for s, d in devices.items() if s in known)
    for controller, n in shared.items():
        if n > 1:
            yield Finding("warning", "USB", f"{n} cameras share controller {controller}",
                          "if frames get lost, plug one into another port")  # fmt: skip


def _controller(port: str) -> str:
    """PCI address of the USB controller in a sysfs path such as /sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/..."""
    return port.split("/usb")[0].rsplit("/", 1)[-1]


def _found_and_advice(error: ArmflowError) -> tuple[str, str]:
    """Our messages end with what to do."""
    found, separator, advice = str(error).rpartition("; ")
    return (found, advice) if separator else (str(error), "")
