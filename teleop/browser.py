"""Keys, fingers and the mouse in a browser: over SSH, on Wayland, on a phone. The keys: `keys.py`, and on the page.

The page is served to this computer only (`browser_server.py`), by a process of its own: a web server's work would make the
control loop wait for Python's lock. From another computer, tunnel to it:

    ssh -L 8742:127.0.0.1:8742 ROBOT_COMPUTER

One tab drives, the one in which that was asked for last. Everything counts as released when a beat of the page is missing
(`heartbeat.py`), and at once when the page loses the focus, is hidden, closed or loaded again, or another one takes over.
"""

import base64
import errno
import importlib.util
import json
import secrets
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import cv2
from rich.console import Console

from ..robot.control import Step
from ..robot.errors import ConfigError, DeviceFault, DeviceNotFound
from ..robot.types import ArmState, RgbdFrame, SafetyFlag
from ..robot.worker import Worker
from .device import TeleopEvent, TeleopInput
from .heartbeat import LIMIT_S, Heartbeats
from .reader import RECONNECT, reader

PORT = 8742
START_S = 60.0  # it takes one or two
SHOW_S, IMAGES_EVERY = 0.1, 2  # what the page shows is brought up to date so often, images every second time
IMAGE_WIDTH = 320  # px
LIVE_S = 1.0  # after the last step
ENDS = {TeleopEvent.SUCCESS: "it worked", TeleopEvent.FAILURE: "it failed", TeleopEvent.DISCARD: "discarded"}


class BrowserDevice(Heartbeats):
    """HandDevice, and StepSink: as a sink of the control loop it shows the newest step, and makes the loop wait for nothing."""

    name = "browser"
    usage = "in the browser hold shift or its button to move; enter, x or esc to end"

    def __init__(
        self,
        control_hz: float,
        *,
        port: int = PORT,
        say: Callable[[str], None] = lambda text: Console().print(text, soft_wrap=True),
        limit_s: float = LIMIT_S,
    ) -> None:
        """`port`: if it is taken, any other; 0 is any. `say` is told the page's address."""
        super().__init__(control_hz, limit_s=limit_s)
        self._port, self._say = port, say
        self._episode = "no episode yet"
        self._newest: tuple[float, float, Step] | None = None  # s, when it came and how long the episode has been
        self._began_s: float | None = None
        self._shown: dict[str, Any] = {}
        self._looks = 0

    address: str  # of the page, with the token, once it is open

    def __enter__(self) -> Self:
        if importlib.util.find_spec("nicegui") is None:
            raise ConfigError(
                'browser: needs NiceGUI: pip install "armflow[browser]"; `--device terminal` needs nothing'
            )
        token = secrets.token_urlsafe(16)
        with ExitStack() as stack:
            self._process, port = stack.enter_context(_server(self._port))
            self._reader = reader(self.name, self._listen)
            self._screen = Worker(self.name, "screen", self._show, advice=RECONNECT)
            stack.callback(self._screen.close)
            stack.callback(self._reader.close)
            stack.callback(self._process.kill)  # at first, so that nobody waits for what it says or takes
            self._wait_until_ready(token)
            self._reader.start()
            self._screen.start()
            self.address = f"http://127.0.0.1:{port}/{token}/"
            self._say(
                f"Drive the arm in a browser: [link={self.address}]{self.address}[/link]\n"
                f"From another computer, first: ssh -L {port}:127.0.0.1:{port} and the name of this one"
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start_episode(self, gripper: float) -> None:
        super().start_episode(gripper)
        self._episode, self._newest, self._began_s = "ready: hold to move", None, None

    def read(self, state: ArmState) -> TeleopInput:
        """What is held on the page. Raises DeviceFault if its server is gone."""
        self._reader.check()
        self._screen.check()
        wish = self.wish()
        if wish.event is not None:
            self._episode, self._newest = ENDS[wish.event], None
        return wish

    def add(self, step: Step) -> None:
        self._began_s = step.obs.t if self._began_s is None else self._began_s
        self._newest = time.monotonic(), step.obs.t - self._began_s, step
        self._episode = "episode over"  # unless more steps come

    def abort(self, reason: str) -> None:
        self._episode, self._newest = f"stopped: {reason}", None

    def _wait_until_ready(self, token: str) -> None:
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._write(token)  # not as an argument: those are shown to all users
        ready, _, _ = select.select([self._process.stdout], [], [], START_S)
        if not ready or not self._process.stdout.readline():
            raise DeviceFault(self.name, "its server does not start; its process says why above")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise DeviceFault(self.name, f"its server has ended; {RECONNECT}")
        said = json.loads(line)
        if said["held"] is None:
            self.drop()
        else:
            self.beat(said["stamp"], frozenset(said["held"]))

    def _show(self) -> None:
        time.sleep(SHOW_S)
        self._looks += 1
        newest = self._newest
        live = newest is not None and time.monotonic() - newest[0] < LIVE_S
        shown: dict[str, Any] = {"engaged": self.engaged, "trusted": self.trusted, "live": live}
        shown |= {"episode": _told(newest[1], newest[2].flags) if newest and live else self._episode}
        if newest is not None:
            shown["gripper"] = newest[2].executed.gripper
        if shown != self._shown:
            self._write(json.dumps(shown))
            self._shown = shown
        if newest and live and self._looks % IMAGES_EVERY == 0:
            for camera, frame in newest[2].obs.frames.items():
                self._write(json.dumps({"frame": camera, "jpeg": base64.b64encode(_jpeg(frame)).decode()}))

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()


def _told(since_s: float, flags: SafetyFlag) -> str:
    slowed = ", ".join(str(flag.name).lower().replace("_", " ") for flag in flags)
    return f"recording {since_s:.0f} s" + (f", limited by {slowed}" if slowed else "")


def _jpeg(frame: RgbdFrame) -> bytes:
    bgr = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR)
    if (scale := IMAGE_WIDTH / bgr.shape[1]) < 1:
        bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()


@contextmanager
def _server(port: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process that serves the page, and its port. It ends with this context, and with this process however that ends."""
    with _listening(port) as listening:
        number = listening.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__name__}_server", str(listening.fileno())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process, number
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.close()


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise DeviceNotFound("browser", f"cannot listen on port {port} of 127.0.0.1 ({error})") from error
        return socket.create_server(("127.0.0.1", 0))
