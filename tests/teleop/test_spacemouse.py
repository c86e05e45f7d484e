"""Reports into wishes. The reports are in the format of real ones and come through a HID object of the test's own."""

import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from armflow.robot.clock import SimClock
from armflow.robot.errors import DeviceFault, DeviceNotFound
from armflow.robot.types import ArmState
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.spacemouse import (
    DEAD_ZONE,
    FULL_SCALE,
    MODELS,
    RENEW_S,
    SILENCE_S,
    SPEED_M_S,
    TURN_RAD_S,
    Report,
    SpaceMouseDevice,
    decode,
    open_spacemouse,
)

Delta = Callable[[TeleopInput], ToolDelta]
AtRest = Callable[[TeleopInput], bool]

HZ = 10.0
STATE = ArmState(0.0, np.zeros(7), np.zeros(7), np.zeros(7), 1.0)
STEP_M, TURN_RAD = SPEED_M_S / HZ, TURN_RAD_S / HZ
LEFT, RIGHT = 1, 2


def motion(number: int, *counts: int) -> bytes:
    return struct.pack(f"<B{len(counts)}h", number, *counts)


def pressed(bits: int) -> bytes:
    return struct.pack("<BH", 3, bits)


class FakeHid:
    """hidapi's device: one report per read, the oldest first, and OSError when it is unplugged."""

    def __init__(self) -> None:
        self.reports: deque[bytes | OSError] = deque()
        self.lock = threading.Lock()
        self.idle = threading.Event()  # the queue was found empty, since the last `send`
        self.closed = False

    def read(self, max_length: int, timeout_ms: int, /) -> list[int]:
        with self.lock:
            report = self.reports.popleft() if self.reports else b""
            if not report:
                self.idle.set()
        if not report:
            time.sleep(0.001)
            return []
        if isinstance(report, OSError):
            raise report
        return list(report[:max_length])

    def close(self) -> None:
        self.closed = True

    def send(self, *reports: bytes) -> None:
        """Put them into the queue all at once, and wait until nobody reads any more of them."""
        with self.lock:
            self.reports.extend(reports)
            self.idle.clear()
        assert self.idle.wait(20)


@pytest.fixture
def hid() -> FakeHid:
    return FakeHid()


@pytest.fixture
def mouse(hid: FakeHid, clock: SimClock) -> Iterator[SpaceMouseDevice]:
    with SpaceMouseDevice(HZ, lambda: hid, clock.now) as opened:
        yield opened


# --- formats


def test_separate_reports_speak_of_one_half_of_the_motion_each() -> None:
    assert decode(motion(1, 1, -2, 350)) == Report(translation=(1, -2, 350))
    assert decode(motion(2, -350, 0, 7)) == Report(rotation=(-350, 0, 7))


def test_a_combined_report_speaks_of_both() -> None:
    assert decode(motion(1, 1, 2, 3, -4, -5, -6)) == Report(translation=(1, 2, 3), rotation=(-4, -5, -6))


@pytest.mark.parametrize("data", [b"\x03\x02", b"\x03\x02\x00", b"\x03\x02\x00\x00\x00\x00\x00"])
def test_buttons_are_a_bit_field_however_wide(data: bytes) -> None:
    assert decode(data) == Report(buttons=2)


def test_a_report_about_something_else_says_nothing() -> None:
    assert decode(b"\x17\x64\x00") == Report()  # battery


@pytest.mark.parametrize("data", [b"\x01", motion(1, 1, 2), motion(2, 1, 2, 3, 4), motion(1, *range(7)), b"\x03"])
def test_a_report_of_an_unknown_length_is_named_not_guessed_at(data: bytes) -> None:
    with pytest.raises(
        DeviceFault, match=rf"spacemouse: sent report {data[0]} with {len(data)} bytes; .* were expected"
    ):
        decode(data)


def test_nonsense_from_the_mouse_ends_the_session(hid: FakeHid, mouse: SpaceMouseDevice) -> None:
    hid.reports.append(motion(1, 1, 2))
    eventually(lambda: faulty(mouse), "sent report 1 with 5 bytes")


# --- hold to run


def test_a_mouse_that_nobody_touches_wants_nothing(mouse: SpaceMouseDevice, at_rest: AtRest) -> None:
    wish = mouse.read(STATE)
    assert (wish.engaged, wish.event, wish.gripper) == (False, None, 1.0)
    assert at_rest(wish)


def test_the_arm_is_engaged_while_left_is_held_and_no_longer(hid: FakeHid, mouse: SpaceMouseDevice) -> None:
    engaged = []
    for bits in (0, LEFT, LEFT, 0, RIGHT, 0):
        hid.send(pressed(bits), motion(1, 0, -350, 0))
        engaged.append(mouse.read(STATE).engaged)
    assert engaged == [False, True, True, False, False, False]


def test_a_button_is_held_as_long_as_the_cap_is_heard(hid: FakeHid, mouse: SpaceMouseDevice, clock: SimClock) -> None:
    """Buttons report once, when they change."""
    hid.send(pressed(LEFT))
    for _ in range(5):
        clock.sleep_until(clock.now() + 0.9 * RENEW_S)
        hid.send(motion(1, 0, 0, 0))
        assert mouse.read(STATE).engaged


@pytest.mark.parametrize("first", ["read", "report"])
def test_a_button_must_be_pressed_anew_after_a_long_silence(
    hid: FakeHid, mouse: SpaceMouseDevice, clock: SimClock, first: str
) -> None:
    """A receiver that lost its mouse would never tell of the release. Whether somebody read meanwhile or not."""
    hid.send(pressed(LEFT))
    clock.sleep_until(RENEW_S + 0.01)
    if first == "read":
        assert not mouse.read(STATE).engaged
    hid.send(motion(1, 0, -350, 0))
    assert not mouse.read(STATE).engaged
    hid.send(pressed(0), pressed(LEFT))
    assert mouse.read(STATE).engaged


# --- directions and speed


@pytest.mark.parametrize(
    ("counts", "direction"),
    [
        ((0, -350, 0), (1, 0, 0)),  # pushed away from the person: the base's x
        ((-350, 0, 0), (0, 1, 0)),  # to the left: y
        ((0, 0, -350), (0, 0, 1)),  # lifted: z
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_tool_goes_and_turns_as_the_cap_does(
    hid: FakeHid, mouse: SpaceMouseDevice, counts: tuple[int, ...], direction: tuple[float, ...], sign: int,
    delta: Delta,
) -> None:  # fmt: skip
    signed = [sign * count for count in counts]
    hid.send(motion(1, *signed), motion(2, 0, 0, 0))
    wished = delta(mouse.read(STATE))
    np.testing.assert_allclose(wished.translation_m, STEP_M * sign * np.array(direction))
    assert not wished.rotation_rad.any()

    hid.send(motion(1, 0, 0, 0), motion(2, *signed))  # the right-hand rule, as for the translation
    wished = delta(mouse.read(STATE))
    np.testing.assert_allclose(wished.rotation_rad, TURN_RAD * sign * np.array(direction))
    assert not wished.translation_m.any()


def test_a_combined_report_moves_and_turns_at_once(hid: FakeHid, mouse: SpaceMouseDevice, delta: Delta) -> None:
    hid.send(motion(1, -350, -350, 0, 0, 0, 350))
    wished = delta(mouse.read(STATE))
    np.testing.assert_allclose(wished.translation_m, (STEP_M, STEP_M, 0))
    np.testing.assert_allclose(wished.rotation_rad, (0, 0, -TURN_RAD))


def test_a_cap_pushed_further_than_full_scale_asks_for_no_more(
    hid: FakeHid, mouse: SpaceMouseDevice, delta: Delta
) -> None:
    hid.send(motion(1, 0, -FULL_SCALE - 100, 0))
    assert delta(mouse.read(STATE)).translation_m[0] == pytest.approx(STEP_M)


def test_what_is_within_the_dead_zone_is_nothing(
    hid: FakeHid, mouse: SpaceMouseDevice, delta: Delta, at_rest: AtRest
) -> None:
    edge = int(DEAD_ZONE * FULL_SCALE)
    hid.send(motion(1, edge, -edge, edge, -edge, edge, -edge))
    assert at_rest(mouse.read(STATE))
    hid.send(motion(1, 0, -edge - 2, 0))
    assert 0 < delta(mouse.read(STATE)).translation_m[0] < 0.01 * STEP_M


def test_speed_does_not_depend_on_the_control_rate(clock: SimClock, delta: Delta) -> None:
    moves = []
    for hz in (5.0, 50.0):
        hid = FakeHid()
        with SpaceMouseDevice(hz, lambda hid=hid: hid, clock.now) as mouse:
            hid.send(motion(1, 0, -200, 0))
            moves.append(delta(mouse.read(STATE)).translation_m * hz)
    np.testing.assert_allclose(*moves)


# --- the queue, and silence


def test_reports_do_not_wait_in_a_queue(hid: FakeHid, mouse: SpaceMouseDevice, delta: Delta) -> None:
    """The mouse sends 60 to 120 reports a second; with one of them per control tick the arm would lag for seconds."""
    hid.send(*[motion(1, 0, -350, 0)] * 500, motion(1, 0, 350, 0))
    np.testing.assert_allclose(delta(mouse.read(STATE)).translation_m, (-STEP_M, 0, 0))
    assert not hid.reports


def test_after_a_tenth_of_a_second_of_silence_the_cap_is_at_rest(
    hid: FakeHid, mouse: SpaceMouseDevice, clock: SimClock, at_rest: AtRest
) -> None:
    hid.send(pressed(LEFT), motion(1, 0, -350, 0, 0, 0, 350))
    clock.sleep_until(0.9 * SILENCE_S)
    assert not at_rest(mouse.read(STATE))
    clock.sleep_until(1.1 * SILENCE_S)
    assert at_rest(mouse.read(STATE))
    assert SILENCE_S <= 0.1


def test_one_half_of_the_motion_does_not_keep_the_other_alive(
    hid: FakeHid, mouse: SpaceMouseDevice, clock: SimClock, delta: Delta
) -> None:
    hid.send(motion(1, 0, -350, 0), motion(2, 0, 0, 350))
    clock.sleep_until(1.1 * SILENCE_S)
    hid.send(motion(2, 0, 0, 350), pressed(LEFT))
    wished = delta(mouse.read(STATE))
    assert not wished.translation_m.any()
    assert wished.rotation_rad.any()


# --- gripper and events


def test_right_toggles_the_gripper_while_left_is_held(hid: FakeHid, mouse: SpaceMouseDevice) -> None:
    mouse.start_episode(1.0)
    hid.send(pressed(LEFT), pressed(LEFT | RIGHT), pressed(LEFT))  # all between two readings
    assert mouse.read(STATE).gripper == 0.0
    assert mouse.read(STATE).gripper == 0.0


@pytest.mark.parametrize(
    ("taps", "event"), [(1, TeleopEvent.SUCCESS), (2, TeleopEvent.FAILURE), (3, TeleopEvent.DISCARD)]
)
def test_events_are_said_with_right_held_and_taps_of_left(
    hid: FakeHid, mouse: SpaceMouseDevice, taps: int, event: TeleopEvent
) -> None:
    hid.send(pressed(RIGHT), *[pressed(LEFT | RIGHT), pressed(RIGHT)] * taps, pressed(0))
    wish = mouse.read(STATE)
    assert (wish.event, wish.engaged, wish.gripper) == (event, False, 1.0)
    assert mouse.read(STATE).event is None


def test_an_episode_starts_with_the_gripper_as_it_is_and_without_an_event(
    hid: FakeHid, mouse: SpaceMouseDevice
) -> None:
    hid.send(pressed(RIGHT), pressed(LEFT | RIGHT), pressed(RIGHT), pressed(0))
    mouse.start_episode(0.25)
    wish = mouse.read(STATE)
    assert (wish.event, wish.gripper) == (None, 0.25)


def test_other_buttons_mean_nothing(hid: FakeHid, mouse: SpaceMouseDevice) -> None:
    hid.send(struct.pack("<BI", 3, 0xFFFFFFFC))
    wish = mouse.read(STATE)
    assert (wish.engaged, wish.event, wish.gripper) == (False, None, 1.0)


# --- a mouse that is not there


def faulty(mouse: SpaceMouseDevice) -> str:
    """The fault's message; empty as long as there is none."""
    try:
        mouse.read(STATE)
    except DeviceFault as fault:
        return str(fault)
    return ""


def eventually(said: Callable[[], str], expected: str) -> None:
    end = time.monotonic() + 20
    while not (message := said()):
        assert time.monotonic() < end
        time.sleep(0.005)
    assert expected in message


def test_unplugged_it_is_a_fault_that_stays(hid: FakeHid, mouse: SpaceMouseDevice) -> None:
    hid.send(pressed(LEFT), motion(1, 0, -350, 0))
    assert mouse.read(STATE).engaged
    hid.reports.append(OSError("read error"))
    expected = "spacemouse: its reader stopped: OSError('read error'); connect it again, then start the session again"
    eventually(lambda: faulty(mouse), expected)
    assert faulty(mouse) == expected


def test_it_is_closed_in_the_end_also_after_a_fault(hid: FakeHid) -> None:
    hid.reports.append(OSError("read error"))
    with SpaceMouseDevice(HZ, lambda: hid) as mouse:
        eventually(lambda: faulty(mouse), "read error")
        assert not hid.closed
    assert hid.closed
    assert "spacemouse" not in {thread.name for thread in threading.enumerate()}


# --- finding one

Found = Callable[..., list[str]]


@pytest.fixture
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> Found:
    """plugged_in(*interfaces): hidapi finds these; the list of paths that are opened. Those of b"locked" cannot be."""

    def _plugged_in(*interfaces: dict[str, Any]) -> list[str]:
        opened: list[str] = []

        class Device:
            def open_path(self, path: bytes) -> None:
                if path == b"locked":
                    raise OSError("open failed")
                opened.append(path.decode())

        module: Any = ModuleType("hid")
        module.device, module.enumerate = Device, lambda: list(interfaces)
        monkeypatch.setitem(sys.modules, "hid", module)
        return opened

    return _plugged_in


def interface(
    path: str, ids: tuple[int, int] = (0x256F, 0xC635), number: int = 0, usage: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    return {
        "path": path.encode(), "vendor_id": ids[0], "product_id": ids[1],
        "interface_number": number, "usage_page": usage[0], "usage": usage[1],
    }  # fmt: skip


@pytest.mark.parametrize("ids", MODELS, ids=MODELS.get)
def test_every_known_model_is_found_among_other_devices(plugged_in: Found, ids: tuple[int, int]) -> None:
    opened = plugged_in(interface("keyboard", (0x046D, 0xC31C)), interface("mouse", ids))
    open_spacemouse()
    assert opened == ["mouse"]


def test_of_a_receiver_the_interface_with_the_cap_is_taken(plugged_in: Found) -> None:
    opened = plugged_in(interface("keys", number=0, usage=(1, 6)), interface("cap", number=1, usage=(1, 8)))
    open_spacemouse()
    assert opened == ["cap"]


def test_without_usages_the_first_interface_is_taken(plugged_in: Found) -> None:
    opened = plugged_in(interface("second", number=1), interface("first", number=0))
    open_spacemouse()
    assert opened == ["first"]


def test_when_none_is_plugged_in_the_message_says_what_is_needed(plugged_in: Found) -> None:
    plugged_in(interface("keyboard", (0x046D, 0xC31C)))
    with pytest.raises(DeviceNotFound, match="none is plugged in") as caught:
        SpaceMouseDevice(HZ).__enter__()
    assert "SpaceMouse Compact" in str(caught.value)
    assert 'SUBSYSTEM=="usb", ATTRS{idVendor}=="256f", MODE="0660"' in str(caught.value)


def test_one_that_must_not_be_opened_comes_with_the_rule_that_allows_it(plugged_in: Found) -> None:
    plugged_in(interface("locked", (0x046D, 0xC626)))
    with pytest.raises(DeviceNotFound, match=r"SpaceNavigator is there but cannot be opened \(open failed\)") as caught:
        open_spacemouse()
    for expected in ('"046d", ATTRS{idProduct}=="c626"', "/etc/udev/rules.d/", "udevadm control --reload"):
        assert expected in str(caught.value), "only this product: others of the vendor are keyboards"


def test_without_hidapi_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hid", None)
    with pytest.raises(DeviceNotFound, match=r'spacemouse: needs hidapi .*pip install "armflow\[spacemouse\]"'):
        open_spacemouse()


def test_another_packages_hid_is_told_from_hidapis(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("hid")
    module.__file__ = "site-packages/hid/__init__.py"
    monkeypatch.setitem(sys.modules, "hid", module)
    with pytest.raises(DeviceNotFound, match="is the `hid` of another package"):
        open_spacemouse()


def test_hidapi_itself_has_what_is_used_of_it() -> None:
    hid = pytest.importorskip("hid", reason='hidapi is not installed: pip install "armflow[spacemouse]"')
    assert isinstance(hid.enumerate(), list)
    device = hid.device()
    with pytest.raises(OSError):
        device.open_path(b"no such path")
    with pytest.raises(ValueError):  # a closed one; the reader takes that for a device that is gone
        device.read(64, 1)
    device.close()
