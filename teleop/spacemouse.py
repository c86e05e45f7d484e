"""SpaceMouse teleoperation by a reader of our own over hidapi: the tool goes and turns as the cap does.

hold left                 let the arm move (MENU on larger models)
push, pull, lift          away from / to the base, left / right, up / down
tilt, twist               turn the tool in the same sense
right, with left held     open or close the gripper (FIT on larger models)
hold right, tap left      end the episode when right is let go; once: it worked, twice: it failed,
                          three times: throw it away

The person looks along the base's x axis, as with the keys. After 5 s without a report, as of a cap at rest, left has to
be pressed anew: a wireless receiver does not say that it has lost its mouse, and then the release is never heard.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from ..robot.errors import DeviceFault, DeviceNotFound
from ..robot.types import ArmState, Floats
from .axes import shaped
from .device import TeleopInput, ToolDelta
from .reader import reader
from .two_buttons import TwoButtons

SPEED_M_S, TURN_RAD_S = 0.25, 1.0  # along and about each axis at full deflection
FULL_SCALE = 350  # counts at full deflection; some caps give a little more
DEAD_ZONE = 0.08  # of full deflection: nobody pushes a cap without tilting it a little
SILENCE_S = 0.1  # a deflected cap reports every 8 to 16 ms; after so long the last report is history
RENEW_S = 5.0  # without any report, after which the dead-man counts as let go
R_BD = np.array([[0.0, -1, 0], [-1, 0, 0], [0, 0, -1]])  # the device's axes: right, towards the person, down

LOGITECH, CONNEXION = 0x046D, 0x256F  # vendors; the first made them until 2012
MODELS = {  # (vendor, product): buttons in report 3, menu or left in bit 0, fit or right in bit 1
    (LOGITECH, 0xC626): "SpaceNavigator",
    (LOGITECH, 0xC628): "SpaceNavigator for Notebooks",
    (LOGITECH, 0xC62B): "SpaceMouse Pro",
    (CONNEXION, 0xC62E): "SpaceMouse Wireless, by cable",
    (CONNEXION, 0xC62F): "SpaceMouse Wireless, receiver",
    (CONNEXION, 0xC631): "SpaceMouse Pro Wireless, by cable",
    (CONNEXION, 0xC632): "SpaceMouse Pro Wireless, receiver",
    (CONNEXION, 0xC635): "SpaceMouse Compact",
    (CONNEXION, 0xC652): "Universal Receiver",
}
MULTI_AXIS = (0x01, 0x08)  # HID usage page and usage of a cap; a receiver has other interfaces, too
REPORT_BYTES, POLL_MS = 64, 50

Counts = tuple[int, int, int]


class HidDevice(Protocol):
    """The part of hidapi's device that is used here."""

    def read(self, max_length: int, timeout_ms: int, /) -> list[int]:
        """One report, the oldest in the queue; empty after `timeout_ms`. Raises OSError if the device is gone."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Report:
    """What one report says, in the device's axes; None is what it does not speak of."""

    translation: Counts | None = None
    rotation: Counts | None = None  # rotation vector
    buttons: int | None = None  # bit field


@dataclass(frozen=True)
class Heard:
    """Deflection, and when it was reported."""

    counts: Counts = (0, 0, 0)
    at_s: float = -np.inf

    def now(self, now_s: float) -> Floats:
        """(3,) of full deflection in base axes; zero if it was too long ago."""
        recent = now_s - self.at_s <= SILENCE_S
        return R_BD @ np.array(self.counts) / FULL_SCALE if recent else np.zeros(3)


class SpaceMouseDevice:
    """HandDevice. A thread empties the queue of reports; `read` tells what the newest ones mean."""

    name = "spacemouse"
    usage = "hold left to move; hold right and tap left once, twice or three times to end: worked, failed, discard"

    def __init__(
        self,
        control_hz: float,
        open_hid: Callable[[], HidDevice] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`open_hid`: None is the first known model that is plugged in. `now`: monotonic, s."""
        self._period = 1.0 / control_hz
        self._open, self._now = open_hid or open_spacemouse, now
        self._lock = threading.Lock()
        self._translation = self._rotation = Heard()
        self._buttons = TwoButtons()
        self._heard_s = -np.inf

    def __enter__(self) -> Self:
        self._hid = self._open()
        self._reader = reader(self.name, self._listen)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()
        self._hid.close()

    def start_episode(self, gripper: float) -> None:
        with self._lock:
            self._buttons.start_episode(gripper)

    def read(self, state: ArmState) -> TeleopInput:
        """What cap and buttons ask for. Raises DeviceFault if the mouse is unplugged or talks nonsense."""
        self._reader.check()
        with self._lock:
            now = self._now()
            self._forget_after_silence(now)
            move, turn = (
                shaped(heard.now(now), dead_zone=DEAD_ZONE, power=1.0) for heard in (self._translation, self._rotation)
            )
            return TeleopInput(
                engaged=self._buttons.engaged,
                target=ToolDelta(move * SPEED_M_S * self._period, turn * TURN_RAD_S * self._period),
                gripper=self._buttons.gripper,
                event=self._buttons.take_event(),
            )

    def _listen(self) -> None:
        data = self._hid.read(REPORT_BYTES, POLL_MS)
        if not data:
            return
        report = decode(bytes(data))
        with self._lock:
            now = self._now()
            self._forget_after_silence(now)
            self._heard_s = now
            if report.translation is not None:
                self._translation = Heard(report.translation, now)
            if report.rotation is not None:
                self._rotation = Heard(report.rotation, now)
            if report.buttons is not None:
                self._buttons.update(left=bool(report.buttons & 1), right=bool(report.buttons & 2))

    def _forget_after_silence(self, now: float) -> None:
        """By whoever comes first after it: a reading, or the next report."""
        if now - self._heard_s > RENEW_S:
            self._buttons.forget()


def decode(data: bytes) -> Report:
    """One report: its number, then little-endian int16 counts (1: translation, or it and rotation; 2: rotation) or the
    buttons' bits (3). Others, as of the battery, say nothing here. Raises DeviceFault for any other length.
    """
    number, size = data[0], len(data)
    counts = [int.from_bytes(data[i : i + 2], "little", signed=True) for i in range(1, size - 1, 2)]
    match number, size:
        case 1, 7:
            return Report(translation=_three(counts))
        case 1, 13:
            return Report(translation=_three(counts), rotation=_three(counts[3:]))
        case 2, 7:
            return Report(rotation=_three(counts))
        case 3, _ if size > 1:
            return Report(buttons=int.from_bytes(data[1:], "little"))
        case ((1 | 2 | 3), _):
            raise DeviceFault(
                SpaceMouseDevice.name,
                f"sent report {number} with {size} bytes; 7 or 13 (motion) or 2 and more (buttons) were expected. This "
                f"model needs `decode` in {__name__} to be extended",
            )
        case _:
            return Report()


def open_spacemouse() -> HidDevice:
    """The first known model that is plugged in. Raises DeviceNotFound, saying what is missing, if there is none."""
    name = SpaceMouseDevice.name
    try:
        import hid
    except ImportError as error:
        raise DeviceNotFound(name, f'needs hidapi ({error}): pip install "armflow[spacemouse]"') from error
    if not hasattr(hid, "enumerate") or not hasattr(hid, "device"):
        raise DeviceNotFound(
            name,
            f'{hid.__file__} is the `hid` of another package: pip uninstall it, then pip install "armflow[spacemouse]"',
        )
    found = [d for d in hid.enumerate() if (d["vendor_id"], d["product_id"]) in MODELS]
    if not found:
        raise DeviceNotFound(
            name, f"none is plugged in by cable or receiver (Bluetooth is not heard). Known: {'; '.join(MODELS.values())}. "
            f"If yours is there, let it be read: {_udev_rule(CONNEXION)}"
        )  # fmt: skip
    # hidapi on libusb may not tell usages (they are 0): then the first interface is taken.
    chosen = min(found, key=lambda d: ((d["usage_page"], d["usage"]) != MULTI_AXIS, d["interface_number"]))
    device = hid.device()
    try:
        device.open_path(chosen["path"])
    except OSError as error:
        key = (chosen["vendor_id"], chosen["product_id"])
        raise DeviceNotFound(
            name, f"{MODELS[key]} is there but cannot be opened ({error}). Close what else uses it, as spacenavd, and "
            f"let it be read: {_udev_rule(*key)}"
        ) from error  # fmt: skip
    return device


def _udev_rule(vendor: int, product: int | None = None) -> str:
    """Access for whoever sits at the computer and for the group plugdev, whichever backend hidapi was built with."""
    whose = f'ATTRS{{idVendor}}=="{vendor:04x}", ' + (f'ATTRS{{idProduct}}=="{product:04x}", ' if product else "")
    access = 'MODE="0660", GROUP="plugdev", TAG+="uaccess"'
    return (
        f"put the two lines\n  SUBSYSTEM==\"usb\", {whose}{access}\n  KERNEL==\"hidraw*\", {whose}{access}\ninto "
        "/etc/udev/rules.d/70-spacemouse.rules, run `sudo udevadm control --reload`, and plug it in again"
    )  # fmt: skip


def _three(counts: list[int]) -> Counts:
    x, y, z = counts[:3]
    return x, y, z
