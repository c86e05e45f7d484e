"""Trivial in-memory doubles of everything the control loop talks to, with faults on order: for tests and rehearsals.

Nothing here moves like an arm or looks like a scene; for that there is the twin.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from . import fr3
from .clock import Clock
from .control import Decision, Step
from .errors import StaleReading
from .types import ArmCommand, ArmSpec, ArmState, CameraSpec, ControlMode, Floats, Observation, RgbdFrame


@dataclass(frozen=True)
class Fault:
    """From the `nth` call (0: the first) of a method on, raise `error`; a device that failed stays failed."""

    call: Literal["read", "command", "hold", "latest", "add", "abort"]
    nth: int
    error: BaseException


class _Script:
    """Counts calls and raises what is due."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults, self.calls = faults, Counter[str]()

    def enter(self, call: str) -> None:
        nth = self.calls[call]
        self.calls[call] += 1
        for fault in self._faults:
            if fault.call == call and nth >= fault.nth:
                raise fault.error


class FakeArm:
    """ArmDriver that is where it was told to be at once."""

    def __init__(
        self,
        clock: Clock,
        *,
        spec: ArmSpec = fr3.SPEC,
        q: Floats | None = None,
        clip_rad: float = np.inf,
        faults: Sequence[Fault] = (),
    ) -> None:
        """`q` (dof,) rad: where it starts; None is the middle of the joint range. `clip_rad`: longest move of a command."""
        self.spec = spec
        self._clock, self._clip_rad, self._script = clock, clip_rad, _Script(faults)
        self.q = (spec.q_min + spec.q_max) / 2 if q is None else np.array(q, dtype=np.float64)
        self.gripper = 1.0
        self.commands: list[ArmCommand] = []
        self.command_times: list[float] = []  # s, on the clock
        self.holding = False  # the last thing it was told is to hold

    @property
    def calls(self) -> Counter[str]:
        """How often each method was called."""
        return self._script.calls

    def read(self) -> ArmState:
        self._script.enter("read")
        zeros = np.zeros(self.spec.dof)
        return ArmState(self._clock.now(), self.q.copy(), zeros, zeros, self.gripper)

    def command(self, cmd: ArmCommand) -> ArmCommand:
        self._script.enter("command")
        self.q = np.clip(cmd.q, self.q - self._clip_rad, self.q + self._clip_rad)
        self.gripper, self.holding = cmd.gripper, False
        sent = ArmCommand(self.q.copy(), cmd.gripper)
        self.commands.append(sent)
        self.command_times.append(self._clock.now())
        return sent

    def hold(self) -> None:
        self._script.enter("hold")
        self.holding = True


class FakeCamera:
    """Camera whose frames show their number; it takes no new ones from `stalls_at` (s on the clock) on."""

    def __init__(
        self,
        clock: Clock,
        name: str = "head",
        *,
        width: int = 8,
        height: int = 6,
        fps: float = 30.0,
        stalls_at: float = np.inf,
        faults: Sequence[Fault] = (),
    ) -> None:
        K = np.array([[width, 0.0, (width - 1) / 2], [0.0, width, (height - 1) / 2], [0.0, 0.0, 1.0]])
        self.spec = CameraSpec(name, width, height, fps, K, np.zeros(5), 0.001, f"fake-{name}", np.eye(4))
        self._clock, self._stalls_at, self._script = clock, stalls_at, _Script(faults)
        self._start = clock.now()

    @property
    def calls(self) -> Counter[str]:
        """How often each method was called."""
        return self._script.calls

    def latest(self, *, max_age_s: float) -> RgbdFrame:
        self._script.enter("latest")
        now = self._clock.now()
        number = int((min(now, self._stalls_at) - self._start) * self.spec.fps + 1e-9)
        t = self._start + number / self.spec.fps
        if now - t > max_age_s:
            raise StaleReading(self.spec.name, f"newest frame is {now - t:.2f} s old, allowed is {max_age_s} s")
        shape = (self.spec.height, self.spec.width)
        rgb, depth_mm = np.full((*shape, 3), number % 256, np.uint8), np.full(shape, 1000, np.uint16)
        return RgbdFrame(t, number, rgb, depth_mm)


class FakeSource:
    """CommandSource that asks `decide`; without one it wants the arm to stay where it is."""

    def __init__(
        self, decide: Callable[[Observation], ArmCommand | None] | None = None, *, frames: bool = False
    ) -> None:
        """`frames`: whether it wants to look at images."""
        self._decide, self._frames = decide or _stay, frames
        self.seen: list[Observation] = []

    def wants_frames(self) -> bool:
        return self._frames

    def next(self, obs: Observation) -> Decision | None:
        self.seen.append(obs)
        command = self._decide(obs)
        return None if command is None else Decision(command, ControlMode.HUMAN)


def _stay(obs: Observation) -> ArmCommand:
    return ArmCommand(obs.arm.q.copy(), obs.arm.gripper)


class FakeSink:
    """StepSink that keeps everything in memory."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self._script = _Script(faults)
        self.steps: list[Step] = []
        self.aborted: str | None = None  # why

    def add(self, step: Step) -> None:
        self._script.enter("add")
        self.steps.append(step)

    def abort(self, reason: str) -> None:
        self._script.enter("abort")
        self.aborted = reason
