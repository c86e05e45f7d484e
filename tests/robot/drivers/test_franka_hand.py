"""The hand sends on change only, grasps when it closes, never blocks its caller and keeps what went wrong."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from armflow.robot.drivers.franka_hand import FrankaHand, HandCfg
from armflow.robot.errors import ConfigError, DeviceFault, OperatorNeeded, StaleReading


@dataclass
class State:
    width: float
    max_width: float = 0.08


class Port:
    """A gripper that is where it is told to be, once `go` is set; everything that was called is in `calls`."""

    def __init__(self) -> None:
        self._state, self.calls = State(0.08), list[tuple[str, float]]()
        self.go, self.talks = threading.Event(), threading.Event()
        self.go.set()
        self.talks.set()
        self.fail: Exception | None = None

    @property
    def state(self) -> State:
        time.sleep(0.005)
        self.talks.wait(5)
        return self._state

    def move(self, width: float, speed: float) -> bool:
        return self._do("move", width)

    def grasp(
        self, width: float, speed: float, force: float, epsilon_inner: float = 0.005, epsilon_outer: float = 0.005
    ) -> bool:
        return self._do("grasp", width)

    def _do(self, what: str, width: float) -> bool:
        if self.fail is not None:
            raise self.fail
        self.calls.append((what, round(width, 6)))
        self.go.wait(5)
        self._state = State(width)
        return True


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def hand(port: Port) -> Iterator[FrankaHand]:
    with FrankaHand("arm", port, time.monotonic) as hand:
        yield hand
        port.go.set()
        port.talks.set()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_it_closes_by_grasping_and_opens_by_moving(hand: FrankaHand, port: Port):
    assert hand.read() == 1.0
    hand.command(0.0)
    wait_until(lambda: hand.read() == 0.0)
    hand.command(0.6)
    wait_until(lambda: hand.read() == pytest.approx(0.6))
    hand.command(1.0)
    wait_until(lambda: hand.read() == 1.0)
    assert port.calls == [("grasp", 0.0), ("move", 0.048), ("move", 0.08)]


def test_it_sends_only_changes_beyond_the_hysteresis_and_both_ends(hand: FrankaHand, port: Port):
    for opening in (1.0, 0.99, 0.95, 0.93, 1.0):
        hand.command(opening)
    time.sleep(0.1)
    assert port.calls == []
    hand.command(0.8)
    wait_until(lambda: port.calls == [("move", 0.064)])
    for opening in (0.85, 0.75):
        hand.command(opening)
    time.sleep(0.1)
    hand.command(1.0)
    wait_until(lambda: port.calls == [("move", 0.064), ("move", 0.08)])


def test_a_grasp_is_not_repeated_while_the_command_sinks_on(hand: FrankaHand, port: Port):
    hand.command(0.4)
    wait_until(lambda: port.calls == [("grasp", 0.032)])
    for opening in (0.3, 0.1, 0.0):
        hand.command(opening)
    time.sleep(0.1)
    assert port.calls == [("grasp", 0.032)]


def test_a_caller_never_waits_and_the_newest_opening_wins(hand: FrankaHand, port: Port):
    port.go.clear()
    start = time.monotonic()
    hand.command(0.0)
    wait_until(lambda: port.calls)
    for opening in (0.7, 0.9, 1.0):
        hand.command(opening)
    hand.read()
    assert time.monotonic() - start < 2
    port.go.set()
    wait_until(lambda: len(port.calls) == 2)
    assert port.calls[1] == ("move", 0.08)


def test_hold_forgets_what_was_not_sent_yet(hand: FrankaHand, port: Port):
    port.go.clear()
    hand.command(0.0)
    wait_until(lambda: port.calls)
    hand.command(1.0)
    hand.hold()
    hand.hold()
    port.go.set()
    time.sleep(0.1)
    assert port.calls == [("grasp", 0.0)]


def test_what_the_sdk_raises_is_raised_by_every_later_call(hand: FrankaHand, port: Port):
    port.fail = RuntimeError("Command failed!")
    hand.command(0.0)
    for call in (hand.read, lambda: hand.command(1.0), hand.read):
        wait_until(lambda: hand._sender.failed)
        with pytest.raises(DeviceFault, match="its hand stopped: RuntimeError\\('Command failed!'\\)"):
            call()


def test_a_silent_hand_is_an_error(hand: FrankaHand, port: Port):
    hand.read()
    port.talks.clear()
    time.sleep(0.6)
    with pytest.raises(StaleReading, match="allowed is 0.5 s"):
        hand.read()


def test_a_hand_that_was_not_homed_is_refused(port: Port):
    port._state = State(0.0, max_width=0.0)
    with pytest.raises(OperatorNeeded, match="home it in Desk"):
        FrankaHand("arm", port, time.monotonic)


def test_forces_and_openings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="70 N"):
        HandCfg(force_n=200)
    with pytest.raises(ConfigError, match="grasp_below"):
        HandCfg(grasp_below=2)
