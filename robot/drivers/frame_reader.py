"""A camera read by a thread: whoever asks gets the newest frame or an error at once, whatever the device is doing.

    open -> frames -> none for a while -> restart (a few times) -> reset -> DeviceFault: an operator must look

Once frames come again the ladder is left; it is climbed from its foot only after a longer time without trouble, so a
camera that dies every few seconds ends in a fault, too. Meanwhile `latest` raises StaleReading and the arm holds.
"""

import sys
import threading
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

from ..clock import Clock, MonotonicClock
from ..errors import ArmflowError, ConfigError, DeviceFault, DeviceTimeout, StaleReading
from ..types import CameraSpec, RgbdFrame

CHECK = "check cable, port and power of the camera"


@dataclass(frozen=True)
class ReaderCfg:
    """How patient a reader thread is."""

    wait_s: float = 0.2
    """Longest single wait for a frame; between waits the thread notices stalls and being told to stop."""
    stall_s: float = 1.0
    """Without a new frame for this long the stream is restarted."""
    first_frame_s: float = 4.0
    """The same for the first frame after opening: cameras take a while to start."""
    start_timeout_s: float = 20.0
    """Entering the context gives up when there is no frame after this long, restarts included."""
    restarts: int = 3
    """Restarts of the stream before the device is reset."""
    resets: int = 1
    """Resets of the device before it counts as faulty."""
    pause_s: float = 1.0
    """Between two attempts to open the device again."""
    reset_timeout_s: float = 15.0
    """A device that was reset may be gone for this long."""
    forgive_s: float = 30.0
    """After frames have come for this long, restarts and resets are counted from zero again."""
    stop_timeout_s: float = 5.0
    """Leaving the context raises DeviceFault when the thread has not ended after this long."""

    def __post_init__(self) -> None:
        for key in ("wait_s", "stall_s", "first_frame_s", "start_timeout_s", "stop_timeout_s"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"{key} must be positive, got {getattr(self, key)}")
        for key in ("restarts", "resets", "pause_s", "reset_timeout_s", "forgive_s"):
            if not getattr(self, key) >= 0:
                raise ConfigError(f"{key} must be zero or more, got {getattr(self, key)}")
        if self.wait_s > 0.5:
            raise ConfigError(
                f"wait_s must be at most 0.5 s, got {self.wait_s}: the thread would notice nothing meanwhile"
            )


@dataclass(frozen=True)
class FrameStats:
    """What a reader has seen since its context was entered."""

    frames: int = 0
    dropped: int = 0  # gaps in the frame number: lost on the way or replaced before they were read
    repeated: int = 0  # frames with the number of the one before, ignored
    refused: int = 0  # what came without being a frame, such as colour and depth of different instants
    stalls: int = 0  # times that frames stopped coming
    restarts: int = 0
    resets: int = 0


@dataclass(frozen=True)
class Refused:
    """Something came that must not be taken for a frame."""

    reason: str


class FrameSource(Protocol):
    """A device as the reader thread sees it; used by that thread alone."""

    def open(self) -> None:
        """Start streaming. DeviceTimeout says that trying again may help; other errors that it will not."""
        ...

    def read(self, timeout_s: float) -> RgbdFrame | Refused | None:
        """The next frame, copied; None if there is none within `timeout_s`. Errors as those of `open`."""
        ...

    def reset(self) -> None:
        """Reset the closed device as if it had been unplugged for a moment. It need not be back on return."""
        ...

    def close(self) -> None:
        """Stop streaming and release the device; does nothing if it is not open."""
        ...


class FrameReader:
    """Camera on a source. A context manager: entering waits for the first frame, leaving releases the device."""

    def __init__(self, spec: CameraSpec, source: FrameSource, cfg: ReaderCfg, clock: Clock | None = None) -> None:
        """`clock`: compared with `RgbdFrame.t`; None is the wall's monotonic clock."""
        self.spec = spec
        self._source, self._cfg = source, cfg
        self._clock = clock or MonotonicClock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()  # guards what follows
        self._frame: RgbdFrame | None = None
        self._number: int | None = None  # of the newest frame since the source was opened
        self._stats = FrameStats()
        self._refusal = ""  # why the newest thing that came was refused, until a frame comes
        self._trouble = ""  # what is being done about a stall
        self._died_of: BaseException | None = None

    @property
    def stats(self) -> FrameStats:
        with self._changed:
            return self._stats

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise DeviceFault(self.spec.name, "the camera is in use already; make another object to open it again")
        self._thread = threading.Thread(target=self._run, name=f"camera {self.spec.name}", daemon=True)
        self._thread.start()
        try:
            self._wait_for_first_frame()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(self._cfg.stop_timeout_s)
        if not self._thread.is_alive():
            return
        message = f"the device has not let go after {self._cfg.stop_timeout_s} s; end the program, then {CHECK}"
        if error is None:
            raise DeviceFault(self.spec.name, message)
        error.add_note(f"{self.spec.name}: {message}")

    def latest(self, *, max_age_s: float) -> RgbdFrame:
        """The newest frame; never waits. Raises StaleReading beyond `max_age_s` and for as long as the stream is being
        restarted; DeviceFault once that was in vain, or the thread has ended."""
        with self._changed:
            frame, trouble, refusal = self._frame, self._trouble, self._refusal
            self._check_thread()
        name, allowed = self.spec.name, f"allowed is {max_age_s} s"
        if frame is None:
            raise StaleReading(name, f"there has been no frame yet, {allowed}; {trouble or refusal or CHECK}")
        age = self._clock.now() - frame.t
        if trouble or age > max_age_s:
            todo = trouble or refusal or f"if this lasts, {CHECK}"
            raise StaleReading(name, f"newest frame is {age:.2f} s old, {allowed}; {todo}")
        return frame

    def _check_thread(self) -> None:
        name = self.spec.name
        if self._thread is None:
            raise DeviceFault(name, "the camera is not open; enter its context first (`with camera:`)")
        if isinstance(self._died_of, DeviceFault):
            raise DeviceFault(name, self._died_of.message) from self._died_of
        if self._died_of is not None or not self._thread.is_alive():
            why = f"{type(self._died_of).__name__}: {self._died_of}" if self._died_of else "its context was left"
            raise DeviceFault(name, f"nothing reads the camera any more ({why}); open it again") from self._died_of

    def _wait_for_first_frame(self) -> None:
        cfg = self._cfg
        with self._changed:
            self._changed.wait_for(lambda: self._frame or self._died_of, cfg.start_timeout_s)
            if isinstance(self._died_of, ArmflowError):
                raise self._died_of
            self._check_thread()
            if self._frame is None:
                why = self._trouble or self._refusal or CHECK
                raise DeviceTimeout(self.spec.name, f"no frame within {cfg.start_timeout_s} s of opening; {why}")

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            self._stream()
        except ArmflowError as error:
            self._end(error)
        finally:
            self._end(sys.exception())  # an error nobody foresaw is reported by the thread and by `latest`
            self._source.close()

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._died_of = self._died_of or error
            self._changed.notify_all()

    def _stream(self) -> None:
        cfg, rung, steady_since = self._cfg, 0, None
        try:
            self._source.open()
        except DeviceTimeout as error:
            rung = self._climb(0, error.message)
        deadline = self._clock.now() + cfg.first_frame_s
        while not self._stop.is_set():
            why = f"no new frame for {cfg.stall_s} s"
            try:
                read = self._source.read(cfg.wait_s)
            except DeviceTimeout as error:
                read, deadline, why = None, self._clock.now(), error.message
            if self._take(read):
                now = self._clock.now()
                deadline = now + cfg.stall_s
                steady_since = now if steady_since is None else steady_since
                rung = 0 if now - steady_since >= cfg.forgive_s else rung
            elif self._clock.now() >= deadline:
                steady_since = None
                rung = self._climb(rung, self._refusal or why)
                deadline = self._clock.now() + cfg.first_frame_s

    def _take(self, read: RgbdFrame | Refused | None) -> bool:
        """Whether it is a new frame."""
        if read is None:
            return False
        with self._changed:
            stats, last = self._stats, self._number
            if isinstance(read, Refused):
                self._stats, self._refusal = replace(stats, refused=stats.refused + 1), read.reason
                return False
            if read.frame_number == last:
                self._stats = replace(stats, repeated=stats.repeated + 1)
                return False
            gap = 0 if last is None else max(0, read.frame_number - last - 1)
            self._stats = replace(stats, frames=stats.frames + 1, dropped=stats.dropped + gap)
            self._frame, self._number, self._refusal, self._trouble = read, read.frame_number, "", ""
            self._changed.notify_all()
            return True

    def _climb(self, rung: int, why: str) -> int:
        """Open the source again, the harder the higher the rung. Returns the rung to go on from; raises DeviceFault."""
        cfg = self._cfg
        for step in range(rung, cfg.restarts + cfg.resets):
            hard = step >= cfg.restarts
            doing = f"resetting the camera, {step - cfg.restarts + 1} of {cfg.resets}" if hard else (
                f"restarting the stream, {step + 1} of {cfg.restarts}")  # fmt: skip
            self._note_attempt(f"{why}; {doing}", hard)
            self._source.close()
            try:
                if hard:
                    self._source.reset()
                self._open_again(cfg.reset_timeout_s if hard else 0.0)
            except ArmflowError as error:
                why = str(error)
            else:
                return step + 1
            if self._stop.wait(cfg.pause_s):
                return step + 1
        tried = f"{cfg.restarts} restarts and {cfg.resets} resets did not help"
        raise DeviceFault(self.spec.name, f"{why}; {tried}. Unplug the camera for 5 s, {CHECK}, then start again")

    def _note_attempt(self, trouble: str, hard: bool) -> None:
        with self._changed:
            self._number = None
            stats, new = self._stats, not self._trouble
            self._trouble = trouble
            self._stats = replace(
                stats, stalls=stats.stalls + new, resets=stats.resets + hard, restarts=stats.restarts + (not hard)
            )

    def _open_again(self, patience_s: float) -> None:
        """Open the source, trying again for `patience_s`: a device that was reset is not there for some seconds."""
        until = self._clock.now() + patience_s
        while True:
            try:
                return self._source.open()
            except ArmflowError:
                self._source.close()
                if self._clock.now() >= until or self._stop.wait(self._cfg.pause_s):
                    raise
