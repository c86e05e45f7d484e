"""Sticks and buttons into wishes, with joysticks that SDL simulates: real events, layouts and hot-plugging."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from armflow.robot.errors import DeviceFault, DeviceNotFound
from armflow.robot.types import ArmState
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.gamepad import DEAD_ZONE, ENVIRONMENT, POWER, SPEED_M_S, TURN_RAD_S, GamepadDevice

Delta = Callable[[TeleopInput], ToolDelta]
AtRest = Callable[[TeleopInput], bool]

HZ = 10.0
STATE = ArmState(0.0, np.zeros(7), np.zeros(7), np.zeros(7), 1.0)
STEP_M, TURN_RAD = SPEED_M_S / HZ, TURN_RAD_S / HZ
FULL = 32767

# Numbers of SDL's layout, which its virtual pads have, too.
AXES = {"left x": 0, "left y": 1, "right x": 2, "right y": 3, "left trigger": 4, "right trigger": 5}
BUTTONS = {"A": 0, "B": 1, "X": 2, "Y": 3, "back": 4, "start": 6, "right bumper": 10, "left": 13, "right": 14}
GAMECONTROLLER, UNKNOWN = 1, 0  # kinds of virtual joysticks; SDL has a layout for the first


def bundled_sdl() -> ctypes.CDLL:
    """The SDL that pygame has loaded: another copy would have joysticks of its own."""
    pytest.importorskip("pygame", reason='pygame-ce is not installed: pip install "armflow[gamepad]"')
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libSDL2-2" in line}
    (path,) = loaded
    return ctypes.CDLL(path)


class VirtualPad:
    """A joystick that is plugged into SDL and held by the test."""

    def __init__(self, sdl: ctypes.CDLL, kind: int = GAMECONTROLLER) -> None:
        self._sdl = sdl
        index = sdl.SDL_JoystickAttachVirtual(kind, 6, 15, 0)
        assert index >= 0
        sdl.SDL_JoystickOpen.restype = ctypes.c_void_p
        self._handle = ctypes.c_void_p(sdl.SDL_JoystickOpen(index))
        self._id = sdl.SDL_JoystickInstanceID(self._handle)
        for trigger in ("left trigger", "right trigger"):
            self.push(trigger, -1.0)
        self._sdl.SDL_JoystickUpdate()

    def push(self, axis: str, deflection: float) -> None:
        """-1 .. 1; sticks are positive to the right and towards the person, triggers rest at -1."""
        count = ctypes.c_int16(round(deflection * FULL))
        assert self._sdl.SDL_JoystickSetVirtualAxis(self._handle, AXES[axis], count) == 0

    def pull(self, trigger: str, deflection: float) -> None:
        """0 .. 1."""
        self.push(trigger, 2 * deflection - 1)

    def press(self, button: str) -> None:
        self._set(button, 1)

    def release(self, button: str) -> None:
        self._set(button, 0)

    def tap(self, button: str) -> None:
        self.press(button)
        self.release(button)

    def unplug(self) -> None:
        index = next(i for i in range(self._sdl.SDL_NumJoysticks()) if self._instance(i) == self._id)
        assert self._sdl.SDL_JoystickDetachVirtual(index) == 0

    def _set(self, button: str, held: int) -> None:
        assert self._sdl.SDL_JoystickSetVirtualButton(self._handle, BUTTONS[button], held) == 0
        self._sdl.SDL_JoystickUpdate()  # as often as a real one would be heard: a press is seen, however short

    def _instance(self, index: int) -> int:
        return self._sdl.SDL_JoystickGetDeviceInstanceID(index)


@pytest.fixture
def sdl(monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """SDL with joysticks switched on and none plugged in."""
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    pygame = pytest.importorskip("pygame", reason='pygame-ce is not installed: pip install "armflow[gamepad]"')
    pygame.display.init()
    pygame.joystick.init()
    yield bundled_sdl()
    pygame.joystick.quit()
    pygame.display.quit()


@pytest.fixture
def pad(sdl: ctypes.CDLL) -> VirtualPad:
    return VirtualPad(sdl)


@pytest.fixture
def gamepad(pad: VirtualPad) -> Iterator[GamepadDevice]:
    with GamepadDevice(HZ) as opened:
        yield opened


# --- hold to run


def test_a_pad_that_nobody_touches_wants_nothing(gamepad: GamepadDevice, at_rest: AtRest) -> None:
    wish = gamepad.read(STATE)
    assert (wish.engaged, wish.event, wish.gripper) == (False, None, 1.0)
    assert at_rest(wish)


def test_the_arm_is_engaged_while_the_bumper_is_held_and_no_longer(gamepad: GamepadDevice, pad: VirtualPad) -> None:
    pad.push("left y", -1.0)
    assert not gamepad.read(STATE).engaged
    pad.press("right bumper")
    assert [gamepad.read(STATE).engaged for _ in range(3)] == [True] * 3
    pad.release("right bumper")
    assert not gamepad.read(STATE).engaged


@pytest.mark.parametrize("button", sorted(set(BUTTONS) - {"right bumper"}))
def test_no_other_button_engages_the_arm(gamepad: GamepadDevice, pad: VirtualPad, button: str) -> None:
    pad.press(button)
    assert not gamepad.read(STATE).engaged


# --- directions and speed


@pytest.mark.parametrize(
    ("axis", "sign", "translation", "rotation"),
    [
        ("left y", -1, (1, 0, 0), (0, 0, 0)),  # away from the person: the base's x
        ("left x", -1, (0, 1, 0), (0, 0, 0)),  # to the left: y
        ("right y", -1, (0, 0, 1), (0, 0, 0)),  # up: z
        ("right x", -1, (0, 0, 0), (0, 0, 1)),  # counter-clockwise, seen from above
    ],
)
@pytest.mark.parametrize("way", [1, -1])
def test_a_stick_moves_or_turns_the_tool_in_the_base_frame(
    gamepad: GamepadDevice, pad: VirtualPad, axis: str, sign: int, translation: tuple[int, ...],
    rotation: tuple[int, ...], way: int, delta: Delta,
) -> None:  # fmt: skip
    pad.push(axis, sign * way)
    wished = delta(gamepad.read(STATE))
    np.testing.assert_allclose(wished.translation_m, STEP_M * way * np.array(translation), atol=1e-12)
    np.testing.assert_allclose(wished.rotation_rad, TURN_RAD * way * np.array(rotation), atol=1e-12)


@pytest.mark.parametrize(("trigger", "sign"), [("right trigger", 1), ("left trigger", -1)])
def test_a_trigger_tips_the_tool_away_or_towards_the_base(
    gamepad: GamepadDevice, pad: VirtualPad, trigger: str, sign: int, delta: Delta
) -> None:
    pad.pull(trigger, 1.0)
    np.testing.assert_allclose(delta(gamepad.read(STATE)).rotation_rad, (0, sign * TURN_RAD, 0), atol=1e-4)


@pytest.mark.parametrize(("button", "sign"), [("right", 1), ("left", -1)])
def test_the_d_pad_tips_the_tool_to_its_side(
    gamepad: GamepadDevice, pad: VirtualPad, button: str, sign: int, delta: Delta
) -> None:
    pad.press(button)
    np.testing.assert_allclose(delta(gamepad.read(STATE)).rotation_rad, (sign * TURN_RAD, 0, 0))


def test_sticks_that_rest_beside_the_middle_move_nothing(
    gamepad: GamepadDevice, pad: VirtualPad, at_rest: AtRest
) -> None:
    for axis in ("left x", "left y", "right x", "right y"):
        pad.push(axis, 0.95 * DEAD_ZONE)
    for trigger in ("left trigger", "right trigger"):
        pad.pull(trigger, 0.9 * DEAD_ZONE)
    assert at_rest(gamepad.read(STATE))


def test_half_deflection_is_a_fine_move(gamepad: GamepadDevice, pad: VirtualPad, delta: Delta) -> None:
    pad.push("left y", -0.5)
    expected = STEP_M * ((0.5 - DEAD_ZONE) / (1 - DEAD_ZONE)) ** POWER
    assert delta(gamepad.read(STATE)).translation_m[0] == pytest.approx(expected, rel=1e-3)
    assert expected < 0.2 * STEP_M


def test_speed_does_not_depend_on_the_control_rate(pad: VirtualPad, delta: Delta) -> None:
    pad.push("left y", -0.8)
    pad.push("right x", 0.8)
    moves, turns = [], []
    for hz in (5.0, 50.0):
        with GamepadDevice(hz) as gamepad:
            wished = delta(gamepad.read(STATE))
            moves.append(wished.translation_m * hz)
            turns.append(wished.rotation_rad * hz)
    np.testing.assert_allclose(*moves)
    np.testing.assert_allclose(*turns)


# --- gripper and events


def test_a_toggles_the_gripper_once_per_press_with_the_bumper_held(gamepad: GamepadDevice, pad: VirtualPad) -> None:
    pad.press("right bumper")
    openings = []
    for _ in range(2):
        pad.press("A")
        openings += [gamepad.read(STATE).gripper, gamepad.read(STATE).gripper]
        pad.release("A")
        openings.append(gamepad.read(STATE).gripper)
    assert openings == [0, 0, 0, 1, 1, 1]


def test_a_press_between_two_readings_is_not_missed(gamepad: GamepadDevice, pad: VirtualPad) -> None:
    pad.press("right bumper")
    pad.tap("A")
    assert gamepad.read(STATE).gripper == 0.0


def test_without_the_bumper_the_gripper_keeps_still(gamepad: GamepadDevice, pad: VirtualPad) -> None:
    pad.tap("A")
    assert gamepad.read(STATE).gripper == 1.0
    pad.press("right bumper")
    assert gamepad.read(STATE).gripper == 1.0


@pytest.mark.parametrize(
    ("button", "event"),
    [("start", TeleopEvent.SUCCESS), ("back", TeleopEvent.FAILURE), ("Y", TeleopEvent.DISCARD)],
)
@pytest.mark.parametrize("moving", [False, True])
def test_an_event_is_told_once(
    gamepad: GamepadDevice, pad: VirtualPad, button: str, event: TeleopEvent, moving: bool
) -> None:
    if moving:
        pad.press("right bumper")
    pad.tap(button)
    assert [gamepad.read(STATE).event for _ in range(3)] == [event, None, None]


def test_an_episode_starts_with_the_gripper_as_it_is_and_without_an_event(
    gamepad: GamepadDevice, pad: VirtualPad
) -> None:
    pad.press("right bumper")
    pad.tap("start")
    pad.tap("A")
    gamepad.start_episode(0.25)
    wish = gamepad.read(STATE)
    assert (wish.event, wish.gripper) == (None, 0.25)
    pad.tap("A")
    assert gamepad.read(STATE).gripper == 1.0


# --- plugging


def test_unplugged_it_is_a_fault_that_stays(gamepad: GamepadDevice, pad: VirtualPad) -> None:
    pad.press("right bumper")
    pad.push("left y", -1.0)
    assert gamepad.read(STATE).engaged
    pad.unplug()
    for _ in range(2):
        with pytest.raises(DeviceFault, match="gamepad: the pad is gone; connect it again"):
            gamepad.read(STATE)


def test_a_pad_that_is_plugged_in_again_moves_nothing_before_a_new_session(
    gamepad: GamepadDevice, pad: VirtualPad, sdl: ctypes.CDLL
) -> None:
    pad.unplug()
    again = VirtualPad(sdl)
    again.press("right bumper")
    with pytest.raises(DeviceFault, match="the pad is gone"):
        gamepad.read(STATE)


def test_somebody_elses_pad_is_not_heard(
    gamepad: GamepadDevice, pad: VirtualPad, sdl: ctypes.CDLL, at_rest: AtRest
) -> None:
    from pygame._sdl2 import controller

    other = VirtualPad(sdl)
    opened = controller.Controller(1)  # SDL tells events of opened pads only
    other.push("left y", -1.0)
    other.press("right bumper")
    other.tap("start")
    pad.press("right bumper")
    other.tap("A")
    wish = gamepad.read(STATE)
    assert (wish.event, wish.gripper) == (None, 1.0)
    assert at_rest(wish)
    pad.release("right bumper")
    assert not gamepad.read(STATE).engaged
    other.unplug()
    assert not gamepad.read(STATE).engaged, "and its end is no fault"
    opened.quit()


def test_without_a_pad_the_message_says_what_is_needed(sdl: ctypes.CDLL) -> None:
    VirtualPad(sdl, UNKNOWN)
    with pytest.raises(DeviceNotFound, match=r"layout for \(1 other.*group `input`.*SDL_GAMECONTROLLERCONFIG"):
        GamepadDevice(HZ).__enter__()


def test_without_pygame_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(DeviceNotFound, match=r'gamepad: needs pygame-ce .*pip install "armflow\[gamepad\]"'):
        GamepadDevice(HZ).__enter__()


# --- the process around it

IN_A_PROCESS = """
import os, signal, sys
import numpy as np
from armflow.teleop.gamepad import GamepadDevice
GamepadDevice._first_pad = lambda self: __import__("types").SimpleNamespace(
    as_joystick=lambda: __import__("types").SimpleNamespace(get_instance_id=lambda: 0), quit=lambda: None)
with GamepadDevice(10.0):
    import pygame
    print(pygame.display.get_driver(), os.environ["SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS"], flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
print("survived")
"""


def process(**environment: str) -> subprocess.CompletedProcess[str]:
    """A device open in a process without a display, which is then asked to end."""
    pytest.importorskip("pygame", reason='pygame-ce is not installed: pip install "armflow[gamepad]"')
    kept = {k: v for k, v in os.environ.items() if k not in {*ENVIRONMENT, "DISPLAY", "WAYLAND_DISPLAY"}}
    command = [sys.executable, "-c", IN_A_PROCESS]
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, check=False)


def test_it_needs_no_window_and_leaves_sigterm_alone() -> None:
    """SDL would turn SIGTERM into an event that nobody reads: the process could not be ended any more."""
    done = process()
    assert done.stdout == "dummy 1\n", done.stderr
    assert done.returncode == -signal.SIGTERM


def test_what_the_user_has_set_stays() -> None:
    done = process(SDL_VIDEODRIVER="offscreen", SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS="0")
    assert done.stdout == "offscreen 0\n", done.stderr


def test_a_video_driver_that_does_not_work_is_named() -> None:
    done = process(SDL_VIDEODRIVER="x11")
    assert "DeviceNotFound: gamepad: SDL does not start or open the pad" in done.stderr
    assert "Expected SDL_VIDEODRIVER=dummy or unset" in done.stderr
