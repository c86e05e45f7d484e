"""Driving to a pose: a straight line in joint space, slow, through the same loop and filter as everything else."""

import numpy as np
from ruckig import InputParameter, Result, Ruckig, Trajectory

from .control import Decision
from .errors import ArmflowError, OperatorNeeded
from .types import ArmCommand, ArmSpec, ControlMode, Floats, Observation

SPEED, ACCELERATION = 0.15, 0.1  # fractions of the arm's limits: someone may be standing there
JERK_S = 0.2  # the acceleration is built up in this time
ARRIVED_RAD = 0.02
PATIENCE_S = 3.0  # of the arm behind the path's end; an impedance controller is a little off for ever


class Homing:
    """CommandSource that ends the episode once the arm has arrived at `q_goal` (dof,) rad. The gripper stays as it is.

    Raises OperatorNeeded if the arm does not get there: something is in its way, or its joints are held.
    """

    def __init__(self, spec: ArmSpec, q_goal: Floats, control_hz: float) -> None:
        self._spec, self._goal, self._period = spec, np.array(q_goal, dtype=np.float64), 1.0 / control_hz
        self._line: _Line | None = None
        self._gripper, self._elapsed_s = 1.0, 0.0

    def wants_frames(self) -> bool:
        return False

    def next(self, obs: Observation) -> Decision | None:
        if self._line is None:
            self._line, self._gripper = _Line(self._spec, obs.arm.q, self._goal), obs.arm.gripper
        self._elapsed_s += self._period
        left = self._line.duration_s - self._elapsed_s
        off = np.abs(obs.arm.q - self._goal)
        if left < -self._period and off.max() < ARRIVED_RAD:  # the end of the line has been asked for
            return None
        if left < -PATIENCE_S:
            name = self._spec.joint_names[int(off.argmax())]
            raise OperatorNeeded(
                f"{self._spec.name} is {off.max():.2f} rad from its goal on {name}: see what is in its way"
            )
        return Decision(ArmCommand(self._line.at(self._elapsed_s), self._gripper), ControlMode.HUMAN)


class _Line:
    """From one joint vector to another, all joints in step: the slowest sets the pace."""

    def __init__(self, spec: ArmSpec, start: Floats, goal: Floats) -> None:
        self._start, self._way = start.copy(), goal - start
        far = np.maximum(np.abs(self._way), 1e-6)
        share = InputParameter(1)  # of the way, 0 to 1
        share.current_position, share.target_position = [0.0], [1.0]
        share.max_velocity = [float((SPEED * spec.dq_max / far).min())]
        share.max_acceleration = [float((ACCELERATION * spec.ddq_max / far).min())]
        share.max_jerk = [share.max_acceleration[0] / JERK_S]
        self._share = Trajectory(1)
        result = Ruckig(1).calculate(share, self._share)
        if result not in (Result.Working, Result.Finished):
            raise ArmflowError(f"Ruckig finds no path from {start} to {goal}: {result}")
        self.duration_s = float(self._share.duration)

    def at(self, t: float) -> Floats:
        """(dof,) rad, `t` s after the start; from `duration_s` on the goal."""
        share, _, _ = self._share.at_time(min(t, self.duration_s))
        return self._start + share[0] * self._way


def seconds_needed(spec: ArmSpec) -> float:
    """At most, for any pose to any other, patience included."""
    turn = float(((spec.q_max - spec.q_min) / (SPEED * spec.dq_max)).max())
    return turn + float((SPEED * spec.dq_max / (ACCELERATION * spec.ddq_max)).max()) + JERK_S + 2 * PATIENCE_S
