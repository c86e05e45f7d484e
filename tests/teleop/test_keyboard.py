"""Keys into wishes: by `press` and `release`, and with real key events on a real X display."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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

class Counting(KeyboardDevice):
    presses = 0

    def press(self, key):
        super().press(key)
        self.presses += 1

with Counting(10.0) as keyboard:
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
            "held": sorted(keyboard._held), "presses": keyboard.presses,
        }), flush=True)
"""
PATIENCE_S = 30.0  # from xdotool through the X server to pynput's thread: the machine may be busy
AT_REST = [0.0] * 6
REPEATS_AFTER_S = 0.66  # Xvfb's, of a key that stays down; then 25 times a second


class Display:
    """An X display of its own, keys pressed on it, and a process that listens to them."""

    def __init__(self, stack: ExitStack) -> None:
        """`stack` ends both processes, also if the second one does not start."""
        self.server = stack.enter_context(
            ending("Xvfb", "-displayfd", "1", "-screen", "0", "64x48x24", "-nolisten", "tcp", stderr=subprocess.DEVNULL)
        )
        self._env = {**os.environ, "DISPLAY": f":{_line(self.server)}"}
        self._listener = stack.enter_context(ending(sys.executable, "-c", LISTEN, env=self._env))
        assert _line(self._listener) == "ready"

    def keys(self, action: str, *names: str) -> None:
        subprocess.run(["xdotool", action, *names], env=self._env, check=True, timeout=PATIENCE_S)

    def read(self) -> dict[str, Any]:
        """What the device reads now."""
        assert self._listener.stdin is not None
        print(file=self._listener.stdin, flush=True)
        return json.loads(_line(self._listener))

    def wait_for(self, what: str, value: object) -> dict[str, Any]:
        """The first reading that says so; what has been pressed takes its time."""
        end = time.monotonic() + PATIENCE_S
        while (reading := self.read()).get(what) != value:
            assert time.monotonic() < end, f"{what} never became {value}: {reading}"
            time.sleep(0.01)
        return reading


@contextmanager
def ending(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process to talk to, which does not outlive the test."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def display() -> Iterator[Display]:
    packages = {"Xvfb": "xvfb", "xdotool": "xdotool"}
    missing = [package for program, package in packages.items() if shutil.which(program) is None]
    if missing:
        pytest.skip(f"real keys need a display and something that presses them: apt-get install {' '.join(missing)}")
    with ExitStack() as stack:
        yield Display(stack)


def test_real_keys_move_the_arm_while_shift_is_held(display: Display) -> None:
    assert display.read() == {
        "engaged": False, "gripper": 1.0, "event": None, "move": AT_REST, "held": [], "presses": 0,
    }  # fmt: skip
    display.keys("keydown", "shift", "w")  # as a capital W
    assert display.wait_for("held", ["shift", "w"])["engaged"]
    assert display.read()["move"] == pytest.approx([STEP_M, 0, 0, 0, 0, 0])
    display.keys("keyup", "shift")
    assert not display.wait_for("held", ["w"])["engaged"]
    display.keys("keyup", "w")
    assert display.wait_for("held", [])["move"] == AT_REST

    display.keys("keydown", "Shift_R", "q")
    assert display.wait_for("held", ["q", "shift"])["engaged"]
    assert display.read()["move"] == pytest.approx([0, 0, 0, 0, 0, TURN_RAD])


def test_repeats_of_a_real_key_are_one_press(display: Display) -> None:
    """They come while the key is down, or all at once when it goes up."""
    display.keys("keydown", "shift", "space")
    assert display.wait_for("held", ["shift", "space"])["gripper"] == 0.0
    time.sleep(REPEATS_AFTER_S + 0.5)
    display.keys("keyup", "space")
    released = display.wait_for("held", ["shift"])
    assert released["presses"] > 2, "the server did repeat it"
    assert released["gripper"] == 0.0
    display.keys("key", "space")
    display.wait_for("gripper", 1.0)


def test_real_keys_end_an_episode_once(display: Display) -> None:
    for key, event in (("Return", "SUCCESS"), ("x", "FAILURE"), ("Escape", "DISCARD")):
        display.keys("key", key)
        display.wait_for("event", event)
        assert display.wait_for("held", [])["event"] is None


def test_a_display_that_goes_away_is_a_fault(display: Display) -> None:
    display.keys("keydown", "shift")
    display.wait_for("engaged", True)
    display.server.kill()
    display.wait_for(
        "error", "DeviceFault: keyboard: no longer hears keys; has the X display gone? Start the session again"
    )
