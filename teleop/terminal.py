"""Keys from the controlling terminal: for SSH and Wayland, where no other keyboard is heard. The keys: `keys.py`.

Hold shift with a letter (W A S D R F Q E): only capitals move the arm. Space works alone. One direction at a time.

A terminal tells presses and their repeats but no release, so a key counts as held until `HOLD_S` after its last repeat.
That makes this dead-man weaker than the others, and slower by whatever the connection takes: once let go of, the tool
goes on for up to 0.2 s, which is 2.4 cm. A first press moves it as far, then it waits for the keyboard to begin to
repeat. When the connection stalls, the arm stops after that time, too; what was typed meanwhile arrives late and moves it
for that time once. Caps lock is taken for shift, but a letter has to be held all the same.
"""

import atexit
import os
import re
import select
import signal
import termios
import threading
import time
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from ..robot.errors import ConfigError, DeviceNotFound
from ..robot.types import ArmState
from .device import TeleopInput
from .keys import HeldKeys
from .reader import reader

HOLD_S = 0.2  # a Linux console repeats every 92 ms, X every 40; the rest is for a connection that is not even
ESCAPE_S = 0.1  # bytes of an arrow key come together; an escape that stays alone for so long is the key
POLL_MS = 20
# An escape sequence (arrow and function keys, alt with a letter), or one byte that is not the beginning of one.
TOKEN = re.compile(rb"\x1b(?:\x1b?\[[0-?]*[ -/]*[@-~]|O.|(?=\x1b)|[^\x1b\[O])|[^\x1b]", re.DOTALL)
NAMES = {b"\r": ["enter"], b"\n": ["enter"], b" ": ["shift", "space"], b"\x1b": ["esc"]}


class TerminalDevice(HeldKeys):
    """HandDevice. The terminal is put back as it was however the session ends, by an exception and SIGTERM, too.

    Not by SIGKILL: `stty sane` does it then. Ctrl-C ends the session; ctrl-Z is off, a stopped loop holds no arm.
    """

    name = "terminal"
    usage = "hold shift and a letter to move; enter, x or esc to end"

    def __init__(
        self, control_hz: float, terminal: Path = Path("/dev/tty"), now: Callable[[], float] = time.monotonic
    ) -> None:
        """`terminal`: the controlling one by default. `now`: monotonic, s."""
        super().__init__(control_hz)
        if control_hz * HOLD_S <= 1:
            raise ConfigError(
                f"terminal: a key counts as held for {HOLD_S:g} s, so control at {control_hz:g} Hz would miss presses; "
                f"more than {1 / HOLD_S:g} Hz are needed, or another device"
            )
        self._path, self._now = terminal, now
        self._keys = KeyBytes()
        self._time_lock = threading.Lock()
        self._pressed_at: dict[str, float] = {}  # s, of the last repeat
        self._saved: list[Any] | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_NOCTTY)
            self._saved = termios.tcgetattr(self._fd)
        except (OSError, termios.error) as error:
            raise DeviceNotFound(
                self.name,
                f"{self._path} is no terminal that can be read ({error}); run this in one, over SSH with `ssh -t`",
            ) from error
        atexit.register(self._restore)
        self._end_properly_on_signals()
        tty.setcbreak(self._fd)
        changed = termios.tcgetattr(self._fd)
        changed[6][termios.VSUSP] = bytes([os.fpathconf(self._fd, "PC_VDISABLE")])
        termios.tcsetattr(self._fd, termios.TCSANOW, changed)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._reader = reader(self.name, self._listen)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._reader.close()
        finally:
            self._restore()
            atexit.unregister(self._restore)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            os.close(self._fd)

    def read(self, state: ArmState) -> TeleopInput:
        """What the held keys ask for. Raises DeviceFault if the terminal is gone."""
        self._reader.check()
        with self._time_lock:
            self._let_go(self._now())
        return self.wish()

    def _listen(self) -> None:
        data = b""
        if self._poll.poll(POLL_MS):
            data = os.read(self._fd, 1024)
            if not data:
                raise OSError("the terminal has hung up")
        with self._time_lock:
            now = self._now()
            self._let_go(now)
            for key in self._keys.feed(data, now):
                self._pressed_at[key] = now
                self.press(key)

    def _let_go(self, now: float) -> None:
        for key in [k for k, at in self._pressed_at.items() if now - at > HOLD_S]:
            del self._pressed_at[key]
            self.release(key)

    def _end_properly_on_signals(self) -> None:
        """Python dies of these without cleaning up. Handlers of somebody else stay, and threads cannot set any."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                self._handlers[number] = signal.signal(number, _end)

    def _restore(self) -> None:
        """Idempotent. What was typed and not read goes nowhere: it was not meant for the shell."""
        if self._saved is not None:
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
                termios.tcflush(self._fd, termios.TCIFLUSH)
            self._saved = None


class KeyBytes:
    """What a terminal sends into names of keys; a capital is shift and its letter. Escape sequences are no keys."""

    def __init__(self) -> None:
        self._begun, self._begun_s = b"", 0.0  # of an escape sequence, or the escape key

    def feed(self, data: bytes, now_s: float) -> list[str]:
        """Keys pressed, in order; also without data, because the escape key is known by the silence after it."""
        if not data:
            if not self._begun or now_s - self._begun_s <= ESCAPE_S:
                return []
            alone, self._begun = self._begun == b"\x1b", b""
            return ["esc"] if alone else []
        data = self._begun + data
        keys, end = list[str](), 0
        while match := TOKEN.match(data, end):
            keys += _names(match[0])
            end = match.end()
        self._begun, self._begun_s = data[end:], now_s
        return keys


def _names(token: bytes) -> list[str]:
    if token in NAMES:
        return NAMES[token]
    if len(token) > 1 or not token.isalpha():
        return []
    return ["shift", token.decode().lower()] if token.isupper() else [token.decode()]


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
