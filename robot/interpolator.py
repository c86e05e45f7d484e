"""Joint targets that jump into a path that does not: inside velocity, acceleration, jerk and the joint range (Ruckig)."""

from dataclasses import dataclass

import numpy as np
from ruckig import ControlInterface, InputParameter, Result, Ruckig, Synchronization, Trajectory

from .errors import ArmflowError, ConfigError
from .types import ArmSpec, Floats

REST = 1e-6  # rad/s and rad/s^2: slower than this is standing
OVERSHOOT_RAD = 1e-6  # what rounding may add to a position


@dataclass(frozen=True, eq=False)
class MotionLimits:
    """What a path may never exceed; arrays have one entry per joint."""

    q_min: Floats  # rad
    q_max: Floats  # rad
    dq_max: Floats  # rad/s
    ddq_max: Floats  # rad/s^2
    jerk_max: Floats  # rad/s^3

    def __post_init__(self) -> None:
        arrays = (self.q_min, self.q_max, self.dq_max, self.ddq_max, self.jerk_max)
        if self.q_min.ndim != 1 or {a.shape for a in arrays} != {self.q_min.shape} or not np.isfinite(arrays).all():
            raise ConfigError(f"motion limits must be finite vectors of one length, got {[a.shape for a in arrays]}")
        if not (self.q_min < self.q_max).all() or min(self.dq_max.min(), self.ddq_max.min(), self.jerk_max.min()) <= 0:
            raise ConfigError(
                "motion limits need q_min < q_max and a positive velocity, acceleration and jerk per joint"
            )

    @classmethod
    def of(
        cls, spec: ArmSpec, *, margin_rad: float, speed_scale: float, ddq_max: Floats, jerk_max: Floats
    ) -> "MotionLimits":
        """An arm's range less a margin at each end, and a fraction of its speed."""
        return cls(spec.q_min + margin_rad, spec.q_max - margin_rad, speed_scale * spec.dq_max, ddq_max, jerk_max)


@dataclass(frozen=True, eq=False)
class Setpoint:
    """One instant of the path."""

    q: Floats  # rad
    dq: Floats  # rad/s
    ddq: Floats  # rad/s^2


class Interpolator:
    """The path from where it is to the newest target, as fast as the limits allow. Knows no time but the `dt` it is given.

    Every joint moves by itself: none waits for another, and a joint that can stop inside its range always does.
    """

    def __init__(self, limits: MotionLimits, q: Floats) -> None:
        """`q` (dof,) rad: where the path starts, at rest; outside the joint range it only ever leads back in."""
        self.limits = limits
        dof = len(limits.q_min)
        self._ruckig, self._input, self._trajectory = Ruckig(dof), InputParameter(dof), Trajectory(dof)
        self._input.synchronization = Synchronization.No
        self._input.max_velocity, self._input.max_acceleration = limits.dq_max, limits.ddq_max
        self._input.max_jerk = limits.jerk_max
        self._input.target_velocity = self._input.target_acceleration = np.zeros(dof)
        self.setpoint = Setpoint(np.array(q, dtype=np.float64), np.zeros(dof), np.zeros(dof))
        self._elapsed_s = 0.0
        self.aim(self.setpoint.q)

    @property
    def at_rest(self) -> bool:
        return bool(np.abs(self.setpoint.dq).max() < REST and np.abs(self.setpoint.ddq).max() < REST)

    def aim(self, q: Floats) -> Floats:
        """Lead to `q` (dof,) rad from here on; returns the target as clipped to the joint range."""
        target = np.clip(q, self.limits.q_min, self.limits.q_max)
        self._input.control_interface = ControlInterface.Position
        self._input.target_position = target
        self._plan()
        return target

    def brake(self) -> None:
        """Come to rest as soon as the limits allow, every joint in the direction in which it moves, and stay."""
        self._input.control_interface = ControlInterface.Velocity
        self._plan()

    def step(self, dt: float) -> Setpoint:
        """Go on along the path by `dt` s."""
        self._elapsed_s += dt
        q, dq, ddq = self._trajectory.at_time(min(self._elapsed_s, self._trajectory.duration))
        self.setpoint = Setpoint(np.array(q), np.array(dq), np.array(ddq))
        return self.setpoint

    def _plan(self) -> None:
        now = self.setpoint
        self._input.current_position, self._input.current_velocity = now.q, now.dq
        self._input.current_acceleration = now.ddq
        trajectory = Trajectory(len(now.q))  # the old one stays in force if this fails
        result = self._ruckig.calculate(self._input, trajectory)
        if result not in (Result.Working, Result.Finished):
            raise ArmflowError(f"Ruckig finds no path from {now} to {self._input.target_position}: {result}")
        self._trajectory, self._elapsed_s = trajectory, 0.0
