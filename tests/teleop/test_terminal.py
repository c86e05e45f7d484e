"""Keys from a terminal, on real pseudo-terminals: what is typed arrives as over SSH, and what stays behind is looked at."""

import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from armflow.robot.clock import SimClock
from armflow.robot.errors import ConfigError, DeviceFault, DeviceNotFound
from armflow.robot.types import ArmState
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.keys import SPEED_M_S, TURN_RAD_S
from armflow.teleop.terminal import ESCAPE_S, HOLD_S, KeyBytes, TerminalDevice

Delta = Callable[[TeleopInput], ToolDelta]
AtRest = Callable[[TeleopInput], bool]

HZ = 10.0
STATE = ArmState(0.0, np.zeros(7), np.zeros(7), np.zeros(7), 1.0)
STEP_M, TURN_RAD = SPEED_M_S / HZ, TURN_RAD_S / HZ
PATIENCE_S = 20.0  # the machine may be busy
LFLAG = 3  # its place in what tcgetattr gives


class Pty:
    """Both ends of a pseudo-terminal: the test types at one, the device reads at the other."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.path = Path(os.ttyname(self.slave))
        self.sent = 0

    def type(self, keys: bytes) -> None:
        self.sent += len(keys)
        os.write(self.master, keys)

    def settings(self) -> list:
        return termios.tcgetattr(self.slave)

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = -1

    def close(self) -> None:
        for end in (self.master, self.slave):
            if end >= 0:
                os.close(end)


class Counting(TerminalDevice):
    """Says how many bytes its thread has taken in."""

    def __init__(self, control_hz: float, terminal: Path, now: Callable[[], float]) -> None:
        super().__init__(control_hz, terminal, now)
        self.heard = 0
        feed = self._keys.feed

        def counted(data: bytes, now_s: float) -> list[str]:
            try:
                return feed(data, now_s)
            finally:
                self.heard += len(data)

        self._keys.feed = counted

    def wait_for(self, pty: Pty) -> None:
        """Until everything that was typed has been taken in."""
        until(lambda: self.heard == pty.sent)
        with self._time_lock:  # the thread holds it until it has pressed the keys
            pass


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def pty() -> Iterator[Pty]:
    pty = Pty()
    yield pty
    pty.close()


@pytest.fixture
def terminal(pty: Pty, clock: SimClock) -> Iterator[Counting]:
    """Open, with time that passes when it is told to."""
    with Counting(HZ, pty.path, clock.now) as opened:
        yield opened


Type = Callable[[bytes], TeleopInput]


@pytest.fixture
def typed(pty: Pty, terminal: Counting) -> Type:
    """typed(keys): what the device says as soon as they are heard."""

    def _typed(keys: bytes) -> TeleopInput:
        pty.type(keys)
        terminal.wait_for(pty)
        return terminal.read(STATE)

    return _typed


# --- hold to run


def test_nobody_at_the_terminal_wants_nothing(terminal: Counting, at_rest: AtRest) -> None:
    wish = terminal.read(STATE)
    assert (wish.engaged, wish.event, wish.gripper) == (False, None, 1.0)
    assert at_rest(wish)


def test_only_with_shift_the_arm_is_engaged(typed: Type, clock: SimClock) -> None:
    assert not typed(b"w").engaged
    clock.sleep_until(1.0)
    assert typed(b"W").engaged


def test_a_key_counts_as_held_for_the_stated_time_and_no_longer(
    typed: Type, terminal: Counting, clock: SimClock, at_rest: AtRest
) -> None:
    assert typed(b"W").engaged
    clock.sleep_until(0.95 * HOLD_S)
    wish = terminal.read(STATE)
    assert wish.engaged and not at_rest(wish)
    clock.sleep_until(1.05 * HOLD_S)
    wish = terminal.read(STATE)
    assert not wish.engaged and at_rest(wish)
    assert HOLD_S <= 0.2


def test_repeats_keep_a_key_held(typed: Type, terminal: Counting, clock: SimClock, delta: Delta) -> None:
    for _ in range(20):
        clock.sleep_until(clock.now() + 0.092)  # a Linux console's
        wish = typed(b"W")
        assert wish.engaged
        assert delta(wish).translation_m[0] == pytest.approx(STEP_M)
    clock.sleep_until(clock.now() + 1.05 * HOLD_S)
    assert not terminal.read(STATE).engaged


def test_repeats_that_waited_in_a_queue_count_once(
    typed: Type, terminal: Counting, clock: SimClock, delta: Delta
) -> None:
    assert delta(typed(b"W" * 100)).translation_m[0] == pytest.approx(STEP_M)
    clock.sleep_until(1.05 * HOLD_S)
    assert not terminal.read(STATE).engaged


def test_what_was_held_while_nobody_read_is_not_held_any_more(
    pty: Pty, terminal: Counting, clock: SimClock, at_rest: AtRest
) -> None:
    pty.type(b"W ")
    terminal.wait_for(pty)
    clock.sleep_until(10.0)
    wish = terminal.read(STATE)
    assert not wish.engaged and at_rest(wish)


def test_a_control_rate_at_which_presses_would_be_missed_is_refused() -> None:
    with pytest.raises(ConfigError, match="terminal: a key counts as held for 0.2 s, so control at 4 Hz would miss"):
        TerminalDevice(4.0)


# --- keys


@pytest.mark.parametrize(
    ("key", "move", "turn"),
    [
        (b"W", (1, 0, 0), 0), (b"S", (-1, 0, 0), 0),
        (b"A", (0, 1, 0), 0), (b"D", (0, -1, 0), 0),
        (b"R", (0, 0, 1), 0), (b"F", (0, 0, -1), 0),
        (b"Q", (0, 0, 0), 1), (b"E", (0, 0, 0), -1),
    ],
)  # fmt: skip
def test_a_key_moves_or_turns_the_tool_as_on_a_keyboard(
    typed: Type, key: bytes, move: tuple[int, ...], turn: int, delta: Delta
) -> None:
    wished = delta(typed(key))
    np.testing.assert_allclose(wished.translation_m, STEP_M * np.array(move))
    np.testing.assert_allclose(wished.rotation_rad, (0, 0, TURN_RAD * turn))


def test_space_toggles_the_gripper_once_however_long_it_is_held(typed: Type, clock: SimClock, at_rest: AtRest) -> None:
    openings = []
    for _ in range(3):
        for _ in range(10):
            clock.sleep_until(clock.now() + 0.05)
            wish = typed(b" ")
            assert wish.engaged and at_rest(wish)
            openings.append(wish.gripper)
        clock.sleep_until(clock.now() + 1.0)
    assert openings == [0] * 10 + [1] * 10 + [0] * 10


def test_two_presses_of_space_while_nobody_reads_are_two(pty: Pty, terminal: Counting, clock: SimClock) -> None:
    for _ in range(2):
        pty.type(b" ")
        terminal.wait_for(pty)
        clock.sleep_until(clock.now() + 1.0)
    assert terminal.read(STATE).gripper == 1.0


@pytest.mark.parametrize(
    ("key", "event"),
    [
        (b"\r", TeleopEvent.SUCCESS),
        (b"\n", TeleopEvent.SUCCESS),
        (b"x", TeleopEvent.FAILURE),
        (b"X", TeleopEvent.FAILURE),
    ],
)
def test_an_event_is_told_once(typed: Type, terminal: Counting, key: bytes, event: TeleopEvent) -> None:
    assert typed(key).event is event
    assert terminal.read(STATE).event is None


def test_escape_is_a_key_when_nothing_follows_it(typed: Type, terminal: Counting, clock: SimClock) -> None:
    assert typed(b"\x1b").event is None
    clock.sleep_until(1.1 * ESCAPE_S)
    events: list[TeleopEvent | None] = []
    until(lambda: bool(events.append(terminal.read(STATE).event) or any(events)))
    assert [event for event in events if event] == [TeleopEvent.DISCARD]


OTHER_KEYS = pytest.mark.parametrize(
    "sequence",
    [
        b"\x1b[A",  # arrow up: ends in the letter of a move
        b"\x1b[D",
        b"\x1bOQ",  # F2
        b"\x1b[15~",  # F5
        b"\x1b[1;2A",  # shift and arrow up
        b"\x1bW",  # alt and W
        b"\x1b\r",
        b"\x1b\x1b[A",  # alt and arrow up, on some terminals
        b"\xc3\x84",  # A with an umlaut
        b"\x01\x7f\t",
        b"2m",
    ],
)


@OTHER_KEYS
def test_other_keys_mean_nothing(
    typed: Type, terminal: Counting, clock: SimClock, sequence: bytes, at_rest: AtRest
) -> None:
    wish = typed(sequence)
    assert (wish.engaged, wish.event, wish.gripper) == (False, None, 1.0)
    assert at_rest(wish)
    clock.sleep_until(2 * ESCAPE_S)
    time.sleep(0.1)  # several rounds of the thread
    assert terminal.read(STATE).event is None


@OTHER_KEYS
def test_other_keys_do_not_swallow_the_next_one(sequence: bytes) -> None:
    keys = KeyBytes()
    assert set(keys.feed(sequence, 0.0)) <= {"2", "m"}
    assert keys.feed(b"x", 0.01) == ["x"]


def test_a_sequence_that_comes_in_pieces_is_put_together() -> None:
    keys = KeyBytes()
    heard = [
        keys.feed(piece, t) for piece, t in ((b"\x1b", 9.0), (b"", 9.05), (b"[1;", 9.06), (b"", 9.15), (b"2Ax", 9.16))
    ]
    assert heard == [[], [], [], [], ["x"]]


def test_a_sequence_that_never_ends_is_dropped() -> None:
    keys = KeyBytes()
    assert keys.feed(b"\x1b[1", 0.0) == []
    assert keys.feed(b"", 1.1 * ESCAPE_S) == []
    assert keys.feed(b"x", 1.2 * ESCAPE_S) == ["x"]


def test_a_held_escape_key_is_heard() -> None:
    keys = KeyBytes()
    assert keys.feed(b"\x1b\x1b\x1b", 0.0) == ["esc", "esc"]
    assert keys.feed(b"", 1.1 * ESCAPE_S) == ["esc"]


def test_a_new_episode_forgets_what_was_said_about_the_last_one(pty: Pty, terminal: Counting) -> None:
    pty.type(b"\r ")
    terminal.wait_for(pty)
    terminal.start_episode(0.25)
    wish = terminal.read(STATE)
    assert (wish.event, wish.gripper) == (None, 0.25)


# --- the terminal itself


def test_keys_come_at_once_and_without_an_echo(pty: Pty, typed: Type) -> None:
    assert typed(b"W").engaged
    os.set_blocking(pty.master, False)
    with pytest.raises(BlockingIOError):
        os.read(pty.master, 1)


def test_the_terminal_is_as_before_after_the_session(pty: Pty, clock: SimClock) -> None:
    before = pty.settings()
    with TerminalDevice(HZ, pty.path, clock.now):
        assert not pty.settings()[LFLAG] & (termios.ICANON | termios.ECHO)
    assert pty.settings() == before


def test_what_was_typed_and_not_read_does_not_reach_the_shell(pty: Pty, clock: SimClock) -> None:
    with TerminalDevice(HZ, pty.path, clock.now) as terminal:
        terminal._reader.close()
        pty.type(b"WWWW\r")
    os.set_blocking(pty.slave, False)
    with pytest.raises(BlockingIOError):
        os.read(pty.slave, 100)


def test_ctrl_z_is_an_ordinary_key(typed: Type) -> None:
    """A stopped loop would hold no arm. While it means "stop", the terminal does not pass it on."""
    assert not typed(b"\x1a").engaged


def test_the_terminal_is_as_before_after_an_exception(pty: Pty, clock: SimClock) -> None:
    before = pty.settings()
    with pytest.raises(DeviceFault, match="of the arm"), TerminalDevice(HZ, pty.path, clock.now):
        raise DeviceFault("of the arm", "stopped")
    assert pty.settings() == before


def test_others_signal_handlers_stay_and_ours_go(pty: Pty, clock: SimClock) -> None:
    def handler(number: int, frame: object) -> None: ...

    old = signal.signal(signal.SIGTERM, handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with TerminalDevice(HZ, pty.path, clock.now):
            assert signal.getsignal(signal.SIGTERM) is handler
            assert callable(signal.getsignal(signal.SIGHUP))
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, old[0])
        signal.signal(signal.SIGHUP, old[1])


def test_a_terminal_that_hangs_up_is_a_fault(pty: Pty, clock: SimClock) -> None:
    """As when an ssh connection ends. Giving back a terminal that is gone is no further error."""
    with TerminalDevice(HZ, pty.path, clock.now) as terminal:
        pty.type(b"W")
        pty.hang_up()

        def fault() -> bool:
            try:
                terminal.read(STATE)
            except DeviceFault as error:
                return "terminal: its reader stopped" in str(error) and "start the session again" in str(error)
            return False

        until(fault)


@pytest.mark.parametrize("path", ["/dev/null", "no_such_terminal"])
def test_without_a_terminal_the_message_says_what_to_do(path: str) -> None:
    with pytest.raises(DeviceNotFound, match=f"terminal: {path} is no terminal that can be read .*`ssh -t`"):
        TerminalDevice(HZ, Path(path)).__enter__()


# --- a process with a terminal of its own

SESSION = """
import os, signal, sys, time
for number in (signal.SIGHUP, signal.SIGTERM):  # whoever runs the tests in the background may have these ignored
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
os.close(os.open(os.ttyname(0), os.O_RDWR))  # the first one that a session's leader opens becomes the controlling one
from armflow.robot.errors import DeviceFault
from armflow.teleop.terminal import TerminalDevice

class NeverClosed(TerminalDevice):
    def __exit__(self, *error):
        pass

with (NeverClosed if "without exit" in sys.argv else TerminalDevice)(10.0) as terminal:
    print("ready", flush=True)
    while True:
        try:
            wish = terminal.read(None)
        except DeviceFault:
            sys.exit(7)
        if wish.engaged:
            print("engaged", flush=True)
        if wish.event is not None:
            print(wish.event.name, flush=True)
            if "raise" in sys.argv:
                raise RuntimeError("at the end")
            break
        time.sleep(0.02)
"""


class Session:
    """A process that has a pseudo-terminal as its controlling one, as a login over ssh has."""

    def __init__(self, pty: Pty, *arguments: str) -> None:
        self.pty, self.before, self.output = pty, pty.settings(), b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", SESSION, *arguments],
            stdin=pty.slave, stdout=pty.slave, stderr=pty.slave, start_new_session=True,
        )  # fmt: skip

    def wait_for(self, text: bytes) -> None:
        end = time.monotonic() + PATIENCE_S
        while text not in self.output:
            assert time.monotonic() < end, self.output
            if select.select([self.pty.master], [], [], 0.1)[0]:
                self.output += os.read(self.pty.master, 4096)

    def end(self) -> int:
        """Its exit status, or minus the signal that it died of."""
        return self.process.wait(PATIENCE_S)

    def restored(self) -> bool:
        return self.pty.settings() == self.before


@pytest.fixture
def session(request: pytest.FixtureRequest, pty: Pty) -> Iterator[Session]:
    """Ready to hear keys."""
    session = Session(pty, *getattr(request, "param", ()))
    session.wait_for(b"ready")
    assert not session.restored()
    yield session
    session.process.kill()
    session.process.wait()


def test_a_person_at_a_controlling_terminal(session: Session) -> None:
    session.pty.type(b"W")
    session.wait_for(b"engaged")
    session.pty.type(b"\r")
    session.wait_for(b"SUCCESS")
    assert session.end() == 0
    assert session.restored()


@pytest.mark.parametrize("session", [("raise",), ("raise", "without exit")], indirect=True, ids=" ".join)
def test_an_exception_leaves_the_terminal_as_it_was(session: Session) -> None:
    """Also one of a programme that never closes the device."""
    session.pty.type(b"x")
    session.wait_for(b"at the end")
    assert session.end() == 1
    assert session.restored()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(session: Session, number: signal.Signals) -> None:
    session.process.send_signal(number)
    assert session.end() == (-number if number is signal.SIGINT else 128 + number)
    assert session.restored()


def test_ctrl_c_ends_it(session: Session) -> None:
    session.pty.type(b"\x03")
    assert session.end() == -signal.SIGINT
    assert session.restored()
