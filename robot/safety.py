"""The filter between whoever decides and the arm: always on, the same object for twin and hardware.

It damages less when something goes wrong; it is not a safety function in the sense of any standard.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Protocol

import numpy as np

from .braking import bounded, braking, largest_change, longest_step
from .errors import SafetyStop
from .safety_cfg import SafetyCfg
from .types import ArmCommand, ArmSpec, ArmState, Floats, SafetyFlag

ENGAGE_FROM = 0.1  # share of the speed limits at the first command
TRIES = 6  # to follow a part of a command that cannot be followed to the full; then it brakes
LOOK_EVERY_RAD = 0.05  # joint motion between two looks at the surroundings
ROUNDING_RAD = 1e-12  # a limit that changes a command by less did not bind


@dataclass(frozen=True, eq=False)
class Filtered:
    """A command that may be sent, and what had to change to make it so."""

    command: ArmCommand
    flags: SafetyFlag


class SafetyFilter(Protocol):
    def reset(self, state: ArmState) -> None: ...

    def __call__(self, cmd: ArmCommand, state: ArmState, dt: float, age_s: float = 0.0) -> Filtered: ...

    def acknowledge(self) -> None: ...


class Place(NamedTuple):
    """The arm at one joint vector."""

    tcp: tuple[float, ...]  # (3,) m
    flag: SafetyFlag  # NONE, WORKSPACE or COLLISION
    what: str  # is wrong there


class _Trouble(NamedTuple):
    flag: SafetyFlag
    what: str
    share: float  # of the command that might do


class Surroundings(Protocol):
    """What the filter knows of the cell; `robot/collision.py` makes one of a rig."""

    def look(self, q: Floats) -> Place: ...


class JointSafety:
    """Finite and shape -> age -> start pose and engage ramp -> joint range -> joint speed -> acceleration and jerk ->
    workspace, collision and tool speed -> tracking.

    Limits hold between consecutive *commands*, so tracking lag cannot wind them up. Every command leaves the joints a way to
    brake to a standstill inside all limits; one that would not is followed in part, or replaced by that braking. A
    SafetyStop latches: nothing passes until an operator has called `acknowledge`, and `reset` the arm's pose.

    Joint limits go before those of the surroundings, and only a start inside them is allowed, so that they never conflict.
    The one exception is an arm that starts beyond its joint range: it comes back at the allowed speed and acceleration.
    """

    def __init__(self, spec: ArmSpec, cfg: SafetyCfg | None = None, surroundings: Surroundings | None = None) -> None:
        """Without `surroundings` there are joint limits only: no workspace, no tool speed, no collisions."""
        self._spec, self._cfg, self._surroundings = spec, cfg or SafetyCfg(), surroundings
        self._low = spec.q_min + self._cfg.joint_margin_rad
        self._high = spec.q_max - self._cfg.joint_margin_rad
        self._fault = ""  # why it stopped, until that is acknowledged
        self._q: Floats | None = None  # the last command, at first the measured pose
        self._forget()

    def reset(self, state: ArmState) -> None:
        """Start anew: the next command is compared with the pose measured in `state`, and speeds rise from low.

        Raises SafetyStop if that pose is not finite (every comparison with it would pass), outside the workspace or
        too close to something, or if an earlier stop has not been acknowledged.
        """
        self._refuse_if_latched()
        self._check_measured(state)
        self._forget()
        self._q = self._target = state.q.copy()
        self._gripper = min(max(state.gripper, 0.0), 1.0)
        if self._surroundings is not None:
            place = self._surroundings.look(self._q)
            if place.flag:
                self._q = None
                self._stop(f"{self._spec.name} cannot start here: {place.what}; guide it away by hand")
            self._tcp = place.tcp

    def acknowledge(self) -> None:
        """An operator has seen why the filter stopped, and that it is safe to go on: the next `reset` is accepted."""
        self._fault, self._q = "", None

    def __call__(self, cmd: ArmCommand, state: ArmState, dt: float, age_s: float = 0.0) -> Filtered:
        """Limit `cmd`, whose decision is based on an observation `age_s` old; `dt` is the time until the next command, s.

        Raises SafetyStop on nonsense, on a first command far from the arm, when nothing can be followed for too long, when
        the arm does not follow, and as long as such a stop has not been acknowledged.
        """
        self._refuse_if_latched()
        here = self._check_sane(cmd, state, dt)
        if 0.0 <= age_s <= self._cfg.max_command_age_s:  # a decision from the future is as wrong as an old one
            self._check_start(cmd, here)
            q, flags = self._in_joint_limits(cmd.q, here)
            gripper = min(max(cmd.gripper, 0.0), 1.0)
            if gripper != cmd.gripper:
                flags |= SafetyFlag.GRIPPER_RANGE
            q, followed, flag, why = self._kept_clear(q, here)
            flags |= flag
        else:
            q, gripper, flags = here + braking(self._step, self._change), self._gripper, SafetyFlag.STALE
            self._target = q
            followed, why = False, f"decisions are {age_s:.2f} s old, allowed is {self._cfg.max_command_age_s} s"
        self._blocked_s = 0.0 if followed else self._blocked_s + dt
        if self._blocked_s > self._cfg.blocked_stop_s:
            self._stop(f"no command could be followed for {self._cfg.blocked_stop_s} s: {why}")
        self._check_tracking(state, here, dt)
        self._q, self._step, self._gripper = q, q - here, gripper
        self._engaged_s += dt
        if self._surroundings is not None and self._step.any():
            self._tcp = self._surroundings.look(q).tcp
        return Filtered(ArmCommand(q, gripper), flags)

    # --- joints

    def _in_joint_limits(self, wanted: Floats, here: Floats) -> tuple[Floats, SafetyFlag]:
        """`wanted` (dof,), as far as range, speed, acceleration and jerk allow from `here` on."""
        flags = SafetyFlag.NONE
        target = bounded(wanted, self._low, self._high)
        if (target != wanted).any():
            flags |= SafetyFlag.JOINT_RANGE
        change, longest = self._change, self._speed_share * self._longest
        q = bounded(target, here - longest, here + longest)
        if (q != target).any():
            flags |= SafetyFlag.JOINT_SPEED
        step = q - here
        aimed = step if self._stops_at_once.all() else self._on_course(target, here, step, longest)
        below, above = longest_step(here - self._low, change), longest_step(self._high - here, change)
        in_range = bounded(bounded(aimed, -below, above), -longest, longest)
        smooth = bounded(in_range, self._step - change, self._step + change)
        if np.abs(in_range - aimed).max() > ROUNDING_RAD:
            flags |= SafetyFlag.JOINT_RANGE
        if max(np.abs(smooth - in_range).max(), np.abs(aimed - step).max()) > ROUNDING_RAD:
            flags |= SafetyFlag.JOINT_ACCELERATION
        self._target = target
        # The very numbers that were asked for, if nothing binds.
        return (q if np.abs(smooth - step).max() <= ROUNDING_RAD else here + smooth), flags

    def _on_course(self, target: Floats, here: Floats, step: Floats, longest: Floats) -> Floats:
        """Steps that keep pace with a moving target and catch up with it without running past where it stays."""
        pace = bounded(target - self._target, -longest, longest)
        behind = self._target - here
        distance = np.abs(behind)
        nearing = np.sign(behind) * np.minimum(distance, longest_step(distance, self._change))
        return np.where(self._stops_at_once, step, pace + nearing)

    # --- surroundings

    def _kept_clear(self, q: Floats, here: Floats) -> tuple[Floats, bool, SafetyFlag, str]:
        """`q`, or as much of the way there as leaves room to brake; whether that is any; what is in the way."""
        flags, why = SafetyFlag.NONE, ""
        if self._surroundings is None:
            return q, True, flags, why
        brake = here + braking(self._step, self._change)  # allowed: it was looked at together with the last command
        part, share = q, 1.0
        for _ in range(TRIES):
            trouble = self._trouble(part, here, self._surroundings)
            if trouble is None:
                return part, True, flags, why
            flags, why = flags | trouble.flag, trouble.what
            share *= trouble.share
            part = brake + share * (q - brake)  # joint limits allow both ends, and so what lies between
        return brake, False, flags, why

    def _trouble(self, q: Floats, here: Floats, surroundings: Surroundings) -> _Trouble | None:
        """What would be wrong on the way to `q`, or while braking from there."""
        tcp, step = self._tcp, q - here
        longest_m = self._cfg.tcp_speed_m_s * self._speed_share * self._dt
        while (size := np.abs(step).max()) > 0.0:
            place = surroundings.look(here + step)
            moved_m = math.dist(place.tcp, tcp)
            if moved_m > longest_m:
                what = f"the tool would move at {moved_m / self._dt:.2f} m/s"
                return _Trouble(SafetyFlag.TCP_SPEED, what, 0.95 * longest_m / moved_m)
            if place.flag:
                return _Trouble(place.flag, place.what, 0.5)
            looks = int(size / LOOK_EVERY_RAD)
            for i in range(looks):
                between = surroundings.look(here + step * ((i + 1) / (looks + 1)))
                if between.flag:
                    return _Trouble(between.flag, between.what, 0.5)
            here, tcp, step = here + step, place.tcp, braking(step, self._change)
        return None

    @property
    def _speed_share(self) -> float:
        """Of the speed limits, while the arm has not been engaged for long."""
        ramp = self._cfg.engage_s
        return 1.0 if self._engaged_s >= ramp else ENGAGE_FROM + (1.0 - ENGAGE_FROM) * self._engaged_s / ramp

    # --- refusals

    def _check_sane(self, cmd: ArmCommand, state: ArmState, dt: float) -> Floats:
        """Where the last command is, if this one makes sense after it."""
        if not 0.0 < dt < np.inf:
            self._stop(f"the time until the next command must be positive, got {dt} s")
        if cmd.q.shape != (self._spec.dof,):
            self._stop(f"command has shape {cmd.q.shape}, {self._spec.name} takes ({self._spec.dof},)")
        with np.errstate(over="ignore"):
            vector = cmd.vector  # float32, as it is recorded: what overflows there is nonsense, too
        if not np.isfinite(vector).all():
            bad = [name for name, x in zip(self._spec.action_names, vector, strict=True) if not np.isfinite(x)]
            self._stop(f"command is not finite in {', '.join(bad)}; look at the policy's input and weights")
        self._check_measured(state)
        if self._q is None:
            self._stop("the filter does not know where the arm is; call reset with a measured state first")
        if not self._dt:
            self._set_period(dt)
        elif dt != self._dt:
            self._stop(f"the time until the next command was {self._dt} s and is now {dt} s; it must stay the same")
        return self._q

    def _check_measured(self, state: ArmState) -> None:
        if not np.isfinite(state.q).all():
            bad = [name for name, x in zip(self._spec.joint_names, state.q, strict=True) if not np.isfinite(x)]
            self._stop(f"{self._spec.name} measures no finite position of {', '.join(bad)}; check the arm")

    def _check_start(self, cmd: ArmCommand, here: Floats) -> None:
        """The first command that is followed has to be near the measured pose."""
        if self._started:
            return
        jump = np.abs(cmd.q - here)
        worst = int(jump.argmax())
        if jump[worst] > self._cfg.start_tolerance_rad:
            self._stop(
                f"first command is {jump[worst]:.2f} rad from the measured pose on {self._spec.joint_names[worst]}, "
                f"at most {self._cfg.start_tolerance_rad} rad is allowed; drive the arm to the start pose first"
            )
        self._started = True

    def _check_tracking(self, state: ArmState, commanded: Floats, dt: float) -> None:
        lag = np.abs(state.q - commanded)
        worst = int(lag.argmax())
        self._lagging_s = self._lagging_s + dt if lag[worst] > self._cfg.tracking_rad else 0.0
        if self._lagging_s > self._cfg.tracking_s:
            self._stop(
                f"{self._spec.joint_names[worst]} is {lag[worst]:.2f} rad from its last command, at most "
                f"{self._cfg.tracking_rad} rad is allowed; see what the arm touches or carries"
            )

    def _stop(self, reason: str) -> NoReturn:
        self._fault = reason
        raise SafetyStop(reason)

    def _refuse_if_latched(self) -> None:
        if self._fault:
            raise SafetyStop(f"an operator has to acknowledge the last one first, which was: {self._fault}")

    def _forget(self) -> None:
        """At rest, engaged just now, in a period that the first command will tell."""
        self._started, self._dt = False, 0.0
        self._step = np.zeros(self._spec.dof)
        self._engaged_s = self._blocked_s = self._lagging_s = 0.0

    def _set_period(self, dt: float) -> None:
        self._dt = dt
        cfg, spec = self._cfg, self._spec
        self._longest = cfg.speed_scale * spec.dq_max * dt
        jerk_max = None if spec.jerk_max is None else cfg.jerk_scale * spec.jerk_max
        self._change = largest_change(cfg.acceleration_scale * spec.ddq_max, jerk_max, dt)
        self._stops_at_once = self._longest <= self._change  # joints that need no braking distance
