"""The reader thread on a scripted source: when it restarts, resets and gives up, and that callers never wait."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from armflow.robot.drivers.frame_reader import FrameReader, ReaderCfg, Refused
from armflow.robot.errors import ConfigError, DeviceFault, DeviceNotFound, DeviceTimeout, StaleReading
from armflow.robot.types import CameraSpec, RgbdFrame

SPEC = CameraSpec("head", 8, 6, 30.0, np.eye(3), np.zeros(5), 0.001, "scripted", np.eye(4))
CFG = ReaderCfg(
    wait_s=0.01, stall_s=0.2, first_frame_s=0.2, start_timeout_s=10.0, restarts=2, resets=1, pause_s=0.0,
    reset_timeout_s=0.5, stop_timeout_s=5.0,
)  # fmt: skip

Eventually = Callable[[Callable[[], bool]], None]


class ScriptedSource:
    """Gives frames unless `mute` or dead; `heals` says what brings it back to life."""

    def __init__(self, heals: str = "nothing") -> None:
        self.heals, self.alive, self.mute = heals, True, False
        self.calls: list[str] = []
        self.open_error: Exception | None = None
        self.read_error: Exception | None = None
        self.hangs = threading.Event()
        self.hangs.set()  # cleared: read waits for ever
        self.number = 0

    def open(self) -> None:
        self.calls.append("open")
        if self.open_error:
            raise self.open_error
        self.alive = self.alive or self.heals == "restart"
        self.number = 1000 * self.calls.count("open")  # as if many frames passed while nobody listened

    def read(self, timeout_s: float) -> RgbdFrame | Refused | None:
        self.hangs.wait()
        if self.read_error:
            raise self.read_error
        time.sleep(0.005)
        if self.mute or not self.alive:
            return None
        self.number += 1
        return RgbdFrame(time.monotonic(), self.number, np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.uint16))

    def reset(self) -> None:
        self.calls.append("reset")
        if self.heals != "reset":
            raise DeviceTimeout("head", "no answer to the reset")
        self.alive = True

    def close(self) -> None:
        self.calls.append("close")


def is_stale(reader: FrameReader) -> bool:
    try:
        reader.latest(max_age_s=1e9)
    except StaleReading:
        return True
    return False


def is_faulty(reader: FrameReader) -> bool:
    try:
        reader.latest(max_age_s=1e9)
    except StaleReading:
        return False
    except DeviceFault:
        return True
    return False


@pytest.mark.parametrize(("heals", "restarts", "resets"), [("restart", 1, 0), ("reset", 2, 1)])
def test_the_mildest_remedy_that_helps_is_taken(heals: str, restarts: int, resets: int, eventually: Eventually):
    source = ScriptedSource(heals)
    with FrameReader(SPEC, source, CFG) as reader:
        source.alive = False
        eventually(lambda: reader.stats.restarts + reader.stats.resets == restarts + resets and not is_stale(reader))
        assert (reader.stats.stalls, reader.stats.restarts, reader.stats.resets) == (1, restarts, resets)
        assert reader.stats.dropped == 0  # the device counts anew after opening, that is no gap


def test_a_device_that_nothing_helps_is_a_fault_and_left_alone(eventually: Eventually):
    source = ScriptedSource()
    with FrameReader(SPEC, source, CFG) as reader:
        source.alive = False
        eventually(lambda: is_faulty(reader))
        with pytest.raises(DeviceFault, match="no answer to the reset; 2 restarts and 1 resets did not help. Unplug"):
            reader.latest(max_age_s=1e9)
    assert source.calls == ["open", "close", "open", "close", "open", "close", "reset", "close"]


def test_trouble_that_keeps_coming_back_ends_in_a_fault(eventually: Eventually):
    """Each restart helps for a moment; counted from the foot of the ladder every time, this would go on for ever."""
    source = ScriptedSource("restart")
    with FrameReader(SPEC, source, CFG) as reader:
        for stall in range(1, 3):
            source.alive = False
            eventually(lambda n=stall: reader.stats.stalls == n and not is_stale(reader))
        source.alive = False
        eventually(lambda: is_faulty(reader))


@pytest.mark.slow
def test_trouble_long_ago_is_forgiven(eventually: Eventually):
    source = ScriptedSource("restart")
    with FrameReader(SPEC, source, replace(CFG, forgive_s=0.1)) as reader:
        for stall in range(1, 6):
            source.alive = False
            eventually(lambda n=stall: reader.stats.stalls == n and not is_stale(reader))
            frames = reader.stats.frames
            since = time.monotonic()
            eventually(lambda f=frames, t=since: reader.stats.frames > f + 3 and time.monotonic() > t + 0.3)
        assert reader.stats.restarts >= 5 and reader.stats.resets == 0


def test_a_hanging_device_keeps_nobody_waiting():
    source = ScriptedSource()
    reader = FrameReader(SPEC, source, replace(CFG, stop_timeout_s=0.2))
    try:
        with pytest.raises(DeviceFault, match="has not let go after 0.2 s"), reader:
            source.hangs.clear()
            time.sleep(0.1)
            start = time.monotonic()
            with pytest.raises(StaleReading, match="old, allowed is 0.01 s"):
                reader.latest(max_age_s=0.01)
            assert time.monotonic() - start < 1.0
    finally:
        source.hangs.set()


def test_a_fault_is_final_and_no_reason_to_restart(eventually: Eventually):
    source = ScriptedSource("restart")
    with FrameReader(SPEC, source, CFG) as reader:
        source.read_error = DeviceFault("head", "the lens cap is on; take it off")
        eventually(lambda: is_faulty(reader))
        with pytest.raises(DeviceFault, match="head: the lens cap is on"):
            reader.latest(max_age_s=1e9)
        assert reader.stats.restarts == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_a_fault(eventually: Eventually):
    source = ScriptedSource()
    with FrameReader(SPEC, source, CFG) as reader:
        source.read_error = ZeroDivisionError("a mistake of the driver")
        eventually(lambda: is_faulty(reader))
        with pytest.raises(DeviceFault, match="nothing reads the camera any more .ZeroDivisionError: a mistake"):
            reader.latest(max_age_s=1e9)
    assert source.calls[-1] == "close"


def test_errors_of_the_first_opening_are_raised_as_they_are():
    source = ScriptedSource()
    source.open_error = DeviceNotFound("head", "not there")
    with pytest.raises(DeviceNotFound, match="not there"), FrameReader(SPEC, source, CFG):
        pass
    assert source.calls == ["open", "close"]


def test_without_a_first_frame_entering_gives_up():
    source = ScriptedSource()
    source.mute = True
    cfg = replace(CFG, start_timeout_s=0.3, first_frame_s=60.0)
    with (
        pytest.raises(DeviceTimeout, match="no frame within 0.3 s of opening; check cable"),
        FrameReader(SPEC, source, cfg),
    ):
        pass
    assert source.calls == ["open", "close"]


@pytest.mark.parametrize("change", [{"wait_s": 1.0}, {"stall_s": 0.0}, {"restarts": -1}])
def test_impossible_patience_is_refused(change: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(change))):
        ReaderCfg(**change)


def test_a_frame_that_comes_twice_is_counted_as_repeated_and_not_as_new(eventually: Eventually):
    class Stuck(ScriptedSource):
        def read(self, timeout_s: float) -> RgbdFrame | Refused | None:
            frame = super().read(timeout_s)
            self.number = 1001  # of the one after: 1002, again and again
            return frame

    with FrameReader(SPEC, Stuck(), replace(CFG, stall_s=60.0)) as reader:
        eventually(lambda: reader.stats.repeated >= 3)
        assert reader.stats.frames == 2 and reader.latest(max_age_s=60.0).frame_number == 1002
