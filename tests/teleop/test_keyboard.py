"""Keys into wishes: by `press` and `release`, and once with real key events on a real X display."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from armflow.robot.errors import DeviceFault, DeviceNotFound
from armflow.robot.types import ArmState
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.keyboard import KeyboardDevice
from armflow.teleop.keys import SPEED_M_S, TURN_RAD_S

Delta = Callable[[TeleopInput], ToolDelta]
AtRest = Callable[[TeleopInput], bool]

HZ = 10.0
STATE = ArmState(0.0, np.zeros(7), np.zeros(7), np.zeros(7), 1.0)
STEP_M, TURN_RAD = SPEED_M_S / HZ, TURN_RAD_S / HZ


@pytest.fixture
def keyboard() -> KeyboardDevice:
    """Not opened: nothing listens, keys come from the test."""
    return KeyboardDevice(HZ)


def read(keyboard: KeyboardDevice, *held: str) -> TeleopInput:
    """What the device says while so many more keys are held; they are let go afterwards."""
    for key in held:
        keyboard.press(key)
    wish = keyboard.read(STATE)
    for key in held:
        keyboard.release(key)
    return wish


# --- hold to run


def test_nobody_at_the_keyboard_wants_nothing(keyboard: KeyboardDevice, at_rest: AtRest) -> None:
    wish = keyboard.read(STATE)
    assert (wish.engaged, wish.event) == (False, None)
    assert at_rest(wish)


def test_the_arm_is_engaged_while_shift_is_held_and_no_longer(keyboard: KeyboardDevice) -> None:
    assert not read(keyboard, "w").engaged
    assert read(keyboard, "shift").engaged
    assert read(keyboard, "shift", "w").engaged
    assert not read(keyboard, "w").engaged


def test_a_held_key_counts_once_however_often_it_repeats(keyboard: KeyboardDevice, delta: Delta) -> None:
    assert delta(read(keyboard, "shift", *["w"] * 30)).translation_m[0] == pytest.approx(STEP_M)


# --- directions


@pytest.mark.parametrize(
    ("key", "direction"),
    [
        ("w", (1, 0, 0)),  # the base's x: away from it
        ("s", (-1, 0, 0)),
        ("a", (0, 1, 0)),  # the base's y: to its left
        ("d", (0, -1, 0)),
        ("r", (0, 0, 1)),
        ("f", (0, 0, -1)),
    ],
)
def test_a_key_moves_the_tool_along_an_axis_of_the_base(
    keyboard: KeyboardDevice, key: str, direction: tuple[float, ...], delta: Delta
) -> None:
    wished = delta(read(keyboard, "shift", key))
    np.testing.assert_allclose(wished.translation_m, STEP_M * np.array(direction))
    assert not wished.rotation_rad.any()


@pytest.mark.parametrize(("key", "sign"), [("q", 1), ("e", -1)])
def test_a_key_turns_the_tool_about_the_vertical(keyboard: KeyboardDevice, key: str, sign: int, delta: Delta) -> None:
    wished = delta(read(keyboard, "shift", key))
    np.testing.assert_allclose(wished.rotation_rad, (0, 0, sign * TURN_RAD))
    assert not wished.translation_m.any()


def test_keys_add_up_and_opposite_ones_cancel(keyboard: KeyboardDevice, delta: Delta) -> None:
    wished = delta(read(keyboard, "shift", "w", "a", "r", "f", "e"))
    np.testing.assert_allclose(wished.translation_m, (STEP_M, STEP_M, 0))
    np.testing.assert_allclose(wished.rotation_rad, (0, 0, -TURN_RAD))


def test_speed_does_not_depend_on_the_control_rate(delta: Delta) -> None:
    slow, fast = (delta(read(KeyboardDevice(hz), "shift", "w", "q")) for hz in (5.0, 50.0))
    np.testing.assert_allclose(slow.translation_m * 5, fast.translation_m * 50)
    np.testing.assert_allclose(slow.rotation_rad * 5, fast.rotation_rad * 50)


def test_a_key_without_a_meaning_changes_nothing(keyboard: KeyboardDevice, at_rest: AtRest) -> None:
    wish = read(keyboard, "shift", "m", "f5", "up")
    assert (wish.gripper, wish.event) == (1.0, None)
    assert at_rest(wish)


# --- gripper


def test_space_toggles_the_gripper_once_per_press_with_shift_held(keyboard: KeyboardDevice) -> None:
    keyboard.start_episode(1.0)
    keyboard.press("shift")
    openings = []  # four presses are one and its repeats; taken one by one they would undo each other
    for _ in range(3):
        openings.append(read(keyboard, *["space"] * 4).gripper)
        openings.append(keyboard.read(STATE).gripper)
    assert openings == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


def test_space_without_shift_moves_nothing_even_when_shift_follows(keyboard: KeyboardDevice) -> None:
    assert read(keyboard, "space").gripper == 1.0
    assert read(keyboard, "space", "shift").gripper == 1.0


@pytest.mark.parametrize(("measured", "toggled"), [(0.0, 1.0), (0.2, 1.0), (0.8, 0.0), (1.0, 0.0)])
def test_an_episode_starts_with_the_gripper_as_it_is(keyboard: KeyboardDevice, measured: float, toggled: float) -> None:
    keyboard.start_episode(measured)
    assert read(keyboard, "shift").gripper == measured
    assert read(keyboard, "shift", "space").gripper == toggled


# --- events


@pytest.mark.parametrize(
    ("key", "event"),
    [("enter", TeleopEvent.SUCCESS), ("x", TeleopEvent.FAILURE), ("esc", TeleopEvent.DISCARD)],
)
def test_an_event_is_told_once_with_or_without_shift(keyboard: KeyboardDevice, key: str, event: TeleopEvent) -> None:
    for held in ([key], ["shift", key]):
        assert read(keyboard, *held).event is event
        assert keyboard.read(STATE).event is None


def test_a_short_press_between_two_readings_is_not_missed(keyboard: KeyboardDevice) -> None:
    keyboard.press("esc")
    keyboard.release("esc")
    assert keyboard.read(STATE).event is TeleopEvent.DISCARD


def test_a_new_episode_forgets_what_was_said_about_the_last_one(keyboard: KeyboardDevice) -> None:
    read(keyboard, "enter", "shift", "space")
    keyboard.press("x")
    keyboard.release("x")
    keyboard.start_episode(1.0)
    wish = keyboard.read(STATE)
    assert (wish.event, wish.gripper) == (None, 1.0)


# --- a keyboard that is not there


def test_keys_that_are_no_longer_heard_are_a_fault(keyboard: KeyboardDevice) -> None:
    """A release would be missed, and the arm would go on as if the dead-man were held."""
    listener: Any = threading.Thread(target=lambda: None)
    listener.start()
    listener.join()
    keyboard._listener = listener
    keyboard.press("shift")
    with pytest.raises(DeviceFault, match="keyboard: no longer hears keys"):
        keyboard.read(STATE)


def test_without_a_display_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delitem(sys.modules, "pynput.keyboard", raising=False)
    monkeypatch.delitem(sys.modules, "pynput", raising=False)
    with pytest.raises(DeviceNotFound, match="needs an X display: .*set DISPLAY; `--device terminal` and .* need none"):
        KeyboardDevice(HZ).__enter__()


# --- real keys

LISTEN = """
import json, sys
from armflow.teleop.keyboard import KeyboardDevice
with KeyboardDevice(10.0) as keyboard:
    keyboard._listener.wait()
    keyboard.start_episode(1.0)
    print("ready", flush=True)
    for _ in sys.stdin:
        try:
            wish = keyboard.read(None)
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
            continue
        print(json.dumps({
            "engaged": wish.engaged, "gripper": wish.gripper, "event": wish.event and wish.event.name,
            "move": [*wish.target.translation_m, *wish.target.rotation_rad],
        }), flush=True)
"""
KEYS_TAKE_S = 0.3  # from xdotool through the X server and pynput's thread; generous, because the machine may be busy


class XServer:
    """A display of its own, keys pressed on it, and a process that listens."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            ["Xvfb", "-displayfd", "1", "-screen", "0", "64x48x24", "-nolisten", "tcp"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.server.stdout is not None
        self.env = {**os.environ, "DISPLAY": f":{self.server.stdout.readline().strip()}"}
        self.listener = subprocess.Popen(
            [sys.executable, "-c", LISTEN], env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"

    def keys(self, action: str, *names: str) -> None:
        subprocess.run(["xdotool", action, *names], env=self.env, check=True)
        time.sleep(KEYS_TAKE_S)

    def read(self) -> dict[str, Any]:
        """What the device reads now."""
        assert self.listener.stdin is not None
        print(file=self.listener.stdin, flush=True)
        return json.loads(self._line())

    def _line(self) -> str:
        assert self.listener.stdout is not None
        return self.listener.stdout.readline().strip()

    def close(self) -> None:
        for process in (self.listener, self.server):
            process.kill()
            process.wait()


@pytest.fixture
def x_server() -> Iterator[XServer]:
    packages = {"Xvfb": "xvfb", "xdotool": "xdotool"}
    missing = [package for program, package in packages.items() if shutil.which(program) is None]
    if missing:
        pytest.skip(f"real keys need a display and something that presses them: apt-get install {' '.join(missing)}")
    server = XServer()
    yield server
    server.close()


@pytest.mark.slow
def test_real_keys_on_a_real_display(x_server: XServer) -> None:
    at_rest = [0.0] * 6
    assert x_server.read() == {"engaged": False, "gripper": 1.0, "event": None, "move": at_rest}

    x_server.keys("keydown", "shift", "w")  # as a capital W
    assert x_server.read()["move"] == pytest.approx([STEP_M, 0, 0, 0, 0, 0])
    assert x_server.read()["engaged"]

    x_server.keys("keyup", "shift")  # w is still held
    assert not x_server.read()["engaged"]
    x_server.keys("keyup", "w")
    assert x_server.read()["move"] == at_rest

    x_server.keys("keydown", "Shift_R", "q")
    assert x_server.read()["engaged"]
    assert x_server.read()["move"] == pytest.approx([0, 0, 0, 0, 0, TURN_RAD])
    x_server.keys("keyup", "q", "Shift_R")

    x_server.keys("keydown", "shift", "space")
    time.sleep(2.0)  # the server repeats held keys after 0.66 s, 25 times a second
    x_server.keys("keyup", "space")
    assert x_server.read()["gripper"] == 0.0
    x_server.keys("key", "space")
    assert x_server.read()["gripper"] == 1.0
    x_server.keys("keyup", "shift")

    for key, event in (("Return", "SUCCESS"), ("x", "FAILURE"), ("Escape", "DISCARD")):
        x_server.keys("key", key)
        assert x_server.read()["event"] == event
        assert x_server.read()["event"] is None

    x_server.server.kill()
    x_server.server.wait()
    time.sleep(KEYS_TAKE_S)
    assert x_server.read()["error"].startswith("DeviceFault: keyboard: no longer hears keys")
