"""A page that moves the arm, in a real browser: real key, mouse and touch events, through a real server, to what is read."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.datasets.episodes import load_episodes, open_dataset
from armflow.robot.control import Decision, Step
from armflow.robot.errors import ConfigError, DeviceFault
from armflow.robot.types import ArmCommand, ArmState, ControlMode, Observation, RgbdFrame, SafetyFlag
from armflow.teleop.browser import BrowserDevice
from armflow.teleop.device import TeleopEvent, ToolDelta
from armflow.teleop.keys import SPEED_M_S
from playwright.sync_api import Browser, BrowserContext, Error, Page, sync_playwright
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")

HZ = 10.0
STATE = ArmState(0.0, np.zeros(7), np.zeros(7), np.zeros(7), 1.0)
STEP_M = SPEED_M_S / HZ
PATIENCE_S = 30.0  # the machine may be busy
PATIENCE_MS = 1000 * PATIENCE_S
PATIENT_S = 600.0  # limit of a device that never lets go by itself: then the page has done it


@contextmanager
def opened(**options: Any) -> Iterator[BrowserDevice]:
    with BrowserDevice(HZ, port=0, say=lambda text: None, **options) as device:
        yield device


@pytest.fixture(scope="module")
def patient() -> Iterator[BrowserDevice]:
    with opened(limit_s=PATIENT_S) as device:
        yield device


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """Tabs of one test, with nothing in them."""
    context = chromium.new_context(viewport={"width": 844, "height": 390}, has_touch=True)
    context.set_default_timeout(PATIENCE_MS)
    try:
        yield context
    finally:
        context.close()


@pytest.fixture
def page(context: BrowserContext, patient: BrowserDevice) -> Page:
    """It drives the patient device."""
    return driving(context, patient)


def driving(context: BrowserContext, device: BrowserDevice) -> Page:
    page = context.new_page()
    page.goto(device.address)
    page.wait_for_selector("#moves")
    take(page)
    device.start_episode(1.0)
    return page


def take(page: Page) -> None:
    page.click("#take:enabled")
    page.wait_for_selector("#cover", state="hidden")


def wait_for(true: Callable[[], bool], s: float = PATIENCE_S) -> None:
    end = time.monotonic() + s
    while not true():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.01)


def held(device: BrowserDevice, *keys: str) -> None:
    """Wait until these keys are held, and no other ones."""
    wait_for(lambda: device.read(STATE) is not None and device.held == {*keys})


def key_down(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.down(key)


class Fingers:
    """On the page's buttons, by the key that a button stands for."""

    def __init__(self, page: Page) -> None:
        self._page, self._cdp = page, page.context.new_cdp_session(page)
        self._down: dict[str, tuple[float, float]] = {}

    def put(self, *keys: str) -> None:
        """On these and nowhere else."""
        points = {key: self._down.get(key, middle(self._page, key)) for key in keys}
        lifted = {key: point for key, point in self._down.items() if key not in points}
        if lifted:
            self._send("touchEnd", lifted)
        if points.keys() - self._down:
            self._send("touchStart", points)
        self._down = points

    def slide(self, key: str, onto: str) -> None:
        self._down[key] = middle(self._page, onto)
        self._send("touchMove", self._down)

    def _send(self, kind: str, points: dict[str, tuple[float, float]]) -> None:
        touches = [{"x": x, "y": y, "id": ord(key[-1])} for key, (x, y) in points.items()]
        self._cdp.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})


def middle(page: Page, key: str) -> tuple[float, float]:
    box = page.locator(f"[data-key={key}]").bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


pytestmark = pytest.mark.slow  # together; one by one they are fast


# --- keys, fingers, the mouse


@needs_chromium
def test_the_arm_moves_while_shift_is_held_and_stops_when_it_is_released(page: Page, patient: BrowserDevice) -> None:
    key_down(page, "Shift", "w")
    held(patient, "shift", "w")
    wish = patient.read(STATE)
    assert wish.engaged and isinstance(wish.target, ToolDelta)
    assert wish.target.translation_m == pytest.approx([STEP_M, 0, 0])
    page.keyboard.up("Shift")
    held(patient, "w")
    assert not patient.read(STATE).engaged
    page.keyboard.up("w")
    held(patient)


@needs_chromium
def test_a_key_is_released_whatever_letter_it_has_become(page: Page, patient: BrowserDevice) -> None:
    """A capital goes down, then shift goes up, and the key tells a small letter when it goes up, too."""
    key_down(page, "Shift", "E")
    held(patient, "shift", "e")
    page.keyboard.up("Shift")
    page.keyboard.up("e")
    held(patient)


@needs_chromium
def test_the_gripper_and_the_events_are_told_once_per_press(page: Page, patient: BrowserDevice) -> None:
    key_down(page, "Shift", "Space", "Space", "Space")  # the last two are repeats
    held(patient, "shift", "space")
    assert patient.read(STATE).gripper == 0.0
    page.keyboard.up("Space")
    page.keyboard.up("Shift")
    for key, event in (("Enter", TeleopEvent.SUCCESS), ("x", TeleopEvent.FAILURE), ("Escape", TeleopEvent.DISCARD)):
        key_down(page, key, key)
        events = list[TeleopEvent | None]()
        wait_for(lambda events=events: events.append(patient.read(STATE).event) or events[-1] is not None)
        page.keyboard.up(key)
        wait_for(lambda events=events: events.append(patient.read(STATE).event) or not patient.held)
        assert [e for e in events if e] == [event]


@needs_chromium
def test_two_thumbs_move_the_arm_until_one_of_them_is_lifted_or_slides_off(page: Page, patient: BrowserDevice) -> None:
    fingers = Fingers(page)
    fingers.put("shift")
    held(patient, "shift")
    fingers.put("shift", "a", "r")
    held(patient, "shift", "a", "r")
    fingers.put("shift", "r")
    held(patient, "shift", "r")
    fingers.slide("shift", onto="w")
    held(patient, "r")
    fingers.put()
    held(patient)


@needs_chromium
def test_the_mouse_holds_a_button_with_shift_on_the_keyboard(page: Page, patient: BrowserDevice) -> None:
    page.keyboard.down("Shift")
    page.mouse.move(*middle(page, "d"))
    page.mouse.down()
    held(patient, "shift", "d")
    page.mouse.up()
    held(patient, "shift")
    page.mouse.down()
    held(patient, "shift", "d")
    page.mouse.move(*middle(page, "shift"))
    held(patient, "shift")
    page.mouse.up()
    page.keyboard.up("Shift")
    held(patient)


# --- who lets go without saying so


@needs_chromium
@pytest.mark.parametrize("event", ["blur", "pagehide", "visibilitychange", "shortcut"])
def test_a_page_that_may_not_hear_releases_lets_go_at_once(event: str, page: Page, patient: BrowserDevice) -> None:
    key_down(page, "Shift", "w")
    held(patient, "shift", "w")
    if event == "shortcut":
        page.keyboard.down("Control")
    else:
        target = "document" if event == "visibilitychange" else "window"
        page.evaluate(f"{target}.dispatchEvent(new Event('{event}'))")
    held(patient)


@needs_chromium
@pytest.mark.parametrize("how", ["closed", "loaded again", "crashed"])
def test_a_page_that_is_gone_lets_go_at_once(how: str, page: Page, patient: BrowserDevice) -> None:
    key_down(page, "Shift", "w")
    held(patient, "shift", "w")
    if how == "closed":
        page.close()
    elif how == "crashed":
        with pytest.raises(Error):
            page.goto("chrome://crash")
    else:
        page.reload()
        page.wait_for_selector("#take:enabled")
        key_down(page, "w")
    held(patient)
    assert not patient.read(STATE).engaged


@needs_chromium
def test_one_tab_drives_where_that_was_asked_for_last(
    page: Page, context: BrowserContext, patient: BrowserDevice
) -> None:
    key_down(page, "Shift", "w")
    held(patient, "shift", "w")
    other = driving(context, patient)
    held(patient)
    page.wait_for_selector("text=Another tab drives the arm")
    page.keyboard.up("w")
    key_down(page, "w")
    key_down(other, "Shift", "d")
    held(patient, "shift", "d")
    page.keyboard.up("w")
    page.keyboard.up("Shift")
    take(page)
    held(patient)
    key_down(page, "Shift", "a")
    held(patient, "shift", "a")
    other.wait_for_selector("text=Another tab drives the arm")


# --- silence: what ships, with its short limit


@pytest.fixture(scope="module")
def quick() -> Iterator[BrowserDevice]:
    with opened() as device:
        yield device


def engage(page: Page, device: BrowserDevice) -> None:
    """Hold shift and w; once more if the machine was so busy that this was let go of by force."""
    for _ in range(20):
        key_down(page, "Shift", "w")
        try:
            return wait_for(lambda: device.read(STATE).engaged, s=2.0)
        except AssertionError:
            page.keyboard.up("w")
            page.keyboard.up("Shift")
    pytest.fail("it never engaged")


def locked(device: BrowserDevice) -> bool:
    return not device.read(STATE).engaged and not device.trusted


@needs_chromium
def test_a_frozen_page_lets_go_and_stays_so_until_everything_is_let_go_of(
    context: BrowserContext, quick: BrowserDevice
) -> None:
    page = driving(context, quick)
    engage(page, quick)
    page.evaluate("setTimeout(() => { const end = performance.now() + 1500; while (performance.now() < end); })")
    wait_for(lambda: locked(quick))
    page.wait_for_function("true")  # it is itself again
    page.wait_for_selector("text=Let go of all keys")
    assert locked(quick)
    page.keyboard.up("w")
    assert locked(quick)
    page.keyboard.up("Shift")
    wait_for(lambda: quick.trusted)
    engage(page, quick)


@needs_chromium
def test_a_stalled_connection_lets_go_and_the_burst_after_it_moves_nothing(
    context: BrowserContext, quick: BrowserDevice
) -> None:
    page = driving(context, quick)
    engage(page, quick)
    server = quick._process
    server.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: locked(quick))
        page.keyboard.press("Enter")
        page.wait_for_timeout(700)  # beats pile up
    finally:
        server.send_signal(signal.SIGCONT)
    for _ in range(50):
        wish = quick.read(STATE)
        assert (wish.engaged, wish.event) == (False, None)
        time.sleep(0.01)
    page.keyboard.up("w")
    page.keyboard.up("Shift")
    wait_for(lambda: quick.trusted)
    engage(page, quick)


@needs_chromium
def test_a_server_that_is_gone_is_a_fault_and_the_page_says_so(context: BrowserContext) -> None:
    with opened() as device:
        page = driving(context, device)
        engage(page, device)
        device._process.kill()
        with pytest.raises(DeviceFault, match="browser: its (reader|screen) .*|browser: its server has ended; connect"):
            wait_for(lambda: device.read(STATE).engaged and False)
        page.wait_for_selector("text=No link to armflow")


# --- what is shown


def step(t: float, flags: SafetyFlag = SafetyFlag.NONE) -> Step:
    frame = RgbdFrame(t, 0, np.full((96, 640, 3), (200, 40, 40), np.uint8), np.zeros((96, 640), np.uint16))
    command = ArmCommand(np.zeros(7), 0.0)
    return Step(Observation(t, STATE, {"head": frame}), command, command, flags, Decision(command, ControlMode.HUMAN))


@needs_chromium
def test_the_page_shows_the_episode_the_gripper_and_the_cameras(page: Page, patient: BrowserDevice) -> None:
    page.wait_for_selector("text=ready: hold to move")
    page.keyboard.down("Shift")
    page.wait_for_selector("#state:text('Engaged')")
    patient.add(step(5.0))
    patient.add(step(7.0, SafetyFlag.TCP_SPEED | SafetyFlag.WORKSPACE))
    page.wait_for_selector("text=recording 2 s, limited by tcp speed, workspace")
    page.wait_for_selector("text=gripper closed")
    page.wait_for_function("document.querySelector('img[alt=head]')?.naturalWidth === 320")
    pixel = page.evaluate("""() => {
        const canvas = document.createElement('canvas').getContext('2d');
        canvas.drawImage(document.querySelector('img[alt=head]'), 0, 0);
        return [...canvas.getImageData(9, 9, 1, 1).data];
    }""")
    assert pixel == pytest.approx([200, 40, 40, 255], abs=6)
    page.wait_for_selector("text=episode over")
    page.keyboard.up("Shift")
    page.wait_for_selector("#state:text('Released')")
    page.keyboard.press("x")
    wait_for(lambda: patient.read(STATE).event is not None)
    page.wait_for_selector("text=it failed")
    patient.abort("safety stop: too near")
    page.wait_for_selector("text=stopped: safety stop: too near")
    assert re.match(r"link \d+ ms", page.inner_text("#link"))


# --- who may


def status(address: str, host: str, path: str) -> int:
    connection = HTTPConnection(address, timeout=PATIENCE_S)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


def test_nothing_is_served_without_the_token_or_by_another_name(patient: BrowserDevice) -> None:
    _, _, address, token, _ = patient.address.split("/")
    port = address.split(":")[1]
    assert status(address, address, f"/{token}/") == 200
    assert status(address, "localhost:9000", f"/{token}/") == 200  # the near end of a tunnel
    for path in ("/", f"/{token[:-1]}/", "/docs", "/openapi.json", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"):
        assert status(address, address, path) == 404
    for host in (f"rebound.example:{port}", "192.168.0.7", "127.0.0.1.example", "[", ""):
        assert status(address, host, f"/{token}/") == 403


@pytest.mark.parametrize("path", ["drive", "_nicegui_ws/socket.io/?EIO=4&transport=websocket"])
def test_pages_of_others_get_no_connection_even_with_the_token(path: str, patient: BrowserDevice) -> None:
    _, _, address, token, _ = patient.address.split("/")
    for origin in ("http://evil.example", "http://127.0.0.1:1", "null", None):
        with pytest.raises(InvalidStatus, match="403"), connect(f"ws://{address}/{token}/{path}", origin=origin):  # type: ignore[arg-type]
            pass
    with pytest.raises(InvalidStatus), connect(f"ws://{address}/wrong/{path}", origin=f"http://{address}"):  # type: ignore[arg-type]
        pass
    with connect(f"ws://{address}/{token}/{path}", origin=f"http://{address}"):  # type: ignore[arg-type]
        pass


def test_who_does_not_drive_moves_nothing_and_who_talks_nonsense_is_hung_up_on(patient: BrowserDevice) -> None:
    _, _, address, token, _ = patient.address.split("/")
    link = f"ws://{address}/{token}/drive"
    with connect(link, origin=f"http://{address}") as tab:  # type: ignore[arg-type]
        for keys in ("[]", '["shift", "w"]'):
            tab.send(f'{{"stamp": {time.monotonic()}, "held": {keys}, "sent_ms": 0}}')
            assert '"drives":false' in str(tab.recv(PATIENCE_S))
        for _ in range(30):
            assert not patient.read(STATE).engaged
            time.sleep(0.01)
    for nonsense in ("w", "[]", "{}", '{"take": true}', '{"stamp": "now", "held": 1, "sent_ms": 0}'):
        with connect(link, origin=f"http://{address}") as tab:  # type: ignore[arg-type]
            tab.send('{"take": true, "sent_ms": 0}')
            tab.recv(PATIENCE_S)
            tab.send(nonsense)
            with pytest.raises(ConnectionClosed):
                tab.recv(PATIENCE_S)
    assert not patient.read(STATE).engaged


# --- beginning and end


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def port_of(device: BrowserDevice) -> int:
    return int(device.address.split(":")[2].split("/")[0])


def test_nothing_stays_behind_also_after_an_error_and_a_port_that_is_taken_is_no_obstacle() -> None:
    said = list[str]()
    with pytest.raises(DeviceFault, match="of the arm"), opened() as first:
        assert not is_free(port_of(first))
        with BrowserDevice(HZ, port=port_of(first), say=said.append) as second:
            assert port_of(second) != port_of(first)
            assert second.address in said[0] and f"ssh -L {port_of(second)}:127.0.0.1:{port_of(second)}" in said[0]
        assert is_free(port_of(second)) and second._process.returncode is not None
        raise DeviceFault("arm", "of the arm")
    assert is_free(port_of(first)) and first._process.returncode is not None


SESSION = """
import time
from armflow.teleop.browser import BrowserDevice

with BrowserDevice(10.0, port=0, say=lambda text: None) as device:
    print(device.address, flush=True)
    while True:
        device.read(None)
        time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_server_ends_with_its_session_however_that_ends(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SESSION], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0
    ) as session:
        try:
            assert session.stdout is not None
            port = int(session.stdout.readline().split(":")[2].split("/")[0])
            assert not is_free(port)
            os.killpg(session.pid, number)  # Ctrl-C is told to all that the terminal has started
            assert session.wait(PATIENCE_S) == -number
        finally:
            session.kill()
    wait_for(lambda: is_free(port))


def test_without_nicegui_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'NiceGUI: pip install "armflow\[browser\]"'):
        BrowserDevice(HZ).__enter__()


def test_a_server_that_does_not_start_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DeviceFault, match="browser: its server does not start"):
        BrowserDevice(HZ, port=0).__enter__()


# --- all of it


@needs_chromium
def test_an_episode_is_recorded_from_the_command_line_and_a_browser(context: BrowserContext, tmp_path: Path) -> None:
    out = tmp_path / "demos"
    command = [
        sys.executable,
        "-c",
        "from armflow.cli import main; main()",
        "collect",
        "demos",
        "--device",
        "browser",
        "--out",
        str(out),
    ]
    command += ["--tasks", "pick_peach", "--episodes", "1", "--image-size", "64", "48"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as session:
        try:
            assert session.stdout is not None
            address = next(filter(None, (re.search(r"http://\S+/", line) for line in session.stdout)))[0]
            page = context.new_page()
            page.goto(address)
            take(page)
            key_down(page, "Shift", "r")
            while not page.locator("#state:text('Engaged')").count():  # a busy machine may let go by force
                page.keyboard.up("r")
                page.keyboard.up("Shift")
                page.wait_for_timeout(300)
                key_down(page, "Shift", "r")
                page.wait_for_timeout(300)
            page.wait_for_timeout(700)
            page.wait_for_function("document.querySelector('img[alt=head]')?.naturalWidth === 64")
            page.keyboard.press("Enter")
            rest = session.stdout.read()
            assert session.wait(PATIENCE_S) == 0, rest
        finally:
            session.kill()
    (episode,) = load_episodes(open_dataset(out))
    assert episode.ref.label is not None
    assert (episode.ref.label.outcome, episode.ref.label.operator) == ("success", "browser")
    assert abs(episode.action[-1, :7] - episode.action[0, :7]).max() > 0.01, "the arm has moved"
