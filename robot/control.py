"""The one control loop: teleoperation, rollouts, deployment and dry runs all pass through `run_episode`.

tick -> observe -> source.next -> safety -> arm.command -> sink.add
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from .arm import ArmDriver
from .black_box import BlackBox, Moment
from .camera import Camera
from .clock import Clock
from .errors import ArmflowError, StaleReading
from .safety import SafetyFilter
from .types import ArmCommand, ControlMode, Observation, SafetyFlag

RETRY_S = 0.02  # between two attempts to get a fresh reading


@dataclass(frozen=True, eq=False)
class Decision:
    """A source's answer to one observation."""

    command: ArmCommand
    mode: ControlMode
    chunk_index: int = 0  # counts the policy's chunks within the episode
    chunk_step: int = 0  # position within the chunk
    t: float | None = None  # s, when the observation it is based on was taken; None: it is the one just given


class CommandSource(Protocol):
    """Whoever decides: a person with a teleop device, a script or a policy."""

    def wants_frames(self) -> bool:
        """Whether the next `next` will look at images (rendering or copying them costs time)."""
        ...

    def next(self, obs: Observation) -> Decision | None:
        """Decide, or end the episode with None."""
        ...


@dataclass(frozen=True, eq=False)
class Step:
    """All that happened in one tick."""

    obs: Observation
    requested: ArmCommand
    executed: ArmCommand
    flags: SafetyFlag
    decision: Decision


@runtime_checkable
class StepSink(Protocol):
    """Where steps go: a recorder, a live view."""

    def add(self, step: Step) -> None: ...

    def abort(self, reason: str) -> None:
        """The episode failed; keep what can be kept, but never as a finished episode."""
        ...


@dataclass(frozen=True)
class EpisodeEnd:
    """Why an episode ended. A time limit truncates; success and failure terminate."""

    reason: str
    terminated: bool
    success: bool | None  # None: nobody has judged yet


@dataclass(frozen=True)
class LoopStats:
    """How well the loop kept its rate; periods in s."""

    steps: int  # commands executed: the frames that a recorder gets
    overruns: int  # slots of the schedule that had passed before the previous tick was done; they are skipped
    period_p99_error_s: float
    period_max_error_s: float
    limited: int = 0  # commands that the safety filter changed


@dataclass(frozen=True)
class EpisodeResult:
    end: EpisodeEnd
    stats: LoopStats


@dataclass(frozen=True)
class LoopCfg:
    fps: float = 10.0
    """Control and recording rate, Hz."""
    max_steps: int = 150
    """Time limit, in ticks."""
    max_frame_age_s: float = 0.2
    """A camera frame older than this is stale."""
    stale_hold_s: float = 0.5
    """While a reading is stale the arm holds; after this long the episode is stopped."""


Monitor = Callable[[Observation], EpisodeEnd | None]
"""Judges the world before each decision; returns None while the episode goes on."""


def run_episode(
    *,
    arm: ArmDriver,
    cameras: Mapping[str, Camera],
    source: CommandSource,
    safety: SafetyFilter,
    clock: Clock,
    cfg: LoopCfg,
    monitor: Monitor | None = None,
    sinks: tuple[StepSink, ...] = (),
    black_box: BlackBox | None = None,
) -> EpisodeResult:
    """Drive one episode on an absolute schedule. On any exception the arm holds, the black box is written, sinks abort, and
    it is raised on."""
    box = black_box or BlackBox()
    box.start(arm.spec, cfg.fps)
    try:
        return _loop(arm, cameras, source, safety, clock, cfg, monitor, sinks, box)
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        _clean_up(error, "the arm did not take the hold", arm.hold)
        _clean_up(error, "the black box could not be written", partial(box.write, reason))
        for sink in sinks:
            _clean_up(error, "a sink could not abort", partial(sink.abort, reason))
        raise


def _clean_up(error: BaseException, failure: str, action: Callable[[], object]) -> None:
    """Do `action` whatever the state of the others: `error` stays the one to report, a new one becomes a note on it."""
    try:
        action()
    except (ArmflowError, OSError) as another:
        error.add_note(f"{failure}: {another}")


def _loop(
    arm: ArmDriver,
    cameras: Mapping[str, Camera],
    source: CommandSource,
    safety: SafetyFilter,
    clock: Clock,
    cfg: LoopCfg,
    monitor: Monitor | None,
    sinks: tuple[StepSink, ...],
    black_box: BlackBox,
) -> EpisodeResult:
    period = 1.0 / cfg.fps
    safety.reset(arm.read())
    start, slot = clock.now(), 0
    tick_times: list[float] = []
    steps = overruns = limited = 0
    end = EpisodeEnd("time limit", terminated=False, success=None)
    for _ in range(cfg.max_steps):
        clock.sleep_until(start + slot * period)
        tick_times.append(clock.now())
        with_frames = bool(sinks) or source.wants_frames()
        obs, held = _observe_or_hold(arm, cameras if with_frames else {}, clock, cfg)
        if held:
            safety.reset(obs.arm)  # it stands somewhere on its way: engage anew from there
        moment = black_box.add(Moment(obs.t, obs.arm))
        if monitor is not None and (judged := monitor(obs)) is not None:
            end = judged
            break
        decision = source.next(obs)
        if decision is None:
            end = EpisodeEnd("source ended", terminated=False, success=None)
            break
        moment.requested = decision.command
        moment.age_s = clock.now() - (obs.t if decision.t is None else decision.t)
        filtered = safety(decision.command, obs.arm, period, moment.age_s)
        moment.filtered, moment.flags = filtered.command, filtered.flags
        limited += filtered.flags != SafetyFlag.NONE
        executed = moment.sent = arm.command(filtered.command)
        step = Step(obs, decision.command, executed, filtered.flags, decision)
        steps += 1
        for sink in sinks:
            sink.add(step)
        missed = max(0, int((clock.now() - start) / period + 1e-9) - slot)
        overruns += missed
        slot += missed + 1
    arm.hold()
    return EpisodeResult(end, _loop_stats(tick_times, period, steps, overruns, limited))


def _observe_or_hold(
    arm: ArmDriver, cameras: Mapping[str, Camera], clock: Clock, cfg: LoopCfg
) -> tuple[Observation, bool]:
    """The next observation that is fresh all over, and whether the arm had to hold until it came.

    Raises StaleReading if none came for `cfg.stale_hold_s`. The schedule's slots that have passed count as overruns.
    """
    held, deadline = False, clock.now() + cfg.stale_hold_s
    while True:
        try:
            return observe(arm, cameras, clock, cfg.max_frame_age_s), held
        except StaleReading:
            arm.hold()
            if (now := clock.now()) >= deadline:
                raise
            held = True
            clock.sleep_until(min(deadline, now + RETRY_S))


def observe(arm: ArmDriver, cameras: Mapping[str, Camera], clock: Clock, max_frame_age_s: float) -> Observation:
    """Read the arm, then every camera given."""
    return Observation(
        t=clock.now(),
        arm=arm.read(),
        frames={name: camera.latest(max_age_s=max_frame_age_s) for name, camera in cameras.items()},
    )


def _loop_stats(tick_times: list[float], period: float, steps: int, overruns: int, limited: int) -> LoopStats:
    errors = np.abs(np.diff(tick_times) - period) if len(tick_times) > 1 else np.zeros(1)
    return LoopStats(
        steps=steps,
        overruns=overruns,
        period_p99_error_s=float(np.quantile(errors, 0.99)),
        period_max_error_s=float(errors.max()),
        limited=limited,
    )
